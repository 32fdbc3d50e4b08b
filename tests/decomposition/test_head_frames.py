"""Low-rank coordinates of heads are isometric to their contributions and lift back to them."""

import pytest
import torch

from residual_lens.errors import MismatchError
from residual_lens.hooked.vit import HookedViT
from tests.hooked.running import listening
from tests.tiny_models import KINDS, UNIFORM_KINDS, tiny_images, tiny_tower
from tests.tolerances import FLOAT32_TOL, FLOAT64_TOL, assert_close

CENTRED = [(kind, "own") for kind in KINDS] + [(kind, "uniform") for kind in UNIFORM_KINDS]


def coordinates_and_contributions(hvit, images, center="own"):
    terms = hvit.extract(images, center=center)
    frames = hvit.head_frames(center=center)
    return frames, frames.coordinates(terms.head_features()), hvit.decompose(images, center=center).select("heads")


@pytest.mark.parametrize(("kind", "center"), CENTRED)
def test_coordinates_lift_to_the_contributions(kind, center):
    tower = tiny_tower(kind)
    hvit = HookedViT.wrap(tower)
    frames, coordinates, contributions = coordinates_and_contributions(hvit, tiny_images(tower), center)
    assert frames.units == tuple(unit.name for unit in hvit.units.select("heads"))
    assert_close(frames.lift(coordinates), contributions, FLOAT32_TOL)


@pytest.mark.parametrize(("kind", "center"), CENTRED)
def test_norms_distances_and_inner_products_are_kept(kind, center):
    tower = tiny_tower(kind).double()
    hvit = HookedViT.wrap(tower)
    images = tiny_images(tower, batch=6).double()
    frames, coordinates, contributions = coordinates_and_contributions(hvit, images, center)
    low, high = coordinates.transpose(0, 1), contributions.transpose(0, 1)
    assert_close(low.norm(dim=-1), high.norm(dim=-1), FLOAT64_TOL)
    assert_close(low @ low.mT, high @ high.mT, FLOAT64_TOL)
    # Squares of differences, because cdist's own shortcut loses digits for near pairs.
    distances = [(x[:, :, None] - x[:, None]).square().sum(dim=-1).sqrt() for x in (low, high)]
    assert_close(*distances, 10 * FLOAT64_TOL)
    identity = torch.eye(frames.frames.shape[1], dtype=torch.float64).expand(len(frames.units), -1, -1)
    assert_close(frames.frames @ frames.frames.mT, identity, FLOAT64_TOL)


# [z/σ, 1/σ], and [m/σ, 1] as well for "uniform".
@pytest.mark.parametrize(("center", "rank"), [("own", 8 + 1), ("uniform", 8 + 3)])
def test_rank_is_that_of_one_head_and_not_of_the_embedding(hvit, images, center, rank):
    frames, coordinates, _ = coordinates_and_contributions(hvit, images, center)
    assert hvit.cfg.d_head == 8
    assert coordinates.shape == (3, 9, rank)
    assert frames.frames.shape == (9, rank, hvit.cfg.d_out)


def test_features_are_differentiable(hvit, images):
    images = images.requires_grad_()
    _, coordinates, contributions = coordinates_and_contributions(hvit, images)
    probe = torch.randn(contributions.shape, generator=torch.Generator().manual_seed(3))
    lifted = hvit.head_frames().lift(coordinates)
    (ours,) = torch.autograd.grad((lifted * probe).sum(), images, retain_graph=True)
    (theirs,) = torch.autograd.grad((contributions * probe).sum(), images)
    assert_close(ours, theirs, 10 * FLOAT32_TOL)


def test_features_are_refused_where_a_hook_may_rewrite_what_heads_add(hvit, images):
    with listening(hvit, "blocks.1.attn.hook_result"):
        terms = hvit.extract(images)
        assert terms.written == [False, True, False]
        with pytest.raises(MismatchError, match="hook_result is hooked"):
            terms.head_features()
        assert_close(terms.contributions(), hvit.decompose(images).values, FLOAT32_TOL)
