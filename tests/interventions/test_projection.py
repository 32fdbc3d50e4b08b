"""Projecting directions out of units' terms."""

import pytest
import torch

from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.interventions.projection import project_out
from tests.hooked.running import listening
from tests.interventions.tiny_bases import DIRECT_POOLED, hooks_in_force, wrapped
from tests.tiny_models import tiny_images
from tests.tolerances import FLOAT32_TOL, FLOAT64_TOL, assert_changed, assert_close

STREAM_TOL = 10 * FLOAT64_TOL
"""Through a pseudo-inverse whose condition is about ten."""
UNITS = ("L1H0", "L2H2", "2_mlp_out")


def prepared(kind="ViT-B-16"):
    hvit = wrapped(kind)
    hvit.source.double()
    return hvit, tiny_images(hvit.source).double()


def drawn_directions(count: int, d_out: int = 20) -> list[torch.Tensor]:
    """Directions of different lengths, the last of them a sum of two others."""
    drawn = 3 * torch.randn(count, d_out, generator=torch.Generator().manual_seed(4)).double()
    return [*drawn, 2 * drawn[0] - drawn[-1]]


def without(values: torch.Tensor, directions: list[torch.Tensor]) -> torch.Tensor:
    """The naive twin: one direction after another, each orthogonalised against those before it (Gram, Schmidt)."""
    taken: list[torch.Tensor] = []
    for direction in directions:
        rest = direction.double()
        for earlier in taken * 2:
            rest = rest - (rest @ earlier) * earlier
        if rest.norm() > 1e-5 * direction.norm():
            taken.append(rest / rest.norm())
    for direction in taken:
        values = values - (values @ direction)[..., None] * direction
    return values


def stream_terms(hvit, images):
    with listening(hvit, *(f"blocks.{layer}.attn.hook_result" for layer in range(hvit.cfg.n_layers))):
        terms = hvit.extract(images)
    return {name: terms.heads[int(name[1])][:, :, int(name[3])] for name in UNITS[:2]} | {UNITS[2]: terms.mlps[2]}


@torch.no_grad()
@pytest.mark.parametrize("kind", DIRECT_POOLED)
def test_contributions_lose_the_directions_and_nothing_else(kind):
    hvit, images = prepared(kind)
    directions = drawn_directions(3)
    before = hvit.decompose(images)
    with project_out(hvit, UNITS, directions):
        after, embedding = hvit.decompose(images), hvit(images)
    for name in before.units.names:
        expected = without(before[name], directions) if name in UNITS else before[name]
        assert_close(after[name], expected, FLOAT64_TOL)
    assert_changed(after["L1H0"], before["L1H0"])
    assert_close(embedding, after.total(), FLOAT64_TOL)
    assert hooks_in_force(hvit) == 0


@torch.no_grad()
@pytest.mark.parametrize("kind", DIRECT_POOLED)
def test_terms_in_the_stream_change_as_little_as_their_direct_effect_asks(kind):
    hvit, images = prepared(kind)
    directions = drawn_directions(3)
    to_embedding = hvit.direct_map()
    before = stream_terms(hvit, images)
    # One at a time, so that no later unit responds.
    for name in UNITS:
        with project_out(hvit, name, directions, path="stream"):
            after = stream_terms(hvit, images)[name]
        direct = before[name] @ to_embedding
        expected = torch.stack([without(x, directions) for x in direct.flatten(0, -2)]).reshape(direct.shape)
        assert_changed(expected, direct)
        assert_close(after @ to_embedding, expected, STREAM_TOL)
        change = after - before[name]
        assert_close(change @ to_embedding @ torch.linalg.pinv(to_embedding), change, STREAM_TOL)


@torch.no_grad()
def test_directions_are_one_or_several_of_any_sort():
    hvit = HookedViT.from_pretrained("attribute-clip")
    images = torch.randn(2, 3, *hvit.cfg.image_size, generator=torch.Generator().manual_seed(1))
    names = ["red", "blue"]
    texts = hvit.encode_text(names)
    embeddings = []
    for directions in (names, texts, list(texts), [texts[1], "red"], [5 * texts[0], texts.sum(dim=0)]):
        with project_out(hvit, "L5", directions):
            embeddings.append(hvit(images))
    for embedding in embeddings[1:]:
        assert_close(embedding, embeddings[0], FLOAT32_TOL)
    for one in ("red", texts[0], [texts[0]]):
        with project_out(hvit, "L5", one):
            single = hvit(images)
        assert_changed(single, embeddings[0])


@torch.no_grad()
def test_directions_that_the_stream_reaches_in_part_are_taken_out_as_far():
    """An embedding wider than the stream: 30 dimensions, of which terms reach 23."""
    hvit, images = prepared()
    tower = hvit.source
    tower.proj = torch.nn.Parameter(torch.randn(24, 30, generator=torch.Generator().manual_seed(2)).double())
    hvit = HookedViT.wrap(tower)
    to_embedding = hvit.direct_map()
    reached = torch.linalg.pinv(to_embedding) @ to_embedding
    direction = torch.randn(30, generator=torch.Generator().manual_seed(3)).double()
    before = stream_terms(hvit, images)["2_mlp_out"] @ to_embedding
    with project_out(hvit, "2_mlp_out", direction, path="stream"):
        after = stream_terms(hvit, images)["2_mlp_out"] @ to_embedding
    assert float((after @ direction).abs().max()) < STREAM_TOL * float((before @ direction).abs().max())
    assert_close(after, without(before, [direction @ reached]), STREAM_TOL)
    outside = direction - direction @ reached
    with pytest.raises(InputError, match=r"No term in the stream contributes"):
        project_out(hvit, "2_mlp_out", outside, path="stream")


def test_what_is_refused():
    hvit, _ = prepared()
    direction = torch.ones(20)
    with pytest.raises(InputError, match=r"No directions were given"):
        project_out(hvit, "heads", [])
    with pytest.raises(InputError, match=r"finite length above 0"):
        project_out(hvit, "heads", [direction, 0 * direction])
    with pytest.raises(InputError, match=r"20 coordinates"):
        project_out(hvit, "heads", torch.eye(19))
    with pytest.raises(InputError, match=r"path must be"):
        project_out(hvit, "heads", direction, path="sideways")
    with pytest.raises(InputError, match=r"'bias' is what the final norm"):
        project_out(hvit, ["bias"], direction, path="stream")
    assert repr(project_out(hvit, "L1H0", [direction, -direction])).startswith(
        "Edit(projection of 1 direction out of 1"
    )
