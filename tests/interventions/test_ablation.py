"""Ablations give what a naive sum or a naive edited forward pass gives, from images and from stores."""

import pytest
import torch
from torch import Tensor

from residual_lens.activations import extraction
from residual_lens.errors import InputError, MismatchError
from residual_lens.hooked import HookedViT
from residual_lens.interventions import ablate, keep_only, mean_contributions, scale, steer
from tests.activations.stores import contributions, encoded, image_set
from tests.activations.stores import wrapped as with_inputs
from tests.decomposition.models import ATTENTION_POOLED, KINDS
from tests.hooked.running import listening
from tests.interventions.tiny_bases import hooks_in_force, wrapped
from tests.reference.edits import edited, replaced_and_summed
from tests.tiny_models import tiny_images
from tests.tolerances import FLOAT32_TOL, FLOAT64_TOL, assert_changed, assert_close

# Class token, LayerScale, means before and after the norm, attention pooling without and with MLP, RMSNorm, grouped
# queries, rotary positions with registers.
WIRED = (
    *("ViT-B-16", "layerscale", "avg-norm-before-pool", "coca", "siglip-hf", "rms-mean-before-norm"),
    *("grouped-queries", "dinov3-hf"),
)
DIRECT = (("ViT-B-16", "own"), ("ViT-B-16", "uniform"), ("avg-norm-before-pool", "own"), ("siglip-timm", "own"))
CHOSEN = ("embed", "L0H1", "L0H2", "0_mlp_out", "L1H0", "L1H2", "1_mlp_out")
N_REFERENCE = 70
"""More than one batch."""


def exact(kind: str):
    """A model in float64, the same wrapped, images, and reference images."""
    model = KINDS[kind].model()
    images, reference = KINDS[kind].images().double(), KINDS[kind].images(6, seed=2).double()
    return model, KINDS[kind].wrapped(model.double()), images, reference


def term_of(hvit: HookedViT, images: Tensor, name: str) -> Tensor:
    """What a unit adds to the stream, a head's share of the output bias included."""
    unit, seen = hvit.units[name], []
    point = f"blocks.{unit.layer}.attn.hook_result" if unit.kind == "head" else unit.hook_name
    with hvit.hooks([(point, lambda values, hook: seen.append(unit.read(values)))]):
        hvit(images)
    return seen[0] if unit.kind != "head" else seen[0] + hvit.attention(unit.layer).b_O / hvit.cfg.n_heads


@torch.no_grad()
@pytest.mark.parametrize(("kind", "center"), DIRECT)
@pytest.mark.parametrize("how", ["zero", "mean"])
def test_on_the_direct_path_contributions_are_replaced_in_the_sum(kind, center, how):
    hvit = KINDS[kind].wrapped(center=center)
    images, reference = KINDS[kind].images(), KINDS[kind].images(N_REFERENCE, seed=2)
    before, others = hvit.decompose(images), hvit.decompose(reference)
    units = [*CHOSEN, *(name for name in ("pool_mlp_out", "bias") if name in hvit.units.names)]
    put = {name: (0.0 if how == "zero" else 1.0) * others[name].double().mean(dim=0).expand(3, -1) for name in units}
    expected = replaced_and_summed(before.values, hvit.units.names, put)
    with ablate(hvit, units, how, reference=reference):
        parts = hvit.decompose(images)
        assert_close(hvit(images), expected, FLOAT32_TOL)
        assert_close(hvit.recompose(before), expected, FLOAT32_TOL)
    for name in hvit.units.names:
        assert_close(parts[name], put.get(name, before[name].double()), FLOAT32_TOL)
    assert_changed(expected, before.total())


@torch.no_grad()
@pytest.mark.parametrize("kind", WIRED)
def test_in_the_stream_terms_are_replaced_at_every_token_and_later_layers_respond(kind):
    model, hvit, images, reference = exact(kind)
    before, terms = hvit(images), KINDS[kind].plain(model, reference).stream.terms
    values = {
        ("zero", True): {name: torch.zeros_like(terms[name][0]) for name in CHOSEN if name != "embed"},
        ("mean", True): {name: terms[name].mean(dim=0) for name in CHOSEN},
        ("mean", False): {name: terms[name].mean(dim=(0, 1)) for name in CHOSEN},
    }
    for (how, by_position), by_name in values.items():

        def edit(name, term, by_name=by_name):
            return by_name[name].expand_as(term) if name in by_name else term

        embedding, run = edited(model, images, KINDS[kind].embed, edit, **KINDS[kind].wrapping)
        with ablate(hvit, by_name, how, reference=reference, path="stream", by_position=by_position):
            assert_close(hvit(images), embedding, FLOAT64_TOL)
            assert_close(hvit.decompose(images).total(), embedding, FLOAT64_TOL)
            for name in ("L1H1", "1_mlp_out"):
                assert_close(term_of(hvit, images, name), run.stream.terms[name], FLOAT64_TOL)
        assert_changed(embedding, before)
    assert torch.equal(hvit(images), before)


