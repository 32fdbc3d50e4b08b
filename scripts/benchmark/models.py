"""Models with random weights, which does not matter for speed or memory; nothing is downloaded."""

from functools import lru_cache
from pathlib import Path

import open_clip
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

Images = Float[Tensor, "batch 3 height width"]

# With a name and sizes as open_clip's own have them: for a look whether everything runs.
open_clip.add_model_config(Path(__file__).with_name("benchmark-tiny.json"))


@lru_cache(maxsize=1)
def tower(model: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> nn.Module:
    """An open_clip image tower in eval mode; the last one that was asked for is kept."""
    torch.manual_seed(0)
    return open_clip.create_model(model).visual.eval().requires_grad_(False).to(device, dtype)


@lru_cache(maxsize=2)
def hugging_face_vit(model: str, attention: str) -> ViTModel:
    """Hugging Face's ViT with the sizes of an open_clip model, in eval mode; weights do not depend on attention."""
    torch.manual_seed(0)
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
    return ViTModel(config, add_pooling_layer=False).eval().requires_grad_(False)


def noise(model: str, batch: int) -> Images:
    """Images of the model's size."""
    size = open_clip.get_model_config(model)["vision_cfg"]["image_size"]
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def apart(ours: Float[Tensor, "*shape"], other: Float[Tensor, "*shape"]) -> float:
    """Largest difference over the largest value of the other."""
    return float((ours.double() - other.double()).abs().max() / other.abs().max())
