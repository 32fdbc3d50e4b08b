"""Which columns an adapter's cached coordinates have, and the pass over the samples that fills them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from residual_lens.errors import InputError
from residual_lens.interventions.adapter import CachedForm, ScaledUnit
from residual_lens.training.cached.contributions import Contributions, Places
from residual_lens.training.cached.tensor_file import Write
from residual_lens.units import Unit


@dataclass(frozen=True, eq=False)
class Columns:
    """A unit's coordinates."""

    unit: Unit
    """Whose."""
    directions: Float[Tensor, "component d_out"]
    """Φ, float64."""
    offset: Float[Tensor, "component"]
    """Coordinates of the mean, float64."""
    index: Int[Tensor, "component"]
    """Places of their scales."""

    @classmethod
    def of(cls, unit: Unit, scaled: ScaledUnit, of: Contributions) -> "Columns":
        """Of a whole unit in as few coordinates as it is exact in."""
        if scaled.directions is None:
            frame = of.frame(unit)
            directions = torch.eye(of.origin.d_out, dtype=torch.float64) if frame is None else _exact(frame)
            index = torch.full((len(directions),), scaled.first)
        else:
            directions = _exact(scaled.directions)
            index = scaled.first + torch.arange(len(directions))
        offset = torch.zeros(len(index)) if scaled.mean is None else directions @ _exact(scaled.mean)
        return cls(unit, directions, _exact(offset), index)


@dataclass(frozen=True, eq=False)
class Plan:
    """All columns, in the order of the model's units."""

    columns: Sequence[Columns]
    """By unit."""
    rest_passes: bool
    """See `CachedForm`."""
    constant: Float[Tensor, "d_out"]
    """Added to every embedding."""
    dtype: torch.dtype
    """Of values and directions."""

    @classmethod
    def of(cls, form: CachedForm, of: Contributions, dtype: torch.dtype) -> "Plan":
        """For contributions of some origin."""
        columns = [Columns.of(of.origin.units[name], scaled, of) for name, scaled in form.units.items()]
        constant = torch.zeros(of.origin.d_out) if form.constant is None else form.constant
        return cls([each for each in columns if len(each.index)], form.rest_passes, _exact(constant), dtype)

    @staticmethod
    def width(form: CachedForm, of: Contributions) -> int:
        """How many columns there are, known before any is made."""
        frames = {name: of.frame(of.origin.units[name]) for name, x in form.units.items() if x.directions is None}
        whole = sum(of.origin.d_out if frame is None else len(frame) for frame in frames.values())
        return whole + sum(len(x.directions) for x in form.units.values() if x.directions is not None)

    @property
    def directions(self) -> Float[Tensor, "component d_out"]:
        """Of all columns."""
        return torch.cat([self.constant.new_empty(0, len(self.constant)), *(each.directions for each in self.columns)])

    @property
    def index(self) -> Int[Tensor, "component"]:
        """Of all columns."""
        return torch.cat([torch.empty(0, dtype=torch.int64), *(each.index for each in self.columns)])

    def shapes(self, n_samples: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Dtypes and shapes of the fields of `Coordinates`."""
        components, d_out = sum(len(each.index) for each in self.columns), len(self.constant)
        return {
            "base": (torch.promote_types(self.dtype, torch.float32), (n_samples, d_out)),
            "values": (self.dtype, (n_samples, components)),
            "directions": (self.dtype, (components, d_out)),
            "index": (torch.int64, (components,)),
            "labels": (torch.int64, (n_samples,)),
        }

    def digest(self, of: Contributions, places: Places, labels: Int[Tensor, "sample"]) -> str:
        """Of everything that decides the coordinates."""
        found = hashlib.sha256(f"{of.digest()} {self.dtype} {self.rest_passes}".encode())
        offsets = [each.offset for each in self.columns]
        for tensor in (torch.from_numpy(places), labels, self.constant, self.index, self.directions, *offsets):
            found.update(tensor.contiguous().numpy().data)
        return found.hexdigest()

    def write_samples(self, of: Contributions, places: Places, write: Write, *, progress: bool) -> None:
        """Base and values of samples, each block of which is read once.

        Raises:
            InputError: a contribution that is not finite.
        """
        order = np.argsort(places, kind="stable")
        done = 0
        with tqdm(total=len(places), desc="coordinates", unit="sample", disable=not progress) as bar:
            for at in of.blocks(places[order]):
                rows = order[done : done + len(at)]
                base, values = self._block(of, at)
                finite = (base.sum(dim=1) + values.sum(dim=1, dtype=torch.float64)).isfinite()
                if not bool(finite.all()):
                    raise InputError(f"Contributions of sample {int(at[int(finite.int().argmin())])} are not finite.")
                # Runs of rows, since samples may be asked for in any order.
                for run in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1):
                    here = slice(int(run[0]), int(run[-1]) + 1)
                    write("base", int(rows[run[0]]), base[here])
                    write("values", int(rows[run[0]]), values[here])
                done += len(at)
                bar.update(len(at))

    def _block(
        self, of: Contributions, at: Places
    ) -> tuple[Float[Tensor, "chosen d_out"], Float[Tensor, "chosen component"]]:
        values = torch.empty(len(at), sum(len(each.index) for each in self.columns), dtype=self.dtype)
        embedding = of.embeddings(at) if self.rest_passes else torch.zeros(len(at), len(self.constant)).double()
        base, first = embedding + self.constant, 0
        for each in self.columns:
            found = (of.coordinates(each.unit, at, each.directions) - each.offset).to(self.dtype)
            values[:, first : first + len(each.index)] = found
            first += len(each.index)
            if self.rest_passes:
                # As they were rounded: scales of 1 then give the model's own embedding.
                base -= _exact(found) @ _exact(each.directions.to(self.dtype))
        return base, values


def _exact(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return tensor.detach().double().cpu()