@torch.no_grad()
def test_the_mlp_of_an_attention_pooling_is_the_same_on_both_paths():
    hvit = KINDS["siglip-timm"].wrapped()
    images, reference = KINDS["siglip-timm"].images(), KINDS["siglip-timm"].images(6, seed=2)
    for how in ("zero", "mean"):
        given = []
        for path in ("direct", "stream"):
            with ablate(hvit, "pool_mlp_out", how, reference=reference, path=path):
                given.append(hvit(images))
        assert_close(given[0], given[1], FLOAT32_TOL)
        assert_changed(given[0], hvit(images))


@torch.no_grad()
@pytest.mark.parametrize("path", ["direct", "stream"])
def test_resampled_units_take_their_values_from_one_sample_together(path):
    hvit = wrapped()
    images, reference = tiny_images(hvit.source, 20), tiny_images(hvit.source, 5, seed=2)
    units = ("L0H1", "L0H2", "0_mlp_out", "L2H0")
    names = [hvit.units[name].direct_hook_name if path == "direct" else hvit.units[name].hook_name for name in units]
    _, given = hvit.run_with_cache(reference, names_filter=names)
    drawn = []
    with ablate(hvit, units, "resample", reference=iter(reference.split(2)), path=path, seed=3):
        for _ in range(2):
            _, seen = hvit.run_with_cache(images, names_filter=names)
            rows = rows_of(hvit, units[0], seen[names[0]], given[names[0]])
            for name, point in zip(units, names, strict=True):
                unit = hvit.units[name]
                assert_close(unit.read(seen[point]), unit.read(given[point])[rows], FLOAT32_TOL)
            drawn.append(rows.tolist())
    assert drawn[0] != drawn[1]
    assert set(drawn[0]) == set(range(5)), "some sample is never drawn"


def rows_of(hvit: HookedViT, name: str, seen: Tensor, given: Tensor) -> Tensor:
    """Which sample each image was given the unit's value of."""
    values, samples = (hvit.units[name].read(x).flatten(1) for x in (seen, given))
    distances = torch.cdist(values, samples)
    assert float(distances.min(dim=1).values.max()) < 1e-4
    return distances.argmin(dim=1)


@torch.no_grad()
@pytest.mark.parametrize("path", ["direct", "stream"])
def test_draws_come_from_the_seed_and_begin_anew_with_the_context(path):
    hvit = wrapped()
    images, reference = tiny_images(hvit.source, 8), tiny_images(hvit.source, 9, seed=2)
    edits = [ablate(hvit, "heads", "resample", reference=reference, path=path, seed=seed) for seed in (0, 0, 1)]
    runs = []
    for edit in (*edits, edits[0]):
        with edit:
            runs.append([hvit(images), hvit.decompose(images).total()])
    assert_changed(runs[0][0], runs[0][1])
    for again in (runs[1], runs[3]):
        assert_close(again[0], runs[0][0], 0.0)
        assert_close(again[1], runs[0][1], 0.0)
    assert_changed(runs[2][0], runs[0][0])


def test_gradient_checkpointing_repeats_the_draw_of_the_forward_pass():
    hvit = wrapped().double()
    images, reference = (tiny_images(hvit.source, 4, seed=seed).double() for seed in (1, 2))
    images.requires_grad_()
    gradients = []
    for checkpoints in (False, True):
        hvit.set_grad_checkpointing(checkpoints)
        with ablate(hvit, ["L0H0", "1_mlp_out"], "resample", reference=reference, path="stream"):
            gradients.append(torch.autograd.grad(hvit(images).square().sum(), images)[0])
    assert_close(gradients[1], gradients[0], FLOAT64_TOL)


