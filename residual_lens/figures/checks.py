"""What figures refuse before anything is drawn: numbers that are not there."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from residual_lens.errors import InputError

Matrix = Float[Tensor, "row column"] | Float[np.ndarray, "row column"]


def numbers(values: object, what: str, n_axes: int) -> Float[np.ndarray, "..."]:
    """Values as an array of float64 on the CPU.

    Args:
        values: a tensor, an array, or sequences of numbers.
        what: what to call them in messages.
        n_axes: how many axes they must have.

    Raises:
        InputError: another number of axes, none, or some that are NaN or infinite.
    """
    try:
        found = np.asarray(
            values.detach().to("cpu", torch.float64) if isinstance(values, torch.Tensor) else values, dtype=np.float64
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}: expected numbers, got {type(values).__name__} ({error}).") from error
    if found.ndim != n_axes or not found.size:
        raise InputError(
            f"{what}: expected {n_axes} {'axis' if n_axes == 1 else 'axes'} with at least one number, got shape "
            f"{list(found.shape)}."
        )
    if not np.isfinite(found).all():
        place = np.argwhere(~np.isfinite(found))[0].tolist()
        raise InputError(
            f"{what}: {(~np.isfinite(found)).sum()} of {found.size} numbers are NaN or infinite, the first at {place}."
        )
    return found


def named(values: Matrix, rows: Sequence[str], columns: Sequence[str], what: str) -> Float[np.ndarray, "row column"]:
    """A matrix that has a name for each row and column.

    Raises:
        InputError: other numbers of names, or numbers that cannot be drawn.
    """
    found = numbers(values, what, 2)
    if found.shape != (len(rows), len(columns)):
        raise InputError(
            f"{what}: expected {len(rows)} × {len(columns)} as there are names, got {found.shape[0]} × "
            f"{found.shape[1]}."
        )
    return found
