"""A step on cached coordinates is the step on images: same loss, same gradients."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from residual_lens.activations import extraction
from residual_lens.bases import fit_bases
from residual_lens.decomposition import Decomposition
from residual_lens.errors import InputError, MismatchError
from residual_lens.interventions import Adapter, ResiDual
from residual_lens.text import ZeroShotClassifier
from residual_lens.training import Coarse, LinearAdapter
from residual_lens.training.cached import cache_samples, contributions, coordinates
from residual_lens.training.cached.plan import Plan
from tests.activations.stores import wrapped
from tests.reference.training import naive_embeddings, naive_loss
from tests.tolerances import FLOAT32_TOL, FLOAT64_TOL, GRADIENT_TOL, assert_close
from tests.training.cached.tiny import LABELS, ROWS, N, adapters, sources
from tests.training.toy import toy_classifier

KINDS = [("ViT-B-16", "own"), ("ViT-B-16", "uniform"), ("avg-norm-before-pool", "uniform"), ("siglip-timm", "own")]


def moved(adapter: Adapter) -> Adapter:
    generator = torch.Generator().manual_seed(3)
    for parameter in adapter.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return adapter


def step(embedding: Tensor, classifier: ZeroShotClassifier, adapter: Adapter) -> tuple[Tensor, ...]:
    """Loss and gradients."""
    loss = cross_entropy(classifier.logits(embedding), LABELS[ROWS])
    return loss, *torch.autograd.grad(loss, list(adapter.parameters()))


def assert_same(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], tol: float) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert other.abs().max() > 0
        assert_close(mine, other, tol)


@pytest.mark.parametrize(("kind", "center"), KINDS)
def test_every_adapter_takes_the_same_step_on_coordinates_as_with_hooks(kind, center, tmp_path):
    hvit, store, samples, pixels = sources(kind, center, tmp_path)
    classifier = toy_classifier(hvit)
    both = [(store, store.decompose(ROWS)), (samples, Decomposition(samples.decomposition.values[ROWS], hvit.units))]
    for adapter in map(moved, adapters(hvit, store)):
        with adapter.attached(hvit):
            live = step(hvit(pixels[ROWS]), classifier, adapter)
            for source, parts in both:
                ours = step(coordinates(adapter, source, labels=LABELS).embed(adapter, ROWS), classifier, adapter)
                assert_same(ours, step(hvit.recompose(parts), classifier, adapter), FLOAT32_TOL)
                assert_same(ours, live, FLOAT32_TOL)


@pytest.mark.parametrize("center", ["own", "uniform"])
def test_a_step_in_float64_is_the_twins(center, tmp_path):
    hvit, store, _, pixels = sources("ViT-B-16", center, tmp_path)
    classifier, names = toy_classifier(hvit), hvit.units.names
    parts = store.decompose(dtype=torch.float64)
    # The store's embeddings are the model's own, which no unit's value tells to more than float32.
    missing = store.embeddings().double() - parts.total()
    exact = cache_samples(wrapped("ViT-B-16", center=center, dtype=torch.float64), pixels.double(), LABELS)
    for adapter in map(moved, adapters(hvit, store)):
        adapter.double()
        for source, values, gap in ((store, parts.values, missing), (exact, exact.decomposition.values, 0 * missing)):
            cached = coordinates(adapter, source, labels=LABELS, dtype=torch.float64)
            ours = step(cached.embed(adapter, ROWS), classifier, adapter)
            drops = isinstance(adapter, ResiDual) and adapter.config.variant == "residual*"
            embeddings = twin(adapter, values[ROWS], names) + (0 if drops else gap[ROWS])
            loss = naive_loss(adapter.mapped(embeddings), classifier.weights, LABELS[ROWS], classifier.logit_scale)
            assert_close(ours[0], loss, FLOAT64_TOL)
            for mine, theirs in zip(ours[1:], torch.autograd.grad(loss, list(adapter.parameters())), strict=True):
                assert_close(mine, theirs, GRADIENT_TOL)


def twin(adapter: Adapter, values: Tensor, names: tuple[str, ...]) -> Tensor:
    """What the naive formulas make of contributions, before an output adapter."""
    if isinstance(adapter, ResiDual):
        config = adapter.config
        scales = {name: adapter.scales_of(name) for name in config.units}
        rows = [(r, row, unit.name) for r in adapter._rescalings for row, unit in enumerate(r.units)]
        bases = {name: SimpleNamespace(mean=r.mean[row], components=r.components[row]) for r, row, name in rows}
        return naive_embeddings(values, names, scales, bases, variant=config.variant, keep_mean=config.keep_mean)
    if isinstance(adapter, Coarse):
        heads = [name for name in names if "H" in name]
        return naive_embeddings(values, names, dict(zip(heads, adapter.scales.flatten(), strict=True)), None)
    return naive_embeddings(values, names, {}, None)


@pytest.mark.parametrize("center", ["own", "uniform"])
def test_rounding_of_a_model_in_half_precision_is_scaled_with_its_unit(center, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "BLOCK_ROWS", 8)
    hvit, store, samples, _ = sources("ViT-B-16", center, tmp_path, dtype=torch.bfloat16)
    assert len(list(store.blocks())) == 2
    classifier = toy_classifier(hvit)
    # Of one layer alone, too: its rounding is another in each block.
    one_layer = ResiDual.from_bases(fit_bases(store, units=["L1H0", "L1H2"]))
    for adapter in (*map(moved, adapters(hvit, store)), one_layer):
        with adapter.attached(hvit):
            for source, parts in ((store, store.decompose(ROWS)), (samples, samples.decomposition)):
                values = parts.values if source is store else parts.values[ROWS]
                hooked = step(hvit.recompose(Decomposition(values, hvit.units)), classifier, adapter)
                ours = step(coordinates(adapter, source, labels=LABELS).embed(adapter, ROWS), classifier, adapter)
                assert_same(ours, hooked, FLOAT32_TOL)


@pytest.mark.parametrize("source", [1, 2], ids=["store", "memory"])
@pytest.mark.parametrize(
    "rows", [[7, 2, 2, 11, 0], slice(9, 2, -3), torch.arange(N) % 4 == 1, [5]], ids=["places", "slice", "mask", "one"]
)
def test_samples_come_in_the_order_asked_for(made, source, rows, monkeypatch):
    # Several blocks, so that rows of one block lie apart.
    monkeypatch.setattr(contributions, "BLOCK_ROWS", 4)
    adapter, whole = made[3], coordinates(made[3], made[source], labels=LABELS)
    order = np.arange(N)[rows].copy()
    chosen = coordinates(adapter, made[source], rows=rows, labels=LABELS[order])
    assert torch.equal(chosen.labels, LABELS[order])
    assert_close(chosen.base, whole.base[order], FLOAT64_TOL)
    assert_close(chosen.values, whole.values[order], FLOAT64_TOL)


def test_labels_are_the_sources_own(made):
    _, store, samples, adapter = made
    known = (store.labels >= 0).nonzero().flatten()
    assert torch.equal(coordinates(adapter, store, rows=known).labels, store.labels[known])
    assert torch.equal(coordinates(adapter, samples, rows=[4, 2]).labels, LABELS[[4, 2]])


def test_scales_of_one_give_the_models_own_embedding_from_bfloat16_too(made):
    store = made[1]
    adapter = ResiDual.from_bases(fit_bases(store), scales="ones", keep_mean=True)
    short = coordinates(adapter, store, labels=LABELS, dtype=torch.bfloat16)
    assert (short.values.dtype, short.directions.dtype, short.base.dtype) == (torch.bfloat16,) * 2 + (torch.float32,)
    full = coordinates(adapter, store, labels=LABELS)
    assert_close(short.values, full.values, 2**-8)
    # Exact but for the sum of the coordinates' share, which is rounded once.
    share = (store.embeddings() - short.base).abs().max() / store.embeddings().abs().max()
    assert_close(short.embed(adapter, ROWS), store.embeddings(ROWS), 2**-8 * float(share) + FLOAT32_TOL)
    assert_close(short.base, store.embeddings() - (short.values.float() @ short.directions.float()), FLOAT32_TOL)


def test_another_model_is_refused_by_name(made, tmp_path):
    _, store, samples, adapter = made
    config = adapter.config
    for change, message in (
        ({"fingerprint": "0" * 64}, "with other weights .fingerprint 000000000000…"),
        ({"center": "uniform"}, "with center='uniform', the wrapper has center='own'"),
        ({"units": ("L9H9", *config.units[1:])}, "rescales L9H9, which .* does not have .3 layers × 3 heads."),
        ({"d_out": 7}, "whose embedding has 7 dimensions; .*'s has 20"),
    ):
        other = ResiDual(replace(config, **change))
        with pytest.raises(MismatchError, match=message):
            coordinates(other, store, labels=LABELS)
        if "fingerprint" not in change:
            with pytest.raises(MismatchError, match=message):
                coordinates(other, samples)
    with pytest.raises(MismatchError, match=r"for \[2, 3\] layers × heads, .* has \[3, 3\]"):
        coordinates(Coarse(2, 3), store, labels=LABELS)
    with pytest.raises(MismatchError, match=r"embeddings of 7 dimensions, .* has 20"):
        coordinates(LinearAdapter(7), store, labels=LABELS)


def test_coordinates_know_their_model(made):
    hvit, store, samples, adapter = made
    coordinates(adapter, store, labels=LABELS).require_model(hvit)
    coordinates(adapter, samples).require_model(hvit)
    with pytest.raises(MismatchError, match="model_fingerprint is"):
        coordinates(adapter, store, labels=LABELS).require_model(wrapped("layerscale"))
    with pytest.raises(MismatchError, match="d_out is 20 of these coordinates, 32"):
        coordinates(adapter, samples).require_model(wrapped("siglip-timm"))


@pytest.mark.parametrize("source", [1, 2], ids=["store", "memory"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": [], "labels": LABELS[:0]}, "the split is empty|Rows are a slice"),
        ({"rows": slice(0, 0), "labels": LABELS[:0]}, "No samples were chosen: the split is empty"),
        ({"rows": [12], "labels": LABELS[:1]}, "0 to 11"),
        ({"labels": LABELS[:5]}, "one label a sample, got 5 labels for 12 samples"),
        ({"labels": LABELS - 1}, r"4 of 12 samples have no label \(they have −1\): leave them out with rows="),
        ({"labels": LABELS, "dtype": torch.float16}, "dtype must be one of torch.float32"),
    ],
)
def test_bad_input_is_refused(made, source, options, message, monkeypatch):
    monkeypatch.setattr(Plan, "write_samples", None)
    with pytest.raises(InputError, match=message):
        coordinates(made[3], made[source], **options)


def test_images_without_labels_and_adapters_without_a_cached_form_are_refused(made):
    _, store, _, adapter = made
    with pytest.raises(InputError, match="2 of 12 samples have no label"):
        coordinates(adapter, store)

    class InTheStream(Coarse):
        cached_form = Adapter.cached_form

    with pytest.raises(InputError, match="InTheStream changes more than direct contributions tell of: train it live"):
        coordinates(InTheStream(3, 3), store, labels=LABELS)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_contributions_that_are_not_finite_are_refused(made, bad):
    hvit, store, samples, _ = made
    values = samples.decomposition.values.clone()
    values[7, hvit.units.position("L1H1"), 3] = bad
    broken = replace(samples, decomposition=Decomposition(values, hvit.units))
    for adapter in adapters(hvit, store):
        with pytest.raises(InputError, match="sample 7 are not finite"):
            coordinates(adapter, broken)


def test_whole_heads_take_as_few_coordinates_as_they_are_exact_in(made):
    hvit, store, samples, _ = made
    coarse = Coarse(3, 3)
    assert coordinates(coarse, store, labels=LABELS).values.shape[1] == 9 * (hvit.cfg.d_head + 1)
    assert coordinates(coarse, samples).values.shape[1] == 9 * (hvit.cfg.d_head + 1)
    # Where frames are unknown, or something else was added to a head, as many as the embedding has.
    unknown = coordinates(coarse, replace(samples, frames=None))
    assert unknown.values.shape[1] == 9 * 20
    assert_close(unknown.embed(coarse, ROWS), samples.decomposition.total()[ROWS], FLOAT32_TOL)
    values = samples.decomposition.values.clone()
    values[3, hvit.units.position("L1H1")] += 1
    edited = replace(samples, decomposition=Decomposition(values, hvit.units))
    assert coordinates(coarse, edited).values.shape[1] == 8 * (hvit.cfg.d_head + 1) + 20


def test_each_coordinate_takes_the_scale_that_its_index_names(made):
    whole, adapter = coordinates(made[3], made[2]), made[3]
    order = torch.randperm(len(whole.index), generator=torch.Generator().manual_seed(0))
    for some in (order, order[:5]):
        parts = {"values": whole.values[:, some], "directions": whole.directions[some], "index": some}
        expected = whole.base + (whole.values[:, some] * adapter.scales[some]) @ whole.directions[some]
        assert_close(replace(whole, **parts).embed(adapter, ROWS), expected[ROWS], FLOAT32_TOL)


def test_progress_is_shown_on_request(made, capsys):
    coordinates(made[3], made[1], labels=LABELS)
    assert not capsys.readouterr().err
    coordinates(made[3], made[1], labels=LABELS, progress=True)
    assert "coordinates: 100%" in capsys.readouterr().err


@torch.no_grad()
def test_autocast_rounds_what_is_scaled_and_not_the_base(made):
    _, _, samples, adapter = made
    cached, before = coordinates(adapter, samples), adapter.scales.clone()
    try:
        adapter.scales.zero_()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(cached.embed(adapter, ROWS), cached.base[ROWS])
    finally:
        adapter.scales.copy_(before)
