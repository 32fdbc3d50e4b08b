"""Ablating, scaling and steering on both paths through every backbone."""

import pytest
import torch
from torch import Tensor

from residual_lens.hooked.root import Hook
from residual_lens.hooked.vit import HookedViT
from residual_lens.interventions import Edit, ablate, keep_only, scale, steer
from tests.backbones.backbone import Backbone, images_of
from tests.backbones.models import BACKBONES
from tests.tolerances import FLOAT64_TOL, assert_changed, assert_close

POINTS = ("blocks.0.attn.hook_result", "blocks.0.hook_mlp_out")
TOL = 10 * FLOAT64_TOL
"""Products through drawn norms and pseudo-inverses lose one more digit."""


def by_hand(hvit: HookedViT, given: dict[str, Tensor], direction: Tensor) -> list[Hook]:
    """The edits of the stream below, spelled out at the points where units write."""
    shares = [hvit.attention(layer).b_O / hvit.cfg.n_heads for layer in range(2)]
    term = torch.linalg.pinv(hvit.direct_map().T, rtol=1e-6) @ direction
    heads, mlp = (given[point].mean(dim=0) for point in POINTS)

    def of_first_layer(values: Tensor, hook: object) -> Tensor:
        scaled = -2.0 * (values[:, :, 0] + shares[0]) - shares[0] + 1.5 * 4.0 * term
        return torch.cat([scaled[:, :, None], heads[:, 1:2].expand_as(values[:, :, 1:2]), values[:, :, 2:]], dim=2)

    def of_last_layer(values: Tensor, hook: object) -> Tensor:
        return torch.cat([values[:, :, :1], -shares[1].expand_as(values[:, :, 1:2]), values[:, :, 2:]], dim=2)

    return [
        (POINTS[0], of_first_layer),
        (POINTS[1], lambda values, hook: mlp.expand_as(values)),
        ("blocks.1.attn.hook_result", of_last_layer),
    ]


@torch.no_grad()
@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.name)
def test_edits_are_what_they_say_on_both_paths(backbone: Backbone) -> None:
    hvit = HookedViT.wrap(backbone.build().double(), head=backbone.head)
    images, reference = (images_of(hvit.cfg.image_size, batch, seed=batch).double() for batch in (2, 3))
    direction = torch.randn(hvit.cfg.d_out, generator=torch.Generator().manual_seed(0)).double()
    direction /= direction.norm()
    before = hvit(images)
    plain, others = hvit.decompose(images), hvit.decompose(reference)

    def edits(path: str) -> list[Edit]:
        return [
            scale(hvit, {"L0H0": -2.0}, path=path),
            ablate(hvit, ["L0H1", "0_mlp_out"], "mean", reference=reference, path=path),
            ablate(hvit, "L1H1", path=path),
            steer(hvit, "L0H0", direction, 4.0, path=path, scale=1.5),
        ]

    first, second, third, fourth = edits("direct")
    with first, second, third, fourth:
        direct = hvit(images)
    moved = {"L0H0": -2.0 * plain["L0H0"] + 4.0 * direction, "L1H1": torch.zeros_like(direct)}
    moved |= {name: others[name].mean(dim=0).expand_as(direct) for name in ("L0H1", "0_mlp_out")}
    expected = plain.total() + sum(value - plain[name] for name, value in moved.items())
    assert_close(direct, expected, TOL)

    _, given = hvit.run_with_cache(reference, names_filter=list(POINTS))
    with hvit.hooks(by_hand(hvit, given, direction)):
        expected = hvit(images)
    first, second, third, fourth = edits("stream")
    with first, second, third, fourth:
        assert_close(hvit(images), expected, TOL)
        parts = hvit.decompose(images)
    assert_close(parts.total(), expected, TOL)
    assert_changed(expected, before)

    with keep_only(hvit, ["embed", "L1H0"], "resample", reference=reference, path="stream"):
        assert_changed(hvit(images), before)
    assert not hvit.hooked_points()
    assert torch.equal(hvit(images), before)
