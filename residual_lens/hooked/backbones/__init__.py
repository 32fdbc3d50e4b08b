"""One adapter a source: each says where the parts of its models are."""

from torch import nn

from residual_lens.errors import InputError, UnsupportedModelError
from residual_lens.hooked.parts import ViTParts


def adapt(module: nn.Module, model_name: str) -> ViTParts:
    """The parts of a supported model, by reference.

    Raises:
        InputError: not a torch module.
        UnsupportedModelError: no adapter can take it exactly, with the reason.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"wrap needs a torch module, got {type(module).__name__}.")
    # An instance exists, so its library is imported already and importing the adapter costs nothing more.
    libraries = {base.__module__.partition(".")[0] for base in type(module).__mro__}
    if "open_clip" in libraries:
        from residual_lens.hooked.backbones import open_clip

        return open_clip.adapt(module, model_name)
    raise UnsupportedModelError(
        f"{type(module).__module__}.{type(module).__name__} is not a supported vision transformer. "
        "Supported: open_clip CLIP objects and their VisionTransformer."
    )
