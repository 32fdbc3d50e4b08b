"""A norm over the stream, by reference."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from residual_lens.errors import UnsupportedModelError

# Root-mean-square norms have no common base class; these are torch's, timm's and Hugging Face's plain ones.
RMS_NORMS = ("RMSNorm", "RmsNorm", "RmsNormFp32")
# A norm of somebody's own may compute something else under the same name.
LIBRARIES = ("torch", "open_clip", "timm", "transformers")


@dataclass(frozen=True)
class NormParts:
    """A LayerNorm, or an RMSNorm (`centred=False`)."""

    module: nn.Module
    """Owner of `weight`, `bias` (either may be missing) and `eps`."""
    centred: bool = True
    """Whether the mean is taken away."""

    @classmethod
    def of(cls, module: nn.Module, model_name: str) -> "NormParts":
        """The norm that a module is.

        Raises:
            UnsupportedModelError: neither a LayerNorm nor a known RMSNorm.
        """
        if type(module).__module__.split(".")[0] in LIBRARIES:
            if isinstance(module, nn.LayerNorm):
                return cls(module)
            if type(module).__name__ in RMS_NORMS:
                return cls(module, centred=False)
        raise UnsupportedModelError(
            f"{model_name}: a norm of the stream is {type(module).__module__}.{type(module).__name__}; supported are "
            f"LayerNorm and RMSNorm of {', '.join(LIBRARIES)}, which are linear once their scale is frozen."
        )

    @classmethod
    def maybe(cls, module: nn.Module, model_name: str) -> "NormParts | None":
        """The same, or `None` where a model has `nn.Identity` in the norm's place."""
        return None if isinstance(module, nn.Identity) else cls.of(module, model_name)

    @property
    def gain(self) -> Tensor | None:
        """γ."""
        return self.module.weight  # pyright: ignore[reportReturnType]

    @property
    def offset(self) -> Tensor | None:
        """β."""
        return getattr(self.module, "bias", None)

    @property
    def eps(self) -> float:
        """What is added to the variance."""
        eps = self.module.eps
        if eps is not None:
            return float(eps)  # pyright: ignore[reportArgumentType]
        weight = self.gain
        return torch.finfo(torch.float32 if weight is None else torch.promote_types(weight.dtype, torch.float32)).eps

    @property
    def width(self) -> int:
        """How many coordinates are normalised together."""
        shape = self.module.normalized_shape if hasattr(self.module, "normalized_shape") else self.module.weight.shape
        return int(shape[-1])  # pyright: ignore[reportIndexIssue, reportArgumentType]
