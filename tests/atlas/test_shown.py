"""Thumbnails are what the model sees; attention is what `run_with_cache` gives, whatever the pooling."""

import base64
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from residual_lens.atlas.shown import SIDE, _pictures, show
from residual_lens.data.preprocessing import Preprocessing
from residual_lens.errors import MismatchError
from residual_lens.hooked import HookedViT
from tests.activations.stores import encoded, image_set, pixels_of, wrapped
from tests.decomposition.models import KINDS

POOLED = ("ViT-B-16", "dinov3-hf", "avg-norm-after-pool", "avg-norm-before-pool", "siglip-timm")
"""One token without and with registers, means after and before the norm, attention."""
PLACES = {"L0H0": [3, 1, 6], "L1H1": [6, 2], "0_mlp_out": [5]}


def shown_by(hvit: HookedViT, tmp_path, by_unit=PLACES, n_images: int = 8, **arguments):
    images = image_set(n_images, hvit.cfg.image_size)
    with encoded(hvit, images, tmp_path / "a.h5") as store:
        return show(hvit, store, images, by_unit, **arguments)


def pooled_attention(hvit: HookedViT, kind: str, layer: int, head: int, n_images: int = 8) -> Tensor:
    """`[image pos]` from cached patterns, by what each kind of model reads."""
    pixels = pixels_of(hvit, image_set(n_images, hvit.cfg.image_size))
    names = [f"blocks.{layer}.attn.hook_pattern", "ln_final.hook_scale", "pool.hook_pattern"]
    _, cache = hvit.run_with_cache(pixels, names_filter=[name for name in names if name in hvit.hook_dict])
    pattern = cache[names[0]][:, head]
    if kind in ("ViT-B-16", "dinov3-hf"):
        return pattern[:, 0]
    if kind == "avg-norm-after-pool":
        return pattern[:, 1:].mean(dim=1)
    scale = cache["ln_final.hook_scale"][..., 0]
    if kind == "avg-norm-before-pool":
        weights = 1 / scale[:, 1:]
        return torch.einsum("bp,bpq->bq", weights, pattern[:, 1:])
    assert kind == "siglip-timm"
    weights = cache["pool.hook_pattern"].sum(dim=1) / scale
    return torch.einsum("bp,bpq->bq", weights, pattern)


@pytest.mark.parametrize("kind", POOLED)
@torch.no_grad()
def test_attention_is_that_of_what_the_embedding_is_read_at(kind, tmp_path):
    hvit = wrapped(kind)
    found = shown_by(hvit, tmp_path, batch_size=3)
    assert {unit: sorted(of) for unit, of in found.attention.items()} == {"L0H0": [1, 3, 6], "L1H1": [2, 6]}
    rows, columns = (size // patch for size, patch in zip(hvit.cfg.image_size, hvit.cfg.patch_size, strict=True))
    for unit, layer, head in (("L0H0", 0, 0), ("L1H1", 1, 1)):
        expected = pooled_attention(hvit, kind, layer, head)[:, hvit.cfg.n_prefix :]
        for place, encoded_bytes in found.attention[unit].items():
            levels = np.frombuffer(base64.b64decode(encoded_bytes), np.uint8)
            assert (len(levels), levels.max()) == (rows * columns, 255)
            # A level is rounded.
            assert np.abs(levels - (255 * expected[place] / expected[place].max()).numpy()).max() < 0.51


def test_attention_of_a_model_in_half_precision_and_of_uniform_centring(tmp_path):
    found = shown_by(wrapped("ViT-B-16", center="uniform", dtype=torch.bfloat16), tmp_path)
    assert sorted(found.attention["L0H0"]) == [1, 3, 6]


def test_thumbnails_are_what_the_model_sees(tmp_path):
    kind = KINDS["ViT-B-16"]
    height, width = kind.image_size
    twice = (2 * height, 2 * width)
    cut = Preprocessing((height, width), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), resize_to=twice)
    hvit = HookedViT.wrap(kind.model(), preprocessing=cut)
    found = shown_by(hvit, tmp_path)
    assert sorted(found.thumbnails) == [1, 2, 3, 5, 6]
    for place, uri in found.thumbnails.items():
        kind_of_file, _, data = uri.partition(",")
        assert kind_of_file == "data:image/webp;base64"
        picture = Image.open(BytesIO(base64.b64decode(data)))
        assert picture.size == (min(width, SIDE), min(height, SIDE))
        # The middle of the image, twice as large.
        image = image_set(8, (height, width))[place][0].resize((2 * width, 2 * height), Image.Resampling.BICUBIC)
        seen = np.asarray(image.crop((width // 2, height // 2, width // 2 + width, height // 2 + height)), float)
        assert np.abs(np.asarray(picture, float) - seen).mean() < 25, (
            "WebP loses much of noise, but another picture is 60 away"
        )
    assert found.thumbnails == shown_by(hvit, tmp_path).thumbnails


def test_large_images_are_scaled_down(tmp_path):
    model = KINDS["ViT-B-16"].model()
    with torch.no_grad():
        picture = torch.rand(1, 3, 4 * SIDE, 2 * SIDE)
    hvit = HookedViT.wrap(
        model, preprocessing=Preprocessing(KINDS["ViT-B-16"].image_size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    )
    assert _pictures(hvit, picture)[0].size == (SIDE // 2, SIDE)


def test_images_that_are_not_there_are_refused(tmp_path):
    hvit = wrapped("ViT-B-16")
    images = image_set(8, hvit.cfg.image_size)
    with (
        encoded(hvit, images, tmp_path / "a.h5") as store,
        pytest.raises(MismatchError, match=r"noise/train has no image bilder/köpfe/006\.png, which .*a\.h5"),
    ):
        show(hvit, store, images.subset(np.arange(6)), PLACES)


def test_other_images_of_the_same_names_are_refused(tmp_path):
    hvit = wrapped("ViT-B-16")
    images = image_set(8, hvit.cfg.image_size)
    with encoded(hvit, images, tmp_path / "a.h5") as store:
        others = images.subset(np.arange(8)[::-1].copy())
        # The same names for other pixels.
        others.sample_id = images.sample_id  # pyright: ignore[reportAttributeAccessIssue]
        with pytest.raises(MismatchError, match=r"of .*a\.h5 is another image than the one that was encoded"):
            show(hvit, store, others, {"L0H0": [0, 1]})
