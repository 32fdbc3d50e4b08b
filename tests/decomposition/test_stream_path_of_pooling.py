"""ResiDual in the stream of attention-pooled models: what holds exactly, and what only in tendency.

One stream edit cannot know which pooling head will gather which token. It goes through the sum of the pooling heads'
maps, which is exact for a term that all of them gather alike.
"""

from dataclasses import replace

import pytest
import torch

from residual_lens.bases import fit_bases
from residual_lens.interventions import ResiDual
from tests.decomposition.models import ATTENTION_POOLED, KINDS
from tests.reference.residual import rescaled
from tests.tolerances import FLOAT32_TOL, assert_changed, assert_close


def last_heads(hvit):
    return f"L{hvit.cfg.n_layers - 1}"


@torch.no_grad()
@pytest.mark.parametrize("kind", ATTENTION_POOLED)
def test_lambda_one_with_the_mean_is_the_identity_on_both_paths(kind):
    hvit, images = KINDS[kind].wrapped(), KINDS[kind].images()
    bases = fit_bases(hvit, KINDS[kind].images(40, seed=5), units="all")
    residual = ResiDual.from_bases(bases, variant="residual", scales="ones", keep_mean=True)
    expected = hvit(images)
    for path in ("direct", "stream"):
        with residual.attached(hvit, path=path):
            assert_close(hvit(images), expected, FLOAT32_TOL)
    residual.scales.data[0] = 2.0
    with residual.attached(hvit, path="stream"):
        assert_changed(hvit(images), expected)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["siglip-hf", "coca"])
def test_the_direct_effect_on_a_term_that_pooling_heads_gather_alike_is_rd(kind):
    hvit, images = KINDS[kind].wrapped(), KINDS[kind].images()
    name = f"{hvit.cfg.n_layers - 1}_mlp_out"
    bases = fit_bases(hvit, KINDS[kind].images(40, seed=5), units=[name])
    residual = ResiDual.from_bases(bases, variant="residual", seed=3)
    generator = torch.Generator().manual_seed(2)
    term = torch.randn(3, 1, hvit.cfg.d_model, generator=generator)
    seen = []

    def same_at_all_tokens(activation, hook):
        return term.expand_as(activation)

    def look(activation, hook):
        seen.append(activation[:, :1].clone())

    point = hvit.units[name].hook_name
    with hvit.hooks([(point, same_at_all_tokens)]), residual.attached(hvit, path="stream"), hvit.hooks([(point, look)]):
        hvit(images)
    readout = hvit.extract(images).readout
    # The scale that bases were brought to, and weights that every pooling head shares.
    weights = torch.full_like(readout.weights, 1 / (bases.scale * readout.weights.shape[-1]))
    frozen = replace(readout, weights=weights)
    actual = frozen.of_terms(seen[0].expand(-1, weights.shape[-1], -1))
    before = frozen.of_terms(term.expand(-1, weights.shape[-1], -1))
    scales = residual.scales_of(name).tolist()
    expected = torch.stack(
        [rescaled(x, bases[name], scales, variant="residual", keep_mean=False) for x in before.double()]
    )
    seen_by_map = torch.linalg.pinv(hvit.direct_map(), rtol=1e-6) @ hvit.direct_map()
    assert_changed(actual, before)
    # What no stream term can write (the map's rank is below d_out) stays.
    change = (expected - before.double()) @ seen_by_map
    assert_close(actual.double() - before.double(), change, 10 * FLOAT32_TOL)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["siglip-hf", "coca"])
def test_small_edits_of_the_last_heads_tend_the_same_way_on_both_paths(kind):
    hvit, images = KINDS[kind].wrapped(), KINDS[kind].images(8)
    bases = fit_bases(hvit, KINDS[kind].images(60, seed=5), units=last_heads(hvit))
    before = hvit(images)
    cosines = []
    for seed in range(3):
        residual = ResiDual.from_bases(bases, variant="residual", scales="ones", keep_mean=True)
        noise = torch.randn(residual.scales.shape, generator=torch.Generator().manual_seed(seed))
        residual.scales.data.add_(0.1 * noise)
        changes = []
        for path in ("direct", "stream"):
            with residual.attached(hvit, path=path):
                changes.append(hvit(images) - before)
        cosines.append(torch.cosine_similarity(*changes, dim=-1).mean())
    # About 0.55 and 0.76 here, where one token's map gives 0.96.
    assert torch.stack(cosines).mean() > 0.4
