"""What `benchmark.py` measures: typical uses of three libraries around one architecture, as functions of images.

Weights are random, which does not matter for speed or memory; nothing is downloaded.
"""

from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import open_clip
import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from residual_lens import HookedViT

Source = Literal["open_clip", "hugging_face", "eager", "bridge"]


class Variant(NamedTuple):
    """A row of a table."""

    library: str
    use: str


Uses = dict[Variant, Callable[[Tensor], object]]

PLAIN = "forward, no hooks"
OPEN_CLIP = Variant("open_clip", PLAIN)
HUGGING_FACE = Variant("transformers", PLAIN)
POOLED_Z = "all heads' z at the pooled token, run_with_cache"
POOLED_STREAM = "every hook_resid_post at the pooled token, run_with_cache"
PATTERNS = "every pattern, run_with_cache"


def uses_of(source: Source, model: str, device: str) -> Uses:
    """The uses of what wraps one source's model, that plain model's forward pass included.

    Args:
        source: "open_clip" and "hugging_face" hold the plain model and our wrapper around that very object; "bridge" is
            TransformerLens' bridge, which takes a Hugging Face model over for itself and sets it to eager attention;
            "eager" is the plain model with eager attention, which tells how much of the bridge's cost that is.
        model: name of an open_clip model; Hugging Face's has its sizes.
        device: where it all lies.
    """
    torch.manual_seed(0)
    if source == "open_clip":
        return _of_open_clip(open_clip.create_model(model, device=device).visual.eval())
    vit = _hugging_face_vit(model, "sdpa" if source == "hugging_face" else "eager").to(device)
    if source == "hugging_face":
        return {HUGGING_FACE: vit} | _shared_uses("residual_lens", HookedViT.wrap(vit), vit.config.num_hidden_layers)
    if source == "eager":
        return {Variant("transformers, eager attention", PLAIN): vit}
    # Imported here because it costs memory, and not every process needs it.
    from transformer_lens.model_bridge import TransformerBridge

    # It goes on to look for an image processor by the model's name: an empty folder has none, without asking a server.
    with TemporaryDirectory() as empty:
        bridge = TransformerBridge.boot_transformers(empty, hf_model=vit, device=device)
    return _shared_uses("TransformerLens bridge", bridge, vit.config.num_hidden_layers)


def images_of(model: str, batch: int, device: str) -> Tensor:
    """Noise of the model's image size."""
    size = open_clip.get_model_config(model)["vision_cfg"]["image_size"]
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)


def _hugging_face_vit(model: str, attention: str) -> ViTModel:
    """Hugging Face's ViT with the sizes of an open_clip model, in eval mode."""
    sizes = {"head_width": 64, "mlp_ratio": 4.0} | open_clip.get_model_config(model)["vision_cfg"]
    config = ViTConfig(
        image_size=sizes["image_size"],
        patch_size=sizes["patch_size"],
        hidden_size=sizes["width"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["width"] // sizes["head_width"],
        intermediate_size=int(sizes["width"] * sizes["mlp_ratio"]),
        attn_implementation=attention,
        # The bridge picks its adapter by this name, which Hugging Face writes into checkpoints.
        architectures=["ViTModel"],
    )
    return ViTModel(config, add_pooling_layer=False).eval()


def _of_open_clip(tower: nn.Module) -> Uses:
    hvit = HookedViT.wrap(tower)
    n_layers = hvit.cfg.n_layers
    text = torch.randn(1, hvit.cfg.d_out, device=hvit.device)
    captured: dict[str, Tensor] = {}

    def save_pooled_z(z: Tensor, hook: object) -> None:
        captured[hook.name] = z[:, 0].clone()  # pyright: ignore[reportAttributeAccessIssue]

    def z_by_hooks(images: Tensor) -> Tensor:
        hooks = [(name, save_pooled_z) for name in _names("blocks.{}.attn.hook_z", n_layers)]
        return hvit.run_with_hooks(images, fwd_hooks=hooks)

    def every_layer_by_token(images: Tensor) -> None:
        parts = hvit.decompose(images, tokens=True)
        for layer in range(n_layers):
            parts.tokens.layer(layer)

    uses: dict[str, Callable[[Tensor], object]] = {
        "all heads' z at the pooled token, by hooks": z_by_hooks,
        "all units' terms, extract": hvit.extract,
        "all direct contributions, decompose": hvit.decompose,
        "decompose(tokens=True)": lambda images: hvit.decompose(images, tokens=True),
        "decompose(tokens=True), tokens.towards(one text)": lambda images: hvit.decompose(
            images, tokens=True
        ).tokens.towards(text),
        "decompose(tokens=True), tokens.layer(…) of every layer": every_layer_by_token,
    }
    shared = _shared_uses("residual_lens", hvit, n_layers)
    return {OPEN_CLIP: tower} | shared | {Variant("residual_lens", use): run for use, run in uses.items()}


def _shared_uses(library: str, model: Any, n_layers: int) -> Uses:
    """What the bridge and ours both do, called in the same way."""
    z, stream, patterns = (
        _names(name, n_layers)
        for name in ("blocks.{}.attn.hook_z", "blocks.{}.hook_resid_post", "blocks.{}.attn.hook_pattern")
    )
    return {
        Variant(library, PLAIN): model,
        Variant(library, POOLED_Z): lambda images: model.run_with_cache(images, names_filter=z, pos_slice=0),
        Variant(library, POOLED_STREAM): lambda images: model.run_with_cache(images, names_filter=stream, pos_slice=0),
        Variant(library, PATTERNS): lambda images: model.run_with_cache(images, names_filter=patterns),
    }


def _names(template: str, n_layers: int) -> list[str]:
    return [template.format(layer) for layer in range(n_layers)]
