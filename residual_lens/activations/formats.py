"""How values lie on disk: float32, float16, bfloat16, or 16-bit integers that share a scale."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from residual_lens.errors import InputError

ValueFormat = Literal["int16", "float16", "bfloat16", "float32"]

LARGEST_GROUP = 64
"""Values that share a scale, at most: an outlier then costs its own group precision, and nobody else."""
LARGEST_INT16 = 32767

_DTYPES = {
    "int16": torch.int16,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}


def check_format(name: str) -> ValueFormat:
    """`name` if it is a format, else an `InputError`."""
    for known in get_args(ValueFormat):
        if name == known:
            return known
    raise InputError(f"Values are stored as one of {', '.join(get_args(ValueFormat))}, got {name!r}.")


@dataclass(frozen=True)
class Packing:
    """Float32 values to what lies on disk, and back.

    `int16` divides each group of values by `scale = max|value| / 32767` and rounds. It is as short as float16, cannot
    overflow, and its rounding is 2e-5 of normally distributed values (float16: 2e-4, bfloat16: 2e-3; root mean square).
    bfloat16, which numpy lacks, lies on disk as `uint16`: the upper half of a float32.

    Example:
        >>> packing = Packing("int16", width=128)
        >>> raw, scales = packing.pack(torch.linspace(-1, 1, 128))
        >>> raw.dtype, scales.shape
        (dtype('int16'), (2,))
        >>> float((packing.unpack(raw, scales) - torch.linspace(-1, 1, 128)).abs().max()) < 1 / 65534
        True
    """

    name: ValueFormat
    """The format."""
    width: int
    """Length of the last axis."""

    @property
    def dtype(self) -> np.dtype:
        """What HDF5 sees."""
        return np.dtype(np.uint16 if self.name == "bfloat16" else self.name)

    @property
    def groups(self) -> int:
        """Scales for a row of values; 0 for formats without."""
        if self.name != "int16":
            return 0
        return self.width // max(size for size in range(1, LARGEST_GROUP + 1) if self.width % size == 0)

    def pack(
        self, values: Float[Tensor, "*row d"]
    ) -> tuple[Shaped[np.ndarray, "*row d"], Float[np.ndarray, "*row group"]]:
        """What lies on disk, and the scales.

        Raises:
            InputError: values that are not finite, or beyond float16.
        """
        if not values.isfinite().all():
            raise InputError("Some values are NaN or infinite and cannot be stored.")
        if self.name == "int16":
            grouped = values.unflatten(-1, (self.groups, -1))
            largest = grouped.abs().amax(dim=-1, keepdim=True)
            # A group so small that its step would be subnormal is stored as zero.
            tiny = largest < torch.finfo(torch.float32).tiny * LARGEST_INT16
            step = (largest / LARGEST_INT16).masked_fill(tiny, torch.inf)
            raw = (grouped / step).round().flatten(-2)
            scales = step.masked_fill(tiny, 0.0)[..., 0].cpu().numpy()
        else:
            raw, scales = values, np.empty((*values.shape[:-1], 0), dtype=np.float32)
        raw = raw.to(_DTYPES[self.name])
        if not raw.isfinite().all():
            largest = float(values.abs().max())
            raise InputError(f"A value of {largest:.3g} does not fit into {self.name}: store as int16 or float32.")
        if self.name == "bfloat16":
            raw = raw.view(torch.int16)
        return raw.cpu().numpy().view(self.dtype), scales

    def unpack(
        self,
        raw: Shaped[np.ndarray, "*row d"],
        scales: Float[np.ndarray, "*row group"],
        dtype: torch.dtype = torch.float32,
        *,
        factors: Float[Tensor, "*row 1"] | None = None,
        room: Float[Tensor, "*row d"] | None = None,
    ) -> Float[Tensor, "*row d"]:
        """Values in `dtype`, each row times its factor; in `room`, in its dtype, where there is one."""
        stored = torch.from_numpy(raw.view(np.int16) if self.name == "bfloat16" else raw)
        values = torch.empty(stored.shape, dtype=dtype) if room is None else room
        values.copy_(stored.view(torch.bfloat16) if self.name == "bfloat16" else stored)
        if self.name == "int16":
            # Scales and factors make one product with all values, which is the costly one.
            steps = torch.from_numpy(scales).to(values.dtype)
            steps = steps if factors is None else steps * factors
            values.unflatten(-1, (self.groups, -1)).mul_(steps[..., None])
        elif factors is not None:
            values.mul_(factors)
        return values
