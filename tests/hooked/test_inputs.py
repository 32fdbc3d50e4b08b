"""What is refused, and what the message says."""

from inspect import unwrap

import numpy as np
import open_clip
import pytest
import torch
from torch import Tensor, nn

from residual_lens.errors import InputError, MismatchError, ResidualLensError, UnsupportedModelError
from residual_lens.hooked.backbones import adapt
from residual_lens.hooked.checks import check_images
from residual_lens.hooked.vit import HookedViT
from tests.tiny_models import TINY_TEXT, tiny_clip
from tests.tolerances import FLOAT32_TOL, assert_close

GOOD = torch.zeros(2, 3, 32, 32)


def with_pixel(value: float) -> torch.Tensor:
    images = GOOD.clone()
    images[1, 2, 5, 7] = value
    return images


BAD_IMAGES = {
    "one image without batch": (GOOD[0], r"got shape \[3, 32, 32\].*images\[None\]"),
    "one channel": (GOOD[:, :1], r"got shape \[2, 1, 32, 32\]"),
    "channels last": (GOOD.permute(0, 2, 3, 1), r"got shape \[2, 32, 32, 3\]"),
    "other size": (torch.zeros(2, 3, 32, 48), r"got shape \[2, 3, 32, 48\]. Resize to 32×32"),
    "bytes": (GOOD.to(torch.uint8), r"got torch.uint8. Convert to float"),
    "whole numbers": (GOOD.long(), r"got torch.int64"),
    "float64": (GOOD.double(), r"Images are torch.float64 but the model computes in torch.float32"),
    "half": (GOOD.half(), r"Images are torch.float16"),
    "NaN": (with_pixel(float("nan")), r"1 of 2 images hold NaN or infinite"),
    "infinite": (with_pixel(float("inf")), r"1 of 2 images hold NaN or infinite"),
    "minus infinite": (with_pixel(float("-inf")), r"1 of 2 images hold NaN or infinite"),
    "0–255": (with_pixel(255.0), r"Pixels range from 0 to 255"),
    "very negative": (with_pixel(-100.0), r"Pixels range from -100 to 0"),
    "empty batch": (GOOD[:0], r"got an empty batch"),
}


@pytest.mark.parametrize("call", ["forward", "decompose", "extract", "run_with_cache"])
@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_images_are_refused_before_anything_runs(hvit, case, call):
    images, message = BAD_IMAGES[case]
    ran = []
    hooks = [("hook_embed", lambda activation, hook: ran.append(1))]
    with hvit.hooks(hooks), pytest.raises(InputError, match=message):
        getattr(hvit, call)(images)
    assert not ran


@pytest.mark.parametrize("images", [GOOD.numpy(), [GOOD[0]], None], ids=["numpy", "list", "None"])
def test_what_is_no_tensor_is_refused(hvit, images):
    # Unwrapped, because the type checker of the test run would speak first; users run without it.
    with pytest.raises(InputError, match=rf"got {type(images).__name__}. Stack images into one tensor"):
        unwrap(check_images)(images, hvit.cfg, hvit.dtype, hvit.device)


def test_large_but_possible_pixels_pass(hvit):
    hvit(with_pixel(20.0))


def test_normalize_subtracts_means_and_divides_by_deviations():
    model = tiny_clip("ViT-B-16")
    open_clip.model.set_model_preprocess_cfg(model, {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 2.0)})
    hvit = HookedViT.wrap(model)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([(images[:, 0] - 0.1) / 0.5, (images[:, 1] - 0.2) / 0.25, (images[:, 2] - 0.3) / 2.0], dim=1)
    assert_close(hvit.normalize(images), expected, FLOAT32_TOL)
    for bad in (images * 255, images - 1, (images * 255).to(torch.uint8), images * float("nan")):
        with pytest.raises(InputError, match=r"\[0, 1\]"):
            hvit.normalize(bad)


def test_normalize_says_when_mean_and_deviation_are_unknown(hvit):
    with pytest.raises(InputError, match="does not say which mean and std"):
        hvit.normalize(GOOD)


def tiny_config(**vision) -> nn.Module:
    config = {"width": 24, "head_width": 8, "layers": 1, "patch_size": 16, "image_size": 32}
    return open_clip.CLIP(20, config | vision, TINY_TEXT)


