"""Edits come and go with their contexts, in any combination, and act in the order in which they were entered."""

from itertools import permutations

import pytest
import torch

from residual_lens.interventions import ResiDual, ablate, keep_only, scale, steer
from tests.hooked.running import listening
from tests.interventions.tiny_bases import bases_for, hooks_in_force, wrapped
from tests.tiny_models import tiny_images
from tests.tolerances import FLOAT32_TOL, FLOAT64_TOL, assert_changed, assert_close

PATHS = pytest.mark.parametrize("path", ["direct", "stream"])


def edits(hvit, path, units="L1"):
    """One of every sort."""
    reference = tiny_images(hvit.source, 4, seed=2).to(hvit.dtype)
    return [
        ablate(hvit, units, path=path),
        ablate(hvit, units, "mean", reference=reference, path=path),
        ablate(hvit, units, "resample", reference=reference, path=path),
        keep_only(hvit, ["embed", "L2H1"], "mean", reference=reference, path=path),
        scale(hvit, {units: 2.0}, path=path),
        steer(hvit, "L1H1", torch.ones(hvit.cfg.d_out), 3.0, path=path, scale=1.0),
    ]


@torch.no_grad()
@PATHS
def test_an_edit_gives_the_model_is_entered_again_and_leaves_nothing(hvit, images, path):
    before = hvit(images)
    for edit in edits(hvit, path):
        given = []
        for _ in range(2):
            with edit as model:
                assert model is hvit
                assert hooks_in_force(hvit) > 0
                given.append(hvit(images))
            assert hooks_in_force(hvit) == 0
        assert torch.equal(given[0], given[1])
        assert_changed(given[0], before)
        assert torch.equal(hvit(images), before)


@PATHS
def test_no_hook_is_left_after_an_exception(hvit, images, path):
    for edit in edits(hvit, path):

        def fails(edit=edit):
            with edit, scale(hvit, {"heads": 0.5}, path=path), edit:
                hvit(images[:, :, :3])

        with pytest.raises(ValueError, match="Expected a float tensor"):
            fails()
        assert hooks_in_force(hvit) == 0


@torch.no_grad()
def test_an_edit_in_itself_acts_twice(hvit, images):
    before, twice = hvit.decompose(images), scale(hvit, {"L1H0": 3.0})
    with twice:
        with twice:
            assert_close(hvit.decompose(images)["L1H0"], 9 * before["L1H0"], FLOAT32_TOL)
        assert_close(hvit.decompose(images)["L1H0"], 3 * before["L1H0"], FLOAT32_TOL)
    assert hooks_in_force(hvit) == 0


@torch.no_grad()
@PATHS
@pytest.mark.parametrize("unit", ["L1H1", "1_mlp_out", "embed"])
def test_edits_of_a_unit_act_in_the_order_in_which_they_were_entered(path, unit):
    """Whether a mean is put at `z` or behind what was entered before it."""
    hvit = wrapped().double()
    images, reference = (tiny_images(hvit.source, 4, seed=seed).double() for seed in (1, 2))
    double = scale(hvit, {unit: 2.0}, path=path)
    mean = ablate(hvit, unit, "mean", reference=reference, path=path)
    resampled = ablate(hvit, unit, "resample", reference=reference, path=path)

    def value(*entered):
        seen = []
        unit_at = hvit.units[unit]
        point = unit_at.direct_hook_name
        if path == "stream":
            point = "blocks.1.attn.hook_result" if unit_at.kind == "head" else unit_at.hook_name
        contexts = [edit.__enter__() and edit for edit in entered]
        with hvit.hooks([(point, lambda values, hook: seen.append(unit_at.read(values)))]):
            hvit(images)
        for edit in contexts:
            edit.__exit__(None, None, None)
        share = hvit.attention(1).b_O / hvit.cfg.n_heads if (path, unit_at.kind) == ("stream", "head") else 0.0
        return seen[0] + share

    for replacing in (mean, resampled):
        alone = value(replacing)
        assert_close(value(double, replacing), alone, FLOAT32_TOL)
        assert_close(value(replacing, double), 2 * alone, FLOAT32_TOL)
        assert_close(value(double, replacing, double), 2 * alone, FLOAT32_TOL)
    assert_close(value(mean, resampled), value(resampled), FLOAT32_TOL)
    assert_close(value(double, resampled, mean), value(mean), FLOAT32_TOL)
    assert hooks_in_force(hvit) == 0


