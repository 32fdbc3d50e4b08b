"""Towers as `open_clip.create_model(..., precision="bf16")` makes them: half precision, but norms in float32."""

import open_clip
import pytest
import torch

from residual_lens.errors import InputError
from residual_lens.hooked.vit import HookedViT
from tests.tiny_models import source_embedding, tiny_clip, tiny_images
from tests.tolerances import BFLOAT16_SUM_TOL, assert_close


@pytest.mark.parametrize("kind", ["ViT-B-16", "clipa", "avg-norm-before-pool"])
def test_mixed_precision_towers_are_taken_as_they_are(kind):
    model = tiny_clip(kind)
    open_clip.model.convert_weights_to_lp(model, torch.bfloat16)
    assert model.visual.ln_post.weight.dtype == torch.float32
    images = tiny_images(model).to(torch.bfloat16)
    hvit = HookedViT.wrap(model)
    assert hvit.dtype == torch.bfloat16
    expected = source_embedding(model, images)
    assert_close(hvit(images), expected, BFLOAT16_SUM_TOL)
    with hvit.hooks([(lambda name: True, lambda activation, hook: None)]):
        assert_close(hvit(images), expected, BFLOAT16_SUM_TOL)
    for center in ("own", "uniform"):
        total = hvit.decompose(images, center=center).values.float().sum(dim=1)
        assert_close(total, expected.float(), BFLOAT16_SUM_TOL)


def test_images_of_the_wrong_dtype_are_refused_with_the_right_one():
    model = tiny_clip("ViT-B-16")
    open_clip.model.convert_weights_to_lp(model, torch.bfloat16)
    with pytest.raises(InputError, match=r"call images.to\(torch.bfloat16\)"):
        HookedViT.wrap(model)(tiny_images(model))
