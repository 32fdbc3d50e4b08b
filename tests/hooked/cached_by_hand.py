"""What `ViTCache` should give, spelled out in float64, and the models to try it on."""

from functools import cache as cached_result

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from residual_lens.hooked.cache.activation_cache import ViTCache
from residual_lens.hooked.vit import HookedViT
from tests.tiny_models import WIRINGS, draw_weights, tiny_images, tiny_tower

NORMED = tuple(kind for kind in WIRINGS if kind != "coca")
LAYERS = 3
HEADS = 3
ENDS = [(0, False), (0, True), (1, False), (2, True), (3, False)]
FINALS = (None, -1, LAYERS)


@cached_result
def wrapped(kind: str = "ViT-B-16") -> HookedViT:
    """One model a kind, which no test changes."""
    return HookedViT.wrap(tiny_tower(kind).double())


def wrapped_timm(**options) -> HookedViT:
    options = {
        "img_size": 32,
        "patch_size": 16,
        "embed_dim": 24,
        "depth": 3,
        "num_heads": 3,
        "num_classes": 0,
    } | options
    model = VisionTransformer(**options).eval()
    draw_weights(model, seed=0)
    return HookedViT.wrap(model.double())


def cached(hvit: HookedViT, batch: int = 2, **options) -> ViTCache:
    _, cache = hvit.run_with_cache(tiny_images(hvit.source, batch).double(), **options)
    return cache


def stream_at(cache: ViTCache, layer: int, mlp_input: bool = False) -> Tensor:
    if layer == LAYERS:
        return cache["resid_post", LAYERS - 1]
    return cache["resid_mid" if mlp_input else "resid_pre", layer]


def normalized_at(cache: ViTCache, layer: int, mlp_input: bool = False) -> Tensor:
    if layer == LAYERS:
        return cache["ln_final.hook_normalized"]
    return cache["normalized", layer, "ln2" if mlp_input else "ln1"]


def normed_by_hand(hvit: HookedViT, cache: ViTCache, term: Tensor, layer: int, mlp_input: bool = False) -> Tensor:
    """One component, image by image and token by token."""
    name = "ln_final" if layer == LAYERS else f"blocks.{layer}.ln{2 if mlp_input else 1}"
    scale = cache[f"{name}.hook_scale"]
    if layer == LAYERS and scale.ndim == 2:
        term = term[:, 1:].mean(dim=1) if hvit.source.pool_type == "avg" else term[:, 0]
    out = torch.empty_like(term)
    for place in torch.cartesian_prod(*(torch.arange(size) for size in term.shape[:-1])).reshape(-1, term.ndim - 1):
        at = tuple(place.tolist())
        out[at] = (term[at] - term[at].sum() / term.shape[-1]) / scale[at]
    return out


def written_by_neurons(hvit: HookedViT, cache: ViTCache, layer: int) -> list[Tensor]:
    block = hvit.source.transformer.resblocks[layer]
    gain = getattr(block.ls_2, "gamma", torch.ones(hvit.cfg.d_model, dtype=torch.float64))
    post = cache["post", layer]
    return [post[..., n, None] * (block.mlp.c_proj.weight[:, n] * gain) for n in range(hvit.cfg.d_mlp)]


def written_by_heads(hvit: HookedViT, cache: ViTCache, layer: int) -> list[Tensor]:
    block = hvit.source.transformer.resblocks[layer]
    gain = getattr(block.ls_1, "gamma", torch.ones(hvit.cfg.d_model, dtype=torch.float64))
    width = hvit.cfg.d_head
    columns = [block.attn.out_proj.weight[:, h * width : (h + 1) * width] for h in range(HEADS)]
    return [(cache["z", layer][:, :, h] @ columns[h].T) * gain for h in range(HEADS)]


# Method, arguments, options.
CALLS = [
    ("decompose_resid", (), {}),
    ("decompose_resid", (1,), {"apply_ln": True, "mlp_input": True}),
    ("decompose_resid", (), {"apply_ln": True}),
    ("accumulated_resid", (2,), {"apply_ln": True, "incl_mid": True}),
    ("accumulated_resid", (), {"apply_ln": True}),
    ("stack_head_results", (2,), {"apply_ln": True, "incl_remainder": True}),
    ("stack_head_results", (), {"apply_ln": True}),
    ("stack_neuron_results", (2,), {"incl_remainder": True}),
    ("stack_neuron_results", (-1,), {"apply_ln": True}),
    ("get_full_resid_decomposition", (1,), {"apply_ln": True}),
    ("get_full_resid_decomposition", (), {"apply_ln": True}),
]
FINAL_CALLS = [call for call in CALLS if call[1] in ((), (-1,)) and "apply_ln" in call[2]]
BLOCK_CALLS = [call for call in CALLS if call not in FINAL_CALLS]
