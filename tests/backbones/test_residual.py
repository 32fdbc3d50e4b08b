"""ResiDual on both paths through every backbone."""

import pytest
import torch

from residual_lens.bases import Bases, fit_bases
from residual_lens.hooked.vit import HookedViT
from residual_lens.interventions import ResiDual
from tests.backbones.backbone import Backbone, images_of
from tests.backbones.models import BACKBONES
from tests.tolerances import FLOAT32_TOL, assert_changed, assert_close

PATHS = ("direct", "stream")
IDENTITY_TOL = {"direct": FLOAT32_TOL, "stream": 10 * FLOAT32_TOL}
"""On the stream path an edit passes a pseudo-inverse whose condition is about ten."""


def prepared(backbone: Backbone) -> tuple[HookedViT, Bases, torch.Tensor]:
    """A wrapped model, bases of images that no test edits, and three others."""
    hvit = HookedViT.wrap(backbone.build(), head=backbone.head)
    size = hvit.cfg.image_size
    return hvit, fit_bases(hvit, images_of(size, 40, seed=5)), images_of(size)


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.name)
def test_residual_is_the_identity_at_ones_and_trains_elsewhere(backbone: Backbone) -> None:
    hvit, bases, images = prepared(backbone)
    before = hvit(images).detach()
    identity = ResiDual.from_bases(bases, variant="residual", scales="ones", keep_mean=True)
    drawn = {variant: ResiDual.from_bases(bases, variant=variant, seed=3) for variant in ("residual", "residual*")}
    heads = [name for name in bases if name.startswith("L")]
    assert identity.config.units == tuple(bases)
    assert drawn["residual*"].config.units == tuple(heads)
    for path in PATHS:
        with torch.no_grad(), identity.attached(hvit, path=path):
            assert_close(hvit(images), before, IDENTITY_TOL[path])
        for variant, residual in drawn.items():
            with residual.attached(hvit, path=path):
                edited = hvit(images)
                with torch.no_grad():
                    parts = hvit.decompose(images)
            assert edited.isfinite().all()
            assert_changed(edited, before)
            assert_close(parts.total(), edited, IDENTITY_TOL[path])
            (gradient,) = torch.autograd.grad(edited.square().sum(), residual.scales)
            assert (gradient != 0).all(), f"{path}, {variant}: no gradient reaches some of λ"
            if variant == "residual*":
                kept = [name for name in parts.units.names if bool(parts[name].any())]
                assert kept == heads
    assert torch.equal(hvit(images), before)