@torch.no_grad()
@pytest.mark.parametrize("path", ["direct", "stream"])
def test_keep_only_ablates_every_other_unit(path):
    hvit = wrapped()
    images, reference = tiny_images(hvit.source), tiny_images(hvit.source, 6, seed=2)
    kept = ["embed", "L1H1", "2_mlp_out"]
    others = [name for name in hvit.units.names if name not in kept and (path, name) != ("stream", "bias")]
    for how in ("zero", "mean", "resample"):
        edits = [
            edit(hvit, units, how, reference=reference, path=path)
            for edit, units in ((keep_only, kept), (ablate, others))
        ]
        assert edits[0].units == edits[1].units
        given = []
        for edit in edits:
            with edit:
                given.append(hvit.decompose(images))
        assert torch.equal(given[0].values, given[1].values)
    with keep_only(hvit, kept, path=path):
        parts = hvit.decompose(images)
    nonzero = {name for name in parts.units.names if bool(parts[name].any())}
    assert nonzero == {*kept, "bias"} if path == "stream" else nonzero == {*kept}
    with keep_only(hvit, "all", "mean", reference=reference, path=path) as same:
        assert torch.equal(same(images), hvit(images))


@pytest.fixture
def store_and_model(tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "BLOCK_ROWS", 8)
    hvit = with_inputs("ViT-B-16")
    images = image_set(20, hvit.cfg.image_size)
    with encoded(hvit, images, tmp_path / "store.h5", value_format="float32") as store:
        yield store, hvit, images


@torch.no_grad()
def test_a_store_gives_the_means_of_its_samples(store_and_model):
    store, hvit, image_set_of_store = store_and_model
    images = KINDS["ViT-B-16"].images()
    parts, before = contributions(hvit, image_set_of_store).double(), hvit.decompose(images)
    assert_close(mean_contributions(store), parts.mean(dim=0), FLOAT32_TOL)
    chosen = ("embed", "L0H0", "L2H1", "1_mlp_out", "bias")
    put = {name: parts[:, hvit.units.position(name)].mean(dim=0).expand(3, -1) for name in chosen}
    with ablate(hvit, chosen, "mean", reference=store):
        assert_close(hvit(images), replaced_and_summed(before.values, hvit.units.names, put), FLOAT32_TOL)


@torch.no_grad()
def test_a_store_gives_the_mean_of_what_is_read_for_every_token_of_the_stream(store_and_model):
    store, hvit, _ = store_and_model
    images, units = KINDS["ViT-B-16"].images(), ["embed", "L0H1", "2_mlp_out"]
    with ablate(hvit, units, "mean", reference=store, path="stream", by_position=False):
        _, cache = hvit.run_with_cache(images)
    for name in units:
        unit = hvit.units[name]
        written = unit.read(cache[unit.hook_name])
        assert_close(written, store.values(name).double().mean(dim=0).expand_as(written), FLOAT32_TOL)
    with pytest.raises(InputError, match="no token positions: give reference images, or by_position=False"):
        ablate(hvit, units, "mean", reference=store, path="stream")


@torch.no_grad()
def test_a_store_is_resampled_by_contributions(store_and_model):
    store, hvit, _ = store_and_model
    images, units = KINDS["ViT-B-16"].images(30), ("L0H1", "1_mlp_out", "L2H0")
    given, before = store.decompose(), hvit.decompose(images)
    with ablate(hvit, units, "resample", reference=store, seed=1):
        parts, again = hvit.decompose(images), hvit.recompose(before)
    distances = torch.cdist(parts["L0H1"], given["L0H1"])
    rows = distances.argmin(dim=1)
    assert len(set(rows.tolist())) > 8
    for name in units:
        assert_close(parts[name], given[name][rows], FLOAT32_TOL)
    assert_changed(again, parts.total())
    with pytest.raises(InputError, match="and not at every token: give reference images, or use path='direct'"):
        ablate(hvit, units, "resample", reference=store, path="stream")


def test_stores_that_do_not_serve_are_refused(store_and_model, tmp_path):
    store, _, _ = store_and_model
    other = wrapped(seed=1)
    for how in ("mean", "resample"):
        with pytest.raises(MismatchError, match="model_fingerprint is"):
            ablate(other, "heads", how, reference=store)
    pooled = with_inputs("siglip-timm")
    with (
        encoded(pooled, image_set(5, pooled.cfg.image_size), tmp_path / "pooled.h5") as its_store,
        pytest.raises(InputError, match="attention pooling, and holds contributions but nothing of the stream"),
    ):
        ablate(pooled, "L0H0", "mean", reference=its_store, path="stream", by_position=False)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["layerscale", "siglip-timm"])
