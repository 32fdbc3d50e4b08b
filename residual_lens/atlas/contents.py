"""What an atlas holds: plain values only, so that `to_json` is the page's whole input."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """A number a unit that the grid can be coloured by."""

    key: str
    """In `UnitEntry.measures` and in the page's address."""
    name: str
    """For people."""
    explanation: str
    """One or two sentences: what it says, its scale."""
    group: str
    """Where the page lists it: "dimension", "relation", "effect" or "training"."""
    diverging: bool = False
    """Whether zero is the middle of its colours."""
    digits: int = 2
    """After the decimal point."""


@dataclass(frozen=True)
class Said:
    """A text of a unit's description."""

    text: str
    weight: float
    """What it adds to the share that is explained, over the largest that one of the texts adds."""
    explained: float
    """Share of the unit's variance that the texts up to here explain together."""


@dataclass(frozen=True)
class ComponentEntry:
    """A principal component of a unit, and the images at both ends."""

    share: float
    """Of the unit's variance, in [0, 1]."""
    low: tuple[int, ...]
    """Images of smallest coordinate, the very smallest first: places in `Atlas.images`."""
    high: tuple[int, ...]
    """Of largest."""
    low_texts: tuple[str, ...]
    """Texts nearest to the negative direction; empty where the model has no text tower."""
    high_texts: tuple[str, ...]
    """Texts nearest to the direction."""


@dataclass(frozen=True)
class ClassEffect:
    """What mean-ablating a unit does to one task: recall by class."""

    task: int
    """Place in `Atlas.tasks`."""
    accuracy: float
    """Of the whole task without the unit, in [0, 1]."""
    classes: tuple[float | None, ...]
    """Share of each class' images that are classified right without the unit; None for a class without images."""
    contrast: float | None
    """Share of the task's contrast that goes with the unit: 0 where it has none, negative where there is more without
    it. An image's contrast is `⟨e, w_y − mean of the other classes' w⟩`, which a model can lose long before its
    accuracy; where classes are balanced the shares of all units add up to 1. None where the whole model has none."""
    contrast_error: float | None
    """Its standard error over the task's images."""
    contrasts: tuple[float | None, ...]
    """`contrast` of each class' images alone; None also where a class has no images."""


@dataclass(frozen=True)
class UnitEntry:
    """A unit's page."""

    name: str
    """ "L5H2", "5_mlp_out"."""
    kind: str
    """ "head" or "mlp"."""
    layer: int
    column: int
    """Its place in the layer: the head's number; heads' count for an MLP."""
    measures: dict[str, float | None]
    """By key; None where a measure is not defined for it."""
    description: tuple[Said, ...]
    explained: float | None
    """Share of the unit's variance that the first five texts explain; None without texts, as are the next three."""
    explained_by_chance: float | None
    """The same, on average, with random dictionaries in the place of the texts."""
    p_value: float | None
    """How often random dictionaries explain as much: above 0.05 the description means nothing."""
    coherence: float | None
    """Mean cosine between the first five texts: whether they speak of one thing."""
    spectrum: tuple[float, ...]
    """Shares of variance, falling; none of a unit that does not vary."""
    components: tuple[ComponentEntry, ...]
    """The first few."""
    scales: tuple[float, ...] | None
    """λ of each component after training, in the order of the spectrum; None without a run, or where it left the unit
    out."""
    scales_before: tuple[float, ...] | None
    """The same at the start of training; None also where the run does not tell."""
    effects: tuple[ClassEffect, ...]
    attention: dict[int, str]
    """By image, of those at the ends of its components: attention of the token that the embedding is read at (or the
    mean over several) to the grid of patches, bytes of rows × columns in base64, 255 the largest. Empty for MLPs."""


@dataclass(frozen=True)
class TaskEntry:
    """A store's labels, and how well the whole model does on them."""

    name: str
    classes: tuple[str, ...]
    n_images: int
    accuracy: float
    """Of the unchanged model, zero-shot (or by class means), in [0, 1]."""
    class_accuracies: tuple[float | None, ...]
    """None for a class without images."""


@dataclass(frozen=True)
class Atlas:
    """Everything that the page shows."""

    title: str
    model: str
    facts: dict[str, str]
    """How it was made, in words: stores, images, run, classifier, version of the library."""
    n_layers: int
    n_heads: int
    measures: tuple[Measure, ...]
    tasks: tuple[TaskEntry, ...]
    units: tuple[UnitEntry, ...]
    images: tuple[str, ...]
    """Thumbnails of what the model sees as data URIs (WebP), each stored once."""
    captions: tuple[str, ...]
    """Of the images: their class, or their name in the data set where they have none."""
    grid: tuple[int, int]
    """Rows and columns of patches."""
    scale_start: float | None
    """The λ that changes nothing, and around which it starts: 1; None without a run."""

    def to_json(self) -> dict[str, Any]:
        """Nested dictionaries and lists of plain values."""
        return asdict(self)