@torch.no_grad()
@PATHS
def test_contexts_of_all_sorts_may_be_left_in_any_order(hvit, images, path):
    bases, before = bases_for(hvit, units="heads"), hvit(images)
    reference = tiny_images(hvit.source, 4, seed=2)
    mean = ablate(hvit, ["L0H0", "1_mlp_out"], "mean", reference=reference, path=path)
    alone = []
    for order in permutations(range(3)):
        contexts = [mean, ResiDual.from_bases(bases, seed=1).attached(hvit, path=path), listening(hvit, "hook_pooled")]
        for context in contexts:
            context.__enter__()
        both = hvit(images)
        for place, index in enumerate(order):
            contexts[index].__exit__(None, None, None)
            if set(order[place + 1 :]) == {0}:
                alone.append(hvit(images))
                assert_changed(both, alone[-1])
        assert hooks_in_force(hvit) == 0
        assert torch.equal(hvit(images), before)
    with mean:
        assert all(torch.equal(each, hvit(images)) for each in alone)
    assert len(alone) == 2


@torch.no_grad()
@PATHS
def test_hooks_behind_an_edit_may_write_in_place(hvit, images, path):
    for edit in edits(hvit, path):
        edited = [hvit.units[name] for name in edit.units]
        points = {unit.direct_hook_name if path == "direct" else unit.hook_name for unit in edited} - {None}
        in_place = [(point, lambda values, hook: values.mul_(2.0)) for point in points]
        returned = [(point, lambda values, hook: 2.0 * values) for point in points]
        given = []
        for hooks in (in_place, returned):
            with edit, hvit.hooks(hooks):
                given.append(hvit(images))
        assert_close(given[0], given[1], FLOAT32_TOL)


@PATHS
def test_gradients_pass_an_edit(path):
    """Through units that are left alone, scaled or steered, and not through what was replaced."""
    hvit = wrapped().double()
    images = tiny_images(hvit.source).double().requires_grad_()
    direction = torch.randn(hvit.cfg.d_out, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    direction.requires_grad_()
    (whole,) = torch.autograd.grad(hvit(images).square().sum(), images)
    for edit in edits(hvit, path):
        with edit:
            (gradient,) = torch.autograd.grad(hvit(images).square().sum(), images)
        assert gradient.isfinite().all()
        assert_changed(gradient, whole)
    with ablate(hvit, "all", path="direct"):
        (gradient,) = torch.autograd.grad(hvit(images).sum(), images)
    assert float(gradient.abs().max()) < FLOAT64_TOL * float(whole.abs().max())

    def steered(vector):
        with steer(hvit, "L1H1", vector, 2.0, path=path, scale=1.0):
            return hvit(images).square().sum()

    (gradient,) = torch.autograd.grad(steered(direction), direction)
    step = 1e-6 * torch.randn(direction.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        difference = (steered(direction + step) - steered(direction - step)) / 2
    assert_close((gradient * step).sum(), difference, 1e-6)


def test_an_edit_says_what_it_does(hvit):
    assert repr(ablate(hvit, ["L0H1"])) == "Edit(zero ablation of 1 unit L0H1 of VisionTransformer, path='direct')"
    shown = repr(scale(hvit, {"L1": 2.0}, path="stream"))
    assert shown == "Edit(scaling of 4 units L1H0 … 1_mlp_out of VisionTransformer, path='stream')"
    assert repr(keep_only(hvit, "all")) == "Edit(zero ablation of 0 units of VisionTransformer, path='direct')"
