"""Training all weights of the image tower."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from residual_lens.hooked import HookedViT
from residual_lens.training.methods.places import places_of
from residual_lens.training.methods.weights import Value, WeightAdapter, in_working_precision


class FineTune(WeightAdapter):
    """A copy of every weight that the image embedding depends on, to be trained instead of it.

    The image tower's and its projection's, also those that the model has frozen. What plays no part in the embedding
    (a classifier's head, a mask token) is left out, as a backward pass of one image shows.

    Example:
        >>> hvit = HookedViT.from_pretrained("attribute-clip")
        >>> images = torch.zeros(2, 3, *hvit.cfg.image_size)
        >>> with FineTune(hvit).attached(hvit), torch.no_grad():
        ...     edited = hvit(images)
        >>> torch.equal(edited, hvit(images))
        True
    """

    # The released code's, for its large models.
    learning_rate = 1e-5

    def __init__(self, hvit: HookedViT) -> None:
        """Start at the model's weights."""
        super().__init__(hvit)
        self.weights = nn.ParameterDict(
            {
                name.replace(".", "/"): nn.Parameter(in_working_precision(places[0].read().detach()).clone())
                for name, places in places_of(hvit).items()
            }
        )
        for key in self._unused(hvit):
            del self.weights[key]

    def values(self) -> Mapping[str, Value]:
        return {key.replace("/", "."): partial(self._instead, key) for key in self.weights}

    def _instead(self, key: str, weight: Tensor) -> Tensor:
        return self.weights[key].to(weight.dtype)

    @torch.enable_grad()
    def _unused(self, hvit: HookedViT) -> list[str]:
        """Weights that get no gradient."""
        image = torch.zeros(1, 3, *hvit.cfg.image_size, dtype=hvit.dtype, device=hvit.device)
        with self.attached(hvit):
            total = hvit(image).sum()
            gradients = torch.autograd.grad(total, list(self.weights.values()), allow_unused=True)
        return [key for key, gradient in zip(self.weights, gradients, strict=True) if gradient is None]