UNSUPPORTED = {
    "a linear layer": (lambda: nn.Linear(3, 3), r"torch.nn.modules.linear.Linear is not a supported"),
    "a ResNet CLIP": (
        lambda: open_clip.CLIP(16, {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32}, TINY_TEXT),
        r"the image tower is ModifiedResNet",
    ),
    "a timm tower with an MLP behind it": (
        lambda: open_clip.CustomTextCLIP(
            16,
            {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "mlp", "image_size": 160},
            TINY_TEXT,
        ),
        r"timm's tower ends in mlp; supported is a linear projection or none",
    ),
    "normed queries and keys": (lambda: tiny_config(qk_norm=True), r"blocks are CustomResidualAttentionBlock"),
    "scaled heads": (lambda: tiny_config(scale_heads=True), r"blocks are CustomResidualAttentionBlock"),
    "no pooling": (lambda: tiny_config(pool_type="none"), r"pool_type='none' gives tokens"),
    "parallel pooling": (
        lambda: tiny_config(attentional_pool="parallel", attn_pooler_heads=2),
        r"attention pooling of type 'parallel'",
    ),
    "averaged attention pooling": (
        lambda: tiny_config(attentional_pool=True, attn_pooler_heads=2, pool_type="avg"),
        r"attention pooling of type 'avg'",
    ),
    "a compiled model": (lambda: torch.compile(tiny_config(), backend="eager"), r"wrap the model itself .*_orig_mod"),
    "a text tower": (lambda: tiny_config().transformer, r"the image tower is Transformer"),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_modules_that_cannot_be_taken_exactly_are_refused_with_the_reason(case):
    build, message = UNSUPPORTED[case]
    with pytest.raises(UnsupportedModelError, match=message):
        HookedViT.wrap(build())


def test_a_tower_pruned_of_its_final_norm_is_refused(tower):
    tower.prune_intermediate_layers(1, prune_norm=True)
    with pytest.raises(UnsupportedModelError, match="Identity"):
        HookedViT.wrap(tower)


def test_a_tower_without_projection_gives_the_normed_stream(tower, images):
    tower.prune_intermediate_layers([1])
    hvit = HookedViT.wrap(tower)
    assert (hvit.cfg.n_layers, hvit.cfg.d_out) == (2, 24)
    assert_close(hvit(images), tower(images), FLOAT32_TOL)
    assert_close(hvit.decompose(images).total(), hvit(images), FLOAT32_TOL)


def test_attention_of_another_class_is_refused(tower):
    tower.transformer.resblocks[1].attn = nn.Linear(24, 24)
    with pytest.raises(UnsupportedModelError, match="attention is Linear"):
        HookedViT.wrap(tower)


def test_subclasses_that_compute_something_else_are_refused(tower):
    class Doubled(type(tower)):
        def forward(self, x):
            return 2 * super().forward(x)

    tower.__class__ = Doubled
    with pytest.raises(UnsupportedModelError, match=r"Doubled overrides VisionTransformer.forward"):
        HookedViT.wrap(tower)


def test_subclasses_that_only_add_are_taken(tower, images):
    class Named(type(tower)):
        label = "mine"

    expected = tower(images)
    tower.__class__ = Named
    assert_close(HookedViT.wrap(tower)(images), expected, FLOAT32_TOL)


@pytest.mark.parametrize("module", [np.zeros(3), "ViT-B-16", None], ids=["array", "name", "None"])
def test_what_is_no_module_is_refused(module):
    with pytest.raises(InputError, match=f"wrap needs a torch module, got {type(module).__name__}"):
        unwrap(adapt)(module, "something")


def test_a_wrapper_is_not_wrapped_again(hvit):
    with pytest.raises(UnsupportedModelError, match="HookedViT is not a supported"):
        HookedViT.wrap(hvit)


def test_every_error_belongs_to_the_family():
    assert issubclass(InputError, ResidualLensError)
    assert issubclass(InputError, ValueError)
    assert issubclass(UnsupportedModelError, ResidualLensError)


@pytest.mark.parametrize("point", ["blocks.0.attn.hook_z", "blocks.0.hook_resid_mid", "hook_pooled"])
def test_a_hook_that_returns_another_shape_is_refused_even_where_it_would_broadcast(
    hvit: HookedViT, images: Tensor, point: str
) -> None:
    with hvit.hooks([(point, lambda x, hook: x[:1])]), pytest.raises(InputError, match=f"hook at {point} returned"):
        hvit(images)


def test_remove_batch_dim_needs_one_image(hvit: HookedViT, images: Tensor) -> None:
    with pytest.raises(InputError, match=r"one image, got 3"):
        hvit.run_with_cache(images, remove_batch_dim=True)


def test_features_of_another_centring_are_refused(hvit: HookedViT, images: Tensor) -> None:
    features = hvit.extract(images, center="uniform").head_features()
    with pytest.raises(MismatchError, match="same centring"):
        hvit.head_frames(center="own").coordinates(features)


@pytest.mark.parametrize("tokens", [[[1, 2]], {"input_ids": [[1, 2]]}])
def test_a_tokenizer_that_gives_no_tensors_is_refused_with_how_to_make_it(tokens):
    hvit = HookedViT.wrap(tiny_config(), tokenizer=lambda texts: tokens)
    with pytest.raises(InputError, match=r"functools.partial\(tokenizer, .*return_tensors='pt'\)"):
        hvit.encode_text(["a text"])
