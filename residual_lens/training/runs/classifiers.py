"""What turns embeddings into classes: prompts through the text tower, or class means of training embeddings."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from residual_lens.data import task_names
from residual_lens.data.attribute_world import TEMPLATES
from residual_lens.errors import InputError, UnsupportedModelError
from residual_lens.hooked import HookedViT
from residual_lens.text import ZeroShotClassifier, templates, zero_shot_classifier
from residual_lens.text.encoding import refuse_unknown_words
from residual_lens.text.prompts import fill
from residual_lens.text.templates import TEMPLATES as NAMED_TEMPLATES
from residual_lens.training.runs.config import RunConfig

LOGIT_SCALE = 100.0
"""Of models that have none, for lack of a text tower or because it is not published (BLIP): what CLIP's is clipped at
(Radford et al. 2021, §2.5)."""

Embeddings = Callable[[], tuple[Float[Tensor, "sample d_out"], Int[Tensor, "sample"]]]
"""The training samples' embeddings and labels, made when they are asked for."""


def classifier_kind(config: RunConfig, hvit: HookedViT) -> str:
    """What `config.classifier` comes to for a model: "text" or "means".

    Raises:
        UnsupportedModelError: text is asked for, and the model has no text tower.
    """
    has_text = hvit.parts.text is not None and hvit.tokenizer is not None
    if config.classifier == "text" and not has_text:
        raise UnsupportedModelError(
            f"{config.model} has no text tower, and so no classifier from text: use --classifier means."
        )
    return "means" if config.classifier == "means" or not has_text else "text"


def classifier_of(
    config: RunConfig, hvit: HookedViT, classes: tuple[str, ...], train: Embeddings
) -> ZeroShotClassifier:
    """The classifier of a run (see `RunConfig.classifier`).

    Args:
        config: of the run.
        hvit: the model.
        classes: words of the classes.
        train: of the samples that are trained on; asked for by class means only.

    Raises:
        InputError: templates that do not exist, words that the text tower does not know, or repeated classes.
        UnsupportedModelError: see `classifier_kind`.
    """
    try:
        logit_scale = hvit.logit_scale
    except UnsupportedModelError:
        logit_scale = LOGIT_SCALE
    if classifier_kind(config, hvit) == "means":
        return class_means(*train(), classes, logit_scale=logit_scale)
    filled = templates_of(config.templates, config.data)
    hints = (
        (("{}",), "These are words of the classes, which no --templates change: give --classifier means."),
        (filled, "Of a run: give --templates in words that it knows, such as '{}' alone, or --classifier means."),
    )
    for asked, hint in hints:
        try:
            refuse_unknown_words(hvit, dict(zip(classes, fill(asked, classes), strict=True)))
        except InputError as error:
            raise InputError(f"{error} {hint}") from error
    return zero_shot_classifier(hvit.encode_text, classes, templates=filled, logit_scale=logit_scale)


def class_means(
    embeddings: Float[Tensor, "sample d_out"],
    labels: Int[Tensor, "sample"],
    classes: tuple[str, ...],
    *,
    logit_scale: float,
) -> ZeroShotClassifier:
    """Class means of unit-norm embeddings, unit-norm again: `w_c = m_c / |m_c|`, `m_c = mean(e / |e|)` over class c.

    The images' counterpart of a prompt ensemble (Radford et al. 2021, §3.1.4). Sums are taken in float64.

    Args:
        embeddings: of the training samples; their length does not matter.
        labels: class indices.
        classes: words of the classes.
        logit_scale: factor on cosines.

    Raises:
        InputError: a class without samples.

    Example:
        >>> embeddings, labels = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([1, 0])
        >>> class_means(embeddings, labels, ("red", "blue"), logit_scale=1.0).weights
        tensor([[0., 1.],
                [1., 0.]])
    """
    sums = torch.zeros(len(classes), embeddings.shape[1], dtype=torch.float64)
    sums.index_add_(0, labels.cpu().long(), normalize(embeddings.double().cpu(), dim=-1))
    missing = [classes[row] for row in (sums == 0).all(dim=1).nonzero().flatten().tolist()]
    if missing:
        raise InputError(f"Class means need training images of each class; there are none of {', '.join(missing)}.")
    return ZeroShotClassifier(normalize(sums, dim=-1).to(embeddings), classes, logit_scale)


def templates_of(name: str, data: str) -> tuple[str, ...]:
    """Prompt templates by name (see `RunConfig.templates`).

    Raises:
        InputError: no such name, and no text with one `{}` either.

    >>> templates_of("auto", "attributes:shape@sketch")[0], templates_of("a photo of a {}.", "eurosat")
    ('the {}', ('a photo of a {}.',))
    """
    if name == "auto":
        name = data if data in task_names() else "imagenet"
    if name in task_names():
        attribute = "digit" if name == "digits" else name.partition(":")[2].partition("@")[0]
        return TEMPLATES[attribute]
    if "{}" in name:
        return (name,)
    if name in NAMED_TEMPLATES:
        return templates(name)
    raise InputError(
        f"templates are auto, {', '.join(NAMED_TEMPLATES)}, a task's name such as digits, or a text with one {{}} such "
        f"as 'a photo of a {{}}.'; got {name!r}."
    )
