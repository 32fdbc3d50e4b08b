"""What components and units say: texts along a direction, and texts that span a unit's contribution."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from residual_lens.activations import Store
from residual_lens.report.explanation import Label
from residual_lens.spectral import somp
from residual_lens.text import Dictionary
from residual_lens.training.cached import CachedSamples

NO_TEXTS = Label((), 0.0)


def texts_along(
    directions: Float[Tensor, "component d_out"], dictionary: Dictionary | None, n: int
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The texts with the largest and the smallest product with each direction, best first; none without a dictionary.

    What all texts have in common does not count: it adds the same to each of a direction's products.
    """
    if dictionary is None:
        return [((), ())] * len(directions)
    products = directions.double().cpu() @ dictionary.embeddings.double().mT
    order = products.argsort(dim=1, descending=True, stable=True)

    def texts(places: Int[Tensor, "_"]) -> tuple[str, ...]:
        return tuple(dictionary.texts[at] for at in places[:n].tolist())

    return [(texts(row), texts(row.flip(0))) for row in order]


@dataclass(frozen=True, eq=False)
class UnitEdit:
    """What λ does to one unit's contributions."""

    unit: str
    """Its name."""
    values: Float[Tensor, "sample component"]
    """Its principal coordinates."""
    directions: Float[Tensor, "component d_out"]
    """Its components."""
    scales: Float[Tensor, "component"]
    """Its λ."""
    rest_passes: bool
    """Whether what lies beyond the components stays ("residual") or is dropped ("residual*")."""


def labels_of_unit(
    source: Store | CachedSamples, edit: UnitEdit, dictionary: Dictionary, n: int
) -> tuple[Label, Label]:
    """Texts for a unit's contribution as the model makes it, and for what the edit leaves in its place.

    Texts are picked by `somp`, which takes the mean off, so that it is all one whether the edit keeps it.

    Args:
        source: where contributions are, of the samples of the edit's values.
        edit: of the unit.
        dictionary: texts.
        n: texts each.
    """
    contributions, frame = _contributions(source, edit.unit)
    directions = edit.directions.double() if frame is None else edit.directions.double() @ frame.mT
    if edit.rest_passes:
        edited = contributions + (edit.values.double() * (edit.scales.double() - 1)) @ directions
    else:
        edited = edit.values.double() * edit.scales.double() @ directions
    return _label(contributions, frame, dictionary, n), _label(edited, frame, dictionary, n)


def _contributions(
    source: Store | CachedSamples, unit: str
) -> tuple[Float[Tensor, "sample rank"], Float[Tensor, "rank d_out"] | None]:
    if isinstance(source, Store):
        return source.coordinates(unit)
    return source.decomposition[unit].double().cpu(), None


def _label(
    contributions: Float[Tensor, "sample rank"],
    frame: Float[Tensor, "rank d_out"] | None,
    dictionary: Dictionary,
    n: int,
) -> Label:
    found = somp(contributions, dictionary.embeddings, n, frame=frame)
    explained = found.explained_variance.tolist()
    return Label(tuple(dictionary.texts[at] for at in found.indices.tolist()), explained[-1] if explained else 0.0)