def test_stream_maps_say_what_the_edit_does_to_a_units_term(kind):
    _, hvit, images, reference = exact(kind)
    names = ["embed", "L1H1", "1_mlp_out", *(["pool_mlp_out"] if kind in ATTENTION_POOLED else [])]
    direction = torch.randn(hvit.cfg.d_out, generator=torch.Generator().manual_seed(0)).double()
    for name in names:
        before = term_of(hvit, images, name)
        for edit in (
            ablate(hvit, name, path="stream"),
            ablate(hvit, name, "mean", reference=reference, path="stream", by_position=False),
            scale(hvit, {name: -0.5}, path="stream"),
            steer(hvit, name, direction, 2.0, path="stream", scale=3.0),
        ):
            maps = edit.stream_maps()
            assert tuple(maps) == edit.units == (name,)
            with edit:
                assert_close(term_of(hvit, images, name), before @ maps[name].matrix + maps[name].offset, FLOAT64_TOL)


def test_what_no_map_of_the_stream_says_is_refused(hvit):
    images = tiny_images(hvit.source)
    with pytest.raises(InputError, match=r"zero ablation of 1 unit L0H0 .*nothing in the stream: make it with path="):
        ablate(hvit, "L0H0").stream_maps()
    with pytest.raises(InputError, match=r"another mean at every token position.*take by_position=False"):
        ablate(hvit, "L0H0", "mean", reference=images, path="stream").stream_maps()
    with pytest.raises(InputError, match="drawn at random"):
        ablate(hvit, "L0H0", "resample", reference=images, path="stream").stream_maps()


@pytest.mark.parametrize(
    ("units", "arguments", "message"),
    [
        ([], {}, "No units were named"),
        ("L9H9", {}, "There is no unit 'L9H9'"),
        ("bias", {"path": "stream"}, "'bias' is what the final norm"),
        ("L0H0", {"path": "both"}, "path must be 'direct' or 'stream', got 'both'"),
        ("L0H0", {"how": "median"}, "how must be 'zero', 'mean' or 'resample', got 'median'"),
        ("L0H0", {"how": "mean"}, "how='mean' needs reference="),
        ("L0H0", {"how": "resample", "path": "stream"}, "how='resample' needs reference="),
        ("L0H0", {"how": "mean", "reference": []}, "There are no reference images"),
        ("L0H0", {"how": "mean", "reference": torch.zeros(0, 3, 32, 32)}, "got an empty batch"),
        ("L0H0", {"how": "mean", "reference": torch.full((2, 3, 32, 32), torch.nan)}, "hold NaN"),
        ("L0H0", {"how": "resample", "reference": torch.zeros(1, 3, 32, 32)}, "at least 2 samples, this .* has 1"),
    ],
)
@pytest.mark.parametrize("edit", [ablate, keep_only])
def test_what_cannot_be_done_is_refused_when_the_edit_is_made(hvit, edit, units, arguments, message):
    if (edit, units) == (keep_only, "bias"):
        assert "bias" not in keep_only(hvit, "bias", **arguments).units
        return
    with pytest.raises(InputError, match=message):
        edit(hvit, units, **arguments)


def test_a_reference_is_that_of_the_unedited_model(hvit, images):
    with (
        ablate(hvit, "L0H0", path="stream"),
        pytest.raises(MismatchError, match=r"in force at blocks.0.attn.hook_result, .*Make edits outside"),
    ):
        ablate(hvit, "L1H0", "mean", reference=images)
    with listening(hvit, "hook_embed_direct"), pytest.raises(MismatchError, match="in force at hook_embed_direct"):
        ablate(hvit, "L1H0", "resample", reference=images)
    assert hooks_in_force(hvit) == 0


@torch.no_grad()
def test_means_by_position_need_one_number_of_tokens():
    hvit = HookedViT.wrap(KINDS["dinov3-hf"].model())
    small, wide = torch.randn(2, 3, 24, 24), torch.randn(2, 3, 24, 32)
    with pytest.raises(InputError, match=r"of \[24, 24\] and of \[24, 32\] pixels have other token positions"):
        ablate(hvit, "L0", "mean", reference=[small, wide], path="stream")
    edit = ablate(hvit, "L0", "mean", reference=small, path="stream")
    with edit, pytest.raises(InputError, match="has 12 token positions, these images have 15"):
        hvit(wide)
    with ablate(hvit, "L0", "mean", reference=[small, wide], path="stream", by_position=False):
        assert_changed(hvit(wide), hvit(small))
    with ablate(hvit, "L0", "mean", reference=[small, wide]):
        assert hvit(wide).isfinite().all()


def test_with_a_reference_the_mean_is_meant_unless_something_else_is_said(hvit, images):
    assert "mean ablation" in repr(ablate(hvit, "L0H0", reference=images))
    assert "zero ablation" in repr(ablate(hvit, "L0H0"))
    assert "zero ablation" in repr(ablate(hvit, "L0H0", "zero", reference=images))
