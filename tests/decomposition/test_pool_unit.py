"""The unit `pool_mlp_out`: what the MLP of an attention pooling adds, its hooks, and what analyses make of it."""

import pytest
import torch

from residual_lens.bases import fit_bases
from residual_lens.errors import InputError, MismatchError
from residual_lens.interventions import ResiDual
from residual_lens.training import cache_samples, train_adapter
from tests.decomposition.models import KINDS
from tests.tolerances import FLOAT32_TOL, assert_changed, assert_close
from tests.training.toy import toy_classifier

MAPS = ("siglip-timm", "siglip-hf", "perception-encoder", "rms-map")
STREAM, DIRECT = "pool.hook_mlp_out", "pool.hook_mlp_direct"


@pytest.fixture(scope="module")
def siglip():
    return KINDS["siglip-timm"].wrapped()


@pytest.fixture(scope="module")
def images():
    return KINDS["siglip-timm"].images()


@torch.no_grad()
@pytest.mark.parametrize("kind", MAPS)
def test_its_value_is_what_the_sources_mlp_adds_projected(kind):
    model, images = KINDS[kind].model(), KINDS[kind].images()
    hvit = KINDS[kind].wrapped(model)
    added = []
    head = getattr(model, "attn_pool", None) or model.vision_model.head
    with head.mlp.register_forward_hook(lambda module, args, out: added.append(out)):
        KINDS[kind].embed(model, images)
    expected = added[0].reshape(3, -1)
    expected = expected @ model.head.weight.T if kind == "perception-encoder" else expected
    assert_close(hvit.decompose(images)["pool_mlp_out"], expected, FLOAT32_TOL)


@torch.no_grad()
def test_poolings_without_an_mlp_have_no_such_unit_and_no_such_hooks():
    for kind in ("coca", "ViT-B-16", "dinov3-hf"):
        hvit, images = KINDS[kind].wrapped(), KINDS[kind].images(1)
        assert "pool_mlp_out" not in hvit.units
        assert STREAM not in hvit.hook_dict
        with pytest.raises(InputError, match="pooling has no MLP"):
            hvit.extract(images).pool_contribution()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["siglip-timm", "perception-encoder"])
def test_an_edit_in_the_stream_is_the_units_own(kind):
    hvit, images = KINDS[kind].wrapped(), KINDS[kind].images()
    before, embedding = hvit.decompose(images), hvit(images)
    unit = hvit.units["pool_mlp_out"]
    assert (unit.hook_name, unit.direct_hook_name, unit.index) == (STREAM, DIRECT, None)

    def half(activation, hook):
        return unit.replace(activation, 0.5 * unit.read(activation))

    with hvit.hooks([(STREAM, half)]):
        after = hvit.decompose(images)
        edited = hvit(images)
    assert_close(edited, embedding - 0.5 * before["pool_mlp_out"], FLOAT32_TOL)
    assert_close(after.total(), edited, FLOAT32_TOL)
    assert_close(after["pool_mlp_out"], 0.5 * before["pool_mlp_out"], FLOAT32_TOL)
    others = [i for i, name in enumerate(hvit.units.names) if name != "pool_mlp_out"]
    assert torch.equal(after.values[:, others], before.values[:, others])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["siglip-timm", "perception-encoder"])
def test_a_direct_edit_counts_in_forward_decompose_and_recompose(kind):
    hvit, images = KINDS[kind].wrapped(), KINDS[kind].images()
    before, embedding = hvit.decompose(images), hvit(images)
    seen = []

    def ablate(values, hook):
        seen.append(values.clone())
        return torch.zeros_like(values)

    with hvit.hooks([(DIRECT, ablate)]):
        edited, after, recomposed = hvit(images), hvit.decompose(images), hvit.recompose(before)
    for values in seen:
        assert_close(values, before["pool_mlp_out"], FLOAT32_TOL)
    assert len(seen) == 3
    assert_changed(edited, embedding)
    assert_close(edited, embedding - before["pool_mlp_out"], FLOAT32_TOL)
    assert after["pool_mlp_out"].abs().max() == 0
    assert_close(after.total(), edited, FLOAT32_TOL)
    assert_close(recomposed, edited, FLOAT32_TOL)
    assert_close(hvit.recompose(before), embedding, FLOAT32_TOL)


