"""A store gives the contributions that `hvit.decompose` gives."""

import pytest
import torch

from residual_lens.activations import extraction
from residual_lens.errors import InputError
from tests.activations.stores import BATCH, contributions, encoded, image_set, pixels_of, relative_by_sample, wrapped
from tests.decomposition.models import KINDS
from tests.tolerances import assert_close

TOLERANCES = {"float32": 1e-6, "int16": 1e-4, "float16": 1e-3, "bfloat16": 1e-2}
"""Relative, of every unit of every sample: a few roundings of float32, 15 bits, and the 11 and 8 of the half precisions
through maps that add some of them up."""
IMAGES = 10
TOKENS = ("ViT-B-16", "layerscale", "rotary-timm", "grouped-queries", "projection-with-bias", "normed-queries")
MEANS = ("avg-norm-before-pool", "avg-norm-after-pool", "rms-mean-before-norm", "rms-mean-after-norm")
POOLED = ("coca", "siglip-timm", "map-with-prefix", "rms-map", "perception-encoder")
EMBEDDING_TOL = 2e-6
"""The last block runs for more tokens when its terms are recorded, and rounds otherwise."""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(extraction, "BLOCK_ROWS", 2 * BATCH)


def assert_exact(hvit, path, tolerance, **arguments):
    images = image_set(IMAGES, hvit.cfg.image_size)
    expected = contributions(hvit, images)
    with encoded(hvit, images, path, **arguments) as store:
        actual = store.decompose()
        assert actual.units == hvit.units == store.units
        varies = expected.norm(dim=-1).amin(dim=0) > 0
        assert relative_by_sample(actual.values[:, varies], expected[:, varies]) <= tolerance
        assert not actual.values[:, ~varies].any()
        with torch.no_grad():
            embeddings = torch.cat([hvit(batch) for batch in pixels_of(hvit, images).split(BATCH)])
        assert_close(store.embeddings(), embeddings.float(), EMBEDDING_TOL)
        assert_close(actual.total(), embeddings.float(), max(tolerance, 2e-6))
        store.check()
        store.require_model(hvit)
        heads = torch.stack([actual[unit.name] for unit in store.heads()], dim=1)
        frames = store.head_frames
        coordinates = frames.coordinates(store.head_features())
        if not store.layout.half_precision:
            assert_close(frames.lift(coordinates), heads, 1e-5)
            assert_close(coordinates.norm(dim=-1), heads.norm(dim=-1), 1e-5)
        assert torch.equal(frames.frames, store.head_frames.frames)
        # Weights of float32 on disk, of the model's own precision here.
        rows = hvit.head_frames().mixing.shape
        assert frames.mixing.shape == rows
    return actual, expected


@pytest.mark.parametrize(
    ("kind", "value_format"),
    [(TOKENS[0], "float16"), (TOKENS[0], "bfloat16")]
    + [(kind, "int16") for kind in (TOKENS[0], MEANS[0], *POOLED[:2])],
)
def test_every_format_keeps_its_precision(kind, value_format, tmp_path):
    assert_exact(wrapped(kind), tmp_path / "a.h5", TOLERANCES[value_format], value_format=value_format)


@pytest.mark.parametrize("kind", [*TOKENS, *MEANS, *POOLED])
def test_every_kind_of_model_is_rebuilt(kind, tmp_path):
    assert_exact(wrapped(kind), tmp_path / "a.h5", TOLERANCES["float32"], value_format="float32")


@pytest.mark.parametrize("value_format", ["float32", "int16"])
@pytest.mark.parametrize("kind", ["ViT-B-16", "avg-norm-before-pool", "rms-token"])
def test_even_shares_are_rebuilt(kind, value_format, tmp_path):
    hvit = wrapped(kind, center="uniform")
    assert_exact(hvit, tmp_path / "a.h5", TOLERANCES[value_format], value_format=value_format)


