"""Zero-shot classification: class names → prompts → unit-norm class embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from beartype import beartype
from jaxtyping import Float, Int, jaxtyped
from torch import Tensor
from torch.nn.functional import normalize

from residual_lens.errors import InputError
from residual_lens.text.cosine_loss import CosineCrossEntropy
from residual_lens.text.prompts import EncodeText, ensemble, fill


@dataclass(frozen=True, eq=False)
class ZeroShotClassifier:
    """Cosine to class embeddings, times the model's logit scale.

    Example:
        >>> import torch
        >>> classifier = ZeroShotClassifier(torch.eye(3), ("red", "green", "blue"), logit_scale=100.0)
        >>> classifier.accuracy(torch.tensor([[5.0, 1.0, 0.0], [0.0, 0.0, 2.0]]), torch.tensor([0, 1]))
        0.5
    """

    weights: Float[Tensor, "class d_out"]
    """Unit-norm class embeddings; `zero_shot_classifier` makes them without a graph."""
    classes: tuple[str, ...]
    """Names along the `class` axis."""
    logit_scale: float
    """Factor on cosines."""

    @jaxtyped(typechecker=beartype)
    def logits(self, embedding: Float[Tensor, "batch d_out"]) -> Float[Tensor, "batch class"]:
        """`logit_scale · cos(embedding, class)`.

        Args:
            embedding: image embeddings; their length does not matter.
        """
        return self.logit_scale * normalize(embedding, dim=-1) @ self.weights.to(embedding).mT

    def cross_entropy(self, embedding: Float[Tensor, "batch d_out"], labels: Int[Tensor, "batch"]) -> Float[Tensor, ""]:
        """`−Σ log softmax(logits)[label]`, to train with: its gradient goes to the embedding, not to the classes.

        Args:
            embedding: as for `logits`; half precision and autocast are computed in float32.
            labels: indices of classes.

        Example:
            >>> import torch
            >>> classifier = ZeroShotClassifier(torch.eye(3), ("red", "green", "blue"), logit_scale=2.0)
            >>> round(classifier.cross_entropy(torch.tensor([[5.0, 0.0, 0.0]]), torch.tensor([0])).item(), 4)
            0.2395
        """
        if embedding.dtype in (torch.float16, torch.bfloat16):
            embedding = embedding.float()
        return CosineCrossEntropy.apply(embedding, self.weights.to(embedding), self.logit_scale, labels.long())

    @jaxtyped(typechecker=beartype)
    def accuracy(self, embedding: Float[Tensor, "batch d_out"], labels: Int[Tensor, "batch"]) -> float:
        """Share of samples whose largest logit is their label's, in [0, 1].

        Raises:
            InputError: no samples, or labels that are not indices of classes.
        """
        if len(labels) == 0:
            raise InputError("Accuracy of no samples is not defined: the split is empty.")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(self.classes):
            raise InputError(f"Labels run from {low} to {high}, but there are {len(self.classes)} classes.")
        return float((self.logits(embedding).argmax(dim=-1) == labels).double().mean())


@jaxtyped(typechecker=beartype)
def zero_shot_classifier(
    encode_text: EncodeText,
    classes: Sequence[str],
    *,
    templates: Sequence[str] = ("a photo of a {}.",),
    logit_scale: float = 100.0,
) -> ZeroShotClassifier:
    """A classifier from class names by prompt ensembling (Radford et al. 2021, §3.1.4).

    Every template is filled with every name; the unit-norm embeddings of a class are averaged and normalised again.

    Args:
        encode_text: texts to unit-norm embeddings, such as `hvit.encode_text`.
        classes: at least two different names.
        templates: each with one `{}` for the name.
        logit_scale: factor on cosines, such as `hvit.logit_scale`.

    Raises:
        InputError: too few or repeated classes, no templates, or a template without `{}`.
    """
    if isinstance(classes, str) or len(classes) < 2 or len(set(classes)) != len(classes):
        raise InputError(f"classes must be at least two different names, got {classes!r}.")
    return ZeroShotClassifier(ensemble(encode_text, fill(templates, classes)).detach(), tuple(classes), logit_scale)
