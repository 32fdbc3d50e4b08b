"""What a classification task is made of."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageSplit:
    """Images with labels; iterate over it in slices of the two tensors."""

    images: Float[Tensor, "sample 3 height width"]
    """float32 in [0, 1], not normalised for any model."""
    labels: Int[Tensor, "sample"]
    """Indices into the task's classes."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Task:
    """A named classification task with three disjoint splits."""

    name: str
    classes: tuple[str, ...]
    """The words of the classes, as captions use them."""
    templates: tuple[str, ...]
    """Prompts with one `{}` for the class; a zero-shot classifier averages over them."""
    train: ImageSplit
    validation: ImageSplit
    test: ImageSplit
