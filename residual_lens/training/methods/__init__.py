"""What can be trained, from nothing to everything: each method an adapter, by name."""

from residual_lens.training.methods.coarse import Coarse
from residual_lens.training.methods.finetune import FineTune
from residual_lens.training.methods.lora import LoRA
from residual_lens.training.methods.options import Options
from residual_lens.training.methods.output import LinearAdapter, SpectralOutput, ZeroShot, embedding_basis
from residual_lens.training.methods.probe import LinearProbe
from residual_lens.training.methods.registry import METHODS, Method, load_adapter, method_named
from residual_lens.training.methods.svd import SingularValues
from residual_lens.training.methods.weights import WeightAdapter

__all__ = [
    "METHODS",
    "Coarse",
    "FineTune",
    "LinearAdapter",
    "LinearProbe",
    "LoRA",
    "Method",
    "Options",
    "SingularValues",
    "SpectralOutput",
    "WeightAdapter",
    "ZeroShot",
    "embedding_basis",
    "load_adapter",
    "method_named",
]
