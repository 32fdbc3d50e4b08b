"""Models that take images of any size: other grids than their own equal the source's, halves of patches are refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from residual_lens.errors import InputError
from residual_lens.hooked.vit import HookedViT
from tests.backbones.backbone import Backbone, images_of
from tests.backbones.models import BACKBONES
from tests.backbones.timm_rows import TIMM, tiny_timm
from tests.tolerances import FLOAT32_TOL, assert_close


def dynamic(backbone: Backbone, **options: Any) -> Backbone:
    """A row of timm, created for images of any size."""

    def create(dropout: bool) -> Any:
        return tiny_timm(backbone.model, dynamic_img_size=True, **options)

    return replace(backbone, special=f"{backbone.special}, any size", create=create)


AS_PUBLISHED = (
    *("Dinov2Model", "Dinov2WithRegistersModel", "DINOv3ViTModel", "Siglip2Model", "Siglip2VisionModel"),
    *("test_vit4", "vit_small_patch16_dinov3", "vit_small_plus_patch16_dinov3", "vit_base_patch16_sapiens2"),
)
ANY_SIZE = (
    *(b for b in BACKBONES if b.model in AS_PUBLISHED),
    *(
        dynamic(next(b for b in TIMM if b.model == model), **options)
        for model, options in (
            ("vit_tiny_patch16_224", {}),
            ("deit3_small_patch16_224", {}),
            ("vit_small_patch14_reg4_dinov2", {}),
            ("vit_base_patch16_siglip_224", {}),
            ("eva02_base_patch14_224", {}),
            ("eva02_base_patch16_clip_224", {}),
            ("vit_small_patch16_rope_mixed_224", {}),
            ("vit_small_patch16_rope_ape_224", {}),
        )
    ),
)
GRIDS = ((3, 3), (4, 2), (1, 5), (5, 7))


@torch.no_grad()
@pytest.mark.parametrize("backbone", ANY_SIZE, ids=lambda backbone: backbone.name)
def test_every_grid_gives_the_sources_embedding(backbone: Backbone) -> None:
    module = backbone.build()
    hvit = HookedViT.wrap(module, head=backbone.head)
    height, width = hvit.cfg.patch_size
    assert hvit.cfg.any_size
    for rows, columns in GRIDS:
        images = images_of((rows * height, columns * width))
        expected = backbone.embedding(module, images)
        positions = []
        name = "blocks.0.hook_resid_pre"
        with hvit.hooks([(name, lambda x, hook, positions=positions: positions.append(x.shape[1]))]):
            assert_close(hvit(images), expected, FLOAT32_TOL)
        assert positions == [hvit.cfg.n_prefix + rows * columns]
        assert_close(hvit.decompose(images).total(), expected, FLOAT32_TOL)


@torch.no_grad()
@pytest.mark.parametrize("backbone", ANY_SIZE, ids=lambda backbone: backbone.name)
def test_parts_of_patches_are_refused(backbone: Backbone) -> None:
    hvit = HookedViT.wrap(backbone.build(), head=backbone.head)
    side = hvit.cfg.patch_size[0]
    for size in ((3 * side + 1, 2 * side), (2 * side, 3 * side - 2)):
        with pytest.raises(InputError, match=rf"\[batch, 3, n · {side}, m · {side}\] for .*, got shape"):
            hvit(images_of(size))


@torch.no_grad()
@pytest.mark.parametrize("backbone", ANY_SIZE, ids=lambda backbone: backbone.name)
def test_a_size_given_to_wrap_is_the_models_own(backbone: Backbone) -> None:
    module = backbone.build()
    height, width = (2 * side for side in HookedViT.wrap(module).cfg.patch_size)
    hvit = HookedViT.wrap(module, image_size=(height, 2 * width))
    assert hvit.cfg.image_size == (height, 2 * width)
    assert hvit.cfg.n_ctx == hvit.cfg.n_prefix + 8
    images = images_of(hvit.cfg.image_size)
    assert_close(hvit(images), backbone.embedding(module, images), FLOAT32_TOL)
    with pytest.raises(InputError, match=f"multiples of its patch, .* {height + 1}×{width} is none"):
        HookedViT.wrap(module, image_size=(height + 1, width))


@pytest.mark.parametrize("backbone", [b for b in BACKBONES if b not in ANY_SIZE], ids=lambda backbone: backbone.name)
def test_other_models_take_their_own_size_only(backbone: Backbone) -> None:
    module = backbone.build()
    hvit = HookedViT.wrap(module, head=backbone.head)
    height, width = hvit.cfg.image_size
    assert not hvit.cfg.any_size
    with pytest.raises(InputError, match=f"takes images of {height}×{width} only"):
        HookedViT.wrap(module, head=backbone.head, image_size=(2 * height, width))
    with pytest.raises(InputError, match=rf"Resize to {height}×{width}"):
        hvit(images_of((2 * height, width)))
