"""Weight methods with drawn parameters, and the weights that they stand for, made by hand from what they save."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from residual_lens.hooked import HookedViT
from residual_lens.training.methods import FineTune, LoRA, SingularValues, WeightAdapter
from tests.reference.methods import low_rank_added, singular_values_moved

MAKE: Mapping[str, Callable[[HookedViT], WeightAdapter]] = {
    "lora": lambda hvit: LoRA(hvit, rank=3),
    "svd": SingularValues,
    "finetune": FineTune,
}


@torch.no_grad()
def drawn(name: str, hvit: HookedViT, *, size: float = 0.1, seed: int = 0) -> WeightAdapter:
    """An adapter whose parameters lie away from where training starts."""
    adapter = MAKE[name](hvit)
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter.parameters():
        parameter += size * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return adapter


def by_hand(name: str, adapter: WeightAdapter, tower: nn.Module, folder: Path) -> dict[str, Tensor]:
    """The changed weights by name, from the files that the adapter writes."""
    adapter.save(folder)
    tensors = load_file(folder / "model.safetensors")
    prefix = {"lora": "trained.", "svd": "changes.", "finetune": "weights."}[name]
    named = {key.removeprefix(prefix).replace("/", "."): value for key, value in tensors.items()}
    if name == "finetune":
        return named
    if name == "lora":
        return _of_factors(named, tower)
    return {key: singular_values_moved(tower.get_parameter(key).detach(), value) for key, value in named.items()}


def _of_factors(named: Mapping[str, Tensor], tower: nn.Module) -> dict[str, Tensor]:
    weights = {}
    for key, a in named.items():
        if ".lora_A." in key:
            module = key.removesuffix(".lora_A.default.weight").replace(".base_layer", "")
            is_fused = isinstance(tower.get_submodule(module), nn.MultiheadAttention)
            name = f"{module}.{'in_proj_weight' if is_fused else 'weight'}"
            weights[name] = low_rank_added(
                tower.get_parameter(name).detach(), a, named[key.replace("lora_A", "lora_B")], 2.0
            )
    return weights


def with_weights(source: Any, hvit: HookedViT, weights: Mapping[str, Tensor]) -> Any:
    """A copy of the plain model with other weights written into it."""
    twin = copy.deepcopy(source)
    twin_of = dict(zip(source.modules(), twin.modules(), strict=True))
    projection = hvit.parts.projection
    with torch.no_grad():
        for name, weight in weights.items():
            ref = {"projection": projection and projection.weight, "projection_bias": projection and projection.bias}
            if ref.get(name):
                getattr(twin_of[ref[name].owner], ref[name].name).copy_(weight)
            else:
                twin_of[hvit.parts.tower].get_parameter(name).copy_(weight)
    return twin