@pytest.mark.parametrize("center", ["own", "uniform"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_of_half_precision_are_rebuilt_with_their_rounding(center, dtype, tmp_path):
    hvit = wrapped("ViT-B-16", dtype=dtype, center=center)
    assert_exact(hvit, tmp_path / "a.h5", TOLERANCES["float32"], value_format="float32")


def test_attention_pooling_of_half_precision_is_rebuilt(tmp_path):
    assert_exact(wrapped("siglip-timm", dtype=torch.bfloat16), tmp_path / "a.h5", 2e-6, value_format="float32")


@torch.no_grad()
def test_channels_hundreds_of_times_as_large_that_the_final_norm_takes_back_cost_no_precision(tmp_path):
    hvit = wrapped("ViT-B-16")
    hvit.source.ln_post.weight[5] *= 1e-3
    for block in hvit.source.transformer.resblocks:
        block.mlp.c_proj.bias[5] = 300.0
    assert_exact(hvit, tmp_path / "a.h5", TOLERANCES["int16"], value_format="int16")


@torch.no_grad()
def test_massive_activations_are_kept(tmp_path):
    hvit = wrapped("ViT-B-16")
    hvit.source.transformer.resblocks[1].mlp.c_proj.weight[3] *= 1e4
    assert_exact(hvit, tmp_path / "a.h5", TOLERANCES["int16"], value_format="int16")


@pytest.mark.parametrize("value_format", ["float32", "int16"])
def test_stream_values_are_what_hooks_see_at_the_token_that_is_read(value_format, tmp_path):
    hvit, images = wrapped("ViT-B-16"), image_set(BATCH, (32, 32))
    store = encoded(hvit, images, tmp_path / "a.h5", value_format=value_format)
    with torch.no_grad():
        _, cache = hvit.run_with_cache(pixels_of(hvit, images))
    for name in ("L0H0", "L2H2"):
        layer, head = int(name[1]), int(name[3])
        expected = cache[f"blocks.{layer}.attn.hook_z"][:, 0, head]
        assert_close(store.values(name), expected, TOLERANCES[value_format])
    assert_close(store.values("1_mlp_out"), cache["blocks.1.hook_mlp_out"][:, 0], TOLERANCES[value_format])
    assert_close(store.values("embed"), cache["blocks.0.hook_resid_pre"][:, 0], TOLERANCES[value_format])
    assert store.values("L1H1", rows=[2]).shape == (1, 8)
    with pytest.raises(InputError, match="no stream values of bias"):
        store.values("bias")


def test_attention_pooling_has_no_stream_values(tmp_path):
    store = encoded(wrapped("coca"), image_set(BATCH, (64, 64)), tmp_path / "a.h5")
    with pytest.raises(InputError, match="only its contributions: use decompose"):
        store.values("L0H0")


def test_wider_arithmetic_is_given_when_asked_for(tmp_path):
    store = encoded(wrapped(), image_set(5), tmp_path / "a.h5", value_format="float32")
    wide = store.decompose(dtype=torch.float64)
    assert wide.values.dtype == torch.float64
    assert_close(store.decompose().values.double(), wide.values, 1e-6)


@torch.no_grad()
@pytest.mark.parametrize(
    ("value_format", "gain", "said"),
    [
        ("float16", 1e9, "terms of rows 0 to 3: A value of .* does not fit into float16: store as int16 or float32"),
        ("int16", float("nan"), "NaN or infinite"),
    ],
)
def test_values_that_cannot_be_kept_are_refused_with_their_rows(value_format, gain, said, tmp_path):
    hvit = wrapped("ViT-B-16")
    hvit.source.transformer.resblocks[0].mlp.c_proj.bias[0] = gain
    with pytest.raises(InputError, match=said):
        encoded(hvit, image_set(8, (32, 32)), tmp_path / "a.h5", value_format=value_format)


def test_every_kind_is_in_a_list():
    assert {*TOKENS, *MEANS, *POOLED} <= set(KINDS)
