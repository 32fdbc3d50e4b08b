"""TransformerLens' `ActivationCache` with a vision transformer's arithmetic."""

from residual_lens.hooked.cache.activation_cache import ViTCache
from residual_lens.hooked.cache.axes import position_axis

__all__ = ["ViTCache", "position_axis"]
