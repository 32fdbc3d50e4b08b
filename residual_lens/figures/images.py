"""Images in rows: what lies at both ends of a principal component."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from residual_lens.activations import Rows, Store
from residual_lens.bases import Bases, fit_bases
from residual_lens.data import ImageSet
from residual_lens.errors import InputError, MismatchError
from residual_lens.figures.look import TITLE, axes_or_new

Picture = Image.Image | Float[Tensor, "channel height width"]
"""A Pillow image; or pixels in [0, 1], before `hvit.normalize`."""
GAP = 0.06
"""Between images, in shares of their side."""


def image_grid(rows: Mapping[str, Sequence[Picture]], *, title: str = "", axes: Axes | None = None) -> Axes:
    """Rows of images, each with its name on the left.

    Every image has a square cell, which it fills with its longer side.

    Args:
        rows: images by name of the row, the first on top. Rows may differ in length.
        title: stands above.
        axes: where to draw; a figure of its own by default.

    Returns:
        The axes.

    Raises:
        InputError: no images, or what is no image.

    Example:
        >>> axes = image_grid({"grey": [torch.full((3, 4, 4), 0.5)] * 2, "wide": [Image.new("RGB", (8, 4))]})
        >>> len(axes.images), [text.get_text() for text in axes.get_yticklabels()]
        (3, ['grey', 'wide'])
    """
    found = {name: [pixels(picture) for picture in row] for name, row in rows.items()}
    longest = max(map(len, found.values()), default=0)
    if not longest:
        raise InputError("There is no image to draw: give at least one.")
    axes = axes_or_new(axes, min(1.4 + 0.62 * longest, 9.0), 0.5 + 0.62 * len(found))
    for row, pictures in enumerate(found.values()):
        for column, picture in enumerate(pictures):
            height, width = np.array(picture.shape[:2]) / max(picture.shape[:2]) * (1 - GAP) / 2
            place = (column - width, column + width, row + height, row - height)
            axes.imshow(picture, extent=place, interpolation="nearest")
    axes.set_xlim(-0.5, longest - 0.5)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks(range(len(found)), list(found))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, **TITLE)
    return axes


def component_ends(
    store: Store,
    images: ImageSet,
    unit: str,
    component: int = 0,
    *,
    bases: Bases | None = None,
    n_images: int = 8,
    rows: Rows = None,
    title: str | None = None,
    axes: Axes | None = None,
) -> Axes:
    """The images that lie furthest along a unit's principal component, and those that lie furthest against it.

    Args:
        store: activations of these images.
        images: what the store was encoded from.
        unit: its name.
        component: from 0, that of largest variance.
        bases: whose component it is; by default fitted on the store.
        n_images: at each end.
        rows: samples to choose from, all by default.
        title: stands above; unit, component and its share of the variance by default.
        axes: where to draw; a figure of its own by default.

    Returns:
        The axes. The furthest image of each row is its first.

    Raises:
        InputError: no such unit, component or rows, or fewer than two images at each end.
        MismatchError: images that the store does not know.

    Example:
        >>> with Store("digits.h5") as store:  # doctest: +SKIP
        ...     axes = component_ends(store, open_images("digits"), "L5H2")
    """
    bases = fit_bases(store, units=unit, rows=rows) if bases is None else bases
    against, along = ends_of_component(store, unit, component, bases, n_images, rows)
    row_of = rows_of(store, images, (*against.tolist(), *along.tolist()))
    if title is None:
        basis = bases[unit]
        share = float(basis.variances[component] / basis.total_variance) if basis.total_variance else 0.0
        title = f"{unit}, component {component}: {100 * share:.0f} % of its variance"
    ends = {"along": along, "against": against}
    grid = {name: [images[row_of[place]][0] for place in end] for name, end in ends.items()}
    return image_grid(grid, title=title, axes=axes)


@torch.no_grad()
def ends_of_component(
    store: Store, unit: str, component: int, bases: Bases, n_samples: int, rows: Rows = None
) -> tuple[Int[np.ndarray, "sample"], Int[np.ndarray, "sample"]]:
    """Samples with the smallest and with the largest coordinate `⟨u − μ, φ⟩` on a component.

    Args:
        store: activations.
        unit: its name.
        component: from 0.
        bases: whose component it is, of the same model.
        n_samples: at each end, no more than half of those there are.
        rows: samples to choose from, all by default.

    Returns:
        Places in the store, the furthest first.

    Raises:
        InputError: no such unit, component or rows, or too many samples asked for.
        MismatchError: bases of another model.
    """
    if bases.fingerprint != store.provenance.model_fingerprint or bases.center != store.layout.center:
        raise MismatchError(f"{bases} do not belong to {store}: fit bases on a store of the same model.")
    # In the order of the file, whatever order rows are given in, so that no block of it is gone back to.
    basis, places = bases[unit], np.sort(store.places(rows))
    if not 0 <= component < len(basis.components):
        raise InputError(f"{unit} has components 0 to {len(basis.components) - 1}, got {component}.")
    if not 1 <= n_samples <= len(places) // 2:
        raise InputError(
            f"Of {len(places)} samples each end has 1 to {len(places) // 2}, got {n_samples}: ask for fewer."
        )
    along = coordinates_along(store, unit, basis.components[component, None], places)[:, 0]
    order = places[along.argsort(stable=True).numpy()]
    return order[:n_samples], order[::-1][:n_samples].copy()


def coordinates_along(
    store: Store, unit: str, directions: Float[Tensor, "component d_out"], places: Int[np.ndarray, "sample"]
) -> Float[Tensor, "sample component"]:
    """`⟨u, φ⟩` of a unit's contributions with directions, float64, block by block; the mean would move all alike."""
    directions = directions.to("cpu", torch.float64)
    parts = []
    for at in store.blocks(places):
        values, frame = store.coordinates(unit, at)
        parts.append(values @ (directions.mT if frame is None else frame @ directions.mT))
    return torch.cat(parts)


def rows_of(store: Store, images: ImageSet, places: Iterable[int]) -> dict[int, int]:
    """Rows of images in their data set, by place in the store.

    Raises:
        MismatchError: images that the store does not know.
    """
    ids, rows = store.sample_ids, {images.sample_id(row): row for row in range(len(images))}
    wanted = {place: ids[place] for place in places}
    if foreign := [name for name in wanted.values() if name not in rows]:
        raise MismatchError(
            f"{images.name}/{images.split} has no image {foreign[0]}, which {store.path} was encoded from: open "
            f"{store.provenance.data}/{store.provenance.split} with the same limit and seed."
        )
    return {place: rows[name] for place, name in wanted.items()}


def pixels(picture: Picture) -> UInt8[np.ndarray, "height width 3"]:
    """An image as bytes, as matplotlib takes it.

    Raises:
        InputError: not an image, or pixels outside [0, 1].
    """
    if isinstance(picture, Image.Image):
        return np.asarray(picture.convert("RGB"))
    if not isinstance(picture, Tensor) or picture.ndim != 3 or picture.shape[0] not in (1, 3) or not picture.numel():
        got = f"shape {list(picture.shape)}" if isinstance(picture, Tensor) else type(picture).__name__
        raise InputError(f"Expected a Pillow image or pixels [channel height width] of 1 or 3 channels, got {got}.")
    values = picture.detach().to("cpu", torch.float32)
    # Written so that NaN is refused as well.
    if not (values.min() >= 0 and values.max() <= 1):
        raise InputError("Pixels lie in [0, 1]: give images as they are before hvit.normalize or preprocessing.")
    return (values.expand(3, -1, -1).permute(1, 2, 0) * 255).round().byte().numpy()