@torch.no_grad()
def test_in_place_direct_edits_count_too(siglip, images):
    before, embedding = siglip.decompose(images), siglip(images)
    with siglip.hooks([(DIRECT, lambda values, hook: values.mul_(2))]):
        assert_close(siglip(images), embedding + before["pool_mlp_out"], FLOAT32_TOL)


@torch.no_grad()
def test_edits_between_the_mlp_and_the_embedding_are_unowned(siglip, images):
    with siglip.hooks([("hook_pooled", lambda pooled, hook: 2 * pooled)]):
        with pytest.raises(MismatchError, match="no unit owns"):
            siglip.decompose(images)
        assert_changed(siglip(images), siglip(images) / 2 + 1)


@torch.no_grad()
def test_bases_of_all_units_and_of_this_one_alone(siglip):
    images = KINDS["siglip-timm"].images(40, seed=5)
    bases = fit_bases(siglip, images, units="all")
    assert list(bases) == [name for name in siglip.units.names if name != "bias"]
    alone = fit_bases(siglip, images, units=["pool_mlp_out"])
    assert list(alone) == ["pool_mlp_out"]
    values = siglip.decompose(images)["pool_mlp_out"].double()
    variances = torch.linalg.svdvals(values - values.mean(dim=0)).square() / len(values)
    for basis in (bases["pool_mlp_out"], alone["pool_mlp_out"]):
        assert_close(basis.mean, values.mean(dim=0), FLOAT32_TOL)
        ratio = basis.variances[0] / variances[0]
        # Over n or n − 1.
        assert_close(basis.variances, ratio * variances[: len(basis.variances)], 10 * FLOAT32_TOL)
    with pytest.raises(InputError, match="cover no head or mlp"):
        ResiDual.from_bases(alone, variant="residual")


@torch.no_grad()
@pytest.mark.parametrize("path", ["direct", "stream"])
def test_residual_leaves_it_unchanged_and_residual_star_drops_it(siglip, images, path):
    bases = fit_bases(siglip, KINDS["siglip-timm"].images(40, seed=5), units="all")
    before = siglip.decompose(images)["pool_mlp_out"]
    for variant in ("residual", "residual*"):
        residual = ResiDual.from_bases(bases, variant=variant, seed=3)
        assert "pool_mlp_out" not in residual.config.units
        with residual.attached(siglip, path=path):
            after = siglip.decompose(images)
            assert_close(after.total(), siglip(images), 10 * FLOAT32_TOL)
        if variant == "residual*":
            assert after["pool_mlp_out"].abs().max() == 0
        elif path == "direct":
            assert torch.equal(after["pool_mlp_out"], before)
        else:
            # It is computed from what the edited stream was pooled to.
            assert_changed(after["pool_mlp_out"], before)


def test_cached_samples_and_training_run_on_such_a_model(siglip):
    images = KINDS["siglip-timm"].images(24, seed=6)
    labels = torch.arange(24) % 3
    samples = cache_samples(siglip, images, labels)
    assert samples.decomposition.units == siglip.units
    bases = fit_bases(siglip, images)
    residual = ResiDual.from_bases(bases, variant="residual", scales="ones", keep_mean=True)
    rows = torch.arange(4)
    with torch.no_grad(), residual.attached(siglip):
        assert_close(samples.embed(siglip, rows), siglip(images[:4]), FLOAT32_TOL)
    log = train_adapter(
        residual, siglip, toy_classifier(siglip), train=samples, validation=samples, max_epochs=2, batch_size=8
    )
    assert len(log.train_loss) == 2
    assert not torch.equal(residual.scales, torch.ones_like(residual.scales)) or log.best_epoch == 0
