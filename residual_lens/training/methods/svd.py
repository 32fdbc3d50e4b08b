"""Training the singular values of weights."""

from collections.abc import Mapping
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.hooked import HookedViT
from residual_lens.training.methods.places import block_matrices, places_of
from residual_lens.training.methods.weights import Value, WeightAdapter, in_working_precision


class SingularValues(WeightAdapter):
    """`W = U diag(σ + δ) Vᵀ`, δ learned, for the weights of attention and MLP in every block.

    After Sun et al., arXiv 2206.06122, eq. 2, who train the singular values and leave `U` and `V`. Weights that lie on
    top of each other (queries, keys and values; both halves of a gated MLP) are taken one by one, so that a model has
    the same parameters whatever library holds it. Computed as `W + U diag(δ) Vᵀ`: at δ = 0, where training starts, the
    weights are themselves to the last bit.

    Example:
        >>> hvit = HookedViT.from_pretrained("attribute-clip")
        >>> svd = SingularValues(hvit)
        >>> images = torch.zeros(2, 3, *hvit.cfg.image_size)
        >>> with svd.attached(hvit), torch.no_grad():
        ...     edited = hvit(images)
        >>> torch.equal(edited, hvit(images))
        True
    """

    # 1e-3 leaves validation on digits at 0.82 after 15 epochs, this takes it to 0.92 in 6.
    learning_rate = 0.01

    def __init__(self, hvit: HookedViT) -> None:
        """Decompose the weights, in float64, and start at the unedited model."""
        super().__init__(hvit)
        weights = {(id(p.owner), p.name): name for name, places in places_of(hvit).items() for p in places}
        self.changes = nn.ParameterDict()
        self._names: dict[str, str] = {}
        for matrix in block_matrices(hvit):
            weight = matrix.place.read().detach()
            name = weights[id(matrix.place.owner), matrix.place.name]
            key = name.replace(".", "/")
            by_part = rearrange(weight, "(part row) column -> part row column", part=matrix.parts)
            left, values, right = torch.linalg.svd(by_part.double(), full_matrices=False)
            # Not saved: they follow from the weights.
            dtype = in_working_precision(weight).dtype
            self.register_buffer(f"left/{key}", left.to(dtype), persistent=False)
            self.register_buffer(f"right/{key}", right.to(dtype), persistent=False)
            self.changes[key] = nn.Parameter(torch.zeros_like(values, dtype=dtype))
            self._names[name] = key

    def values(self) -> Mapping[str, Value]:
        return {name: partial(self._changed, key) for name, key in self._names.items()}

    def _changed(self, key: str, weight: Float[Tensor, "total column"]) -> Float[Tensor, "total column"]:
        left, right = self.get_buffer(f"left/{key}"), self.get_buffer(f"right/{key}")
        change = (left * self.changes[key][:, None, :]) @ right
        return weight + rearrange(change, "part row column -> (part row) column").to(weight.dtype)
