"""One adapter a source: each says where the parts of its models are."""

from importlib import import_module

from torch import nn

from residual_lens.errors import InputError, UnsupportedModelError
from residual_lens.hooked.backbones.refusals import check_regular
from residual_lens.hooked.parts.vit import ViTParts

# Library → module of its adapter, in the order in which a model's base classes are asked.
ADAPTERS = {"open_clip": "open_clip", "transformers": "huggingface", "timm": "timm"}


def adapt(module: nn.Module, model_name: str, *, head: bool = False) -> ViTParts:
    """The parts of a supported model, by reference.

    Args:
        module: the model.
        model_name: what messages call it.
        head: include the model's own linear head.

    Raises:
        InputError: not a torch module.
        UnsupportedModelError: no adapter can take it exactly, with the reason.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"wrap needs a torch module, got {type(module).__name__}.")
    # By name, because importing torch's compiler costs seconds.
    if type(module).__name__ == "OptimizedModule":
        raise UnsupportedModelError(
            f"{model_name} is compiled: wrap the model itself (module._orig_mod) and compile the wrapper if you like, "
            "torch.compile(hvit)."
        )
    # An instance exists, so its library is imported already and importing the adapter costs nothing more.
    libraries = {base.__module__.partition(".")[0] for base in type(module).__mro__}
    for library, adapter in ADAPTERS.items():
        if library in libraries:
            found = import_module(f"residual_lens.hooked.backbones.{adapter}").adapt(module, model_name, head=head)
            check_regular(found)
            return found
    raise UnsupportedModelError(
        f"{type(module).__module__}.{type(module).__name__} is not a supported vision transformer: HookedViT wraps "
        f"models of {', '.join(ADAPTERS)} (`residual-lens models` lists them)."
    )
