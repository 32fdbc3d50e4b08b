"""What edits of chosen units have in common: they belong to a model, come as hooks, and leave with their context."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import groupby
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.hooked.root import Hook
from residual_lens.interventions.adapter import Path
from residual_lens.interventions.affine import AffineMap, AffineMaps
from residual_lens.units import Unit

Change = Callable[[Unit, Float[Tensor, "*batch d"]], Float[Tensor, "*batch d"]]
"""What becomes of a unit's part of an activation."""


class Edit(ABC):
    """An edit of some units of a model, in force inside `with edit:`.

    The context gives the model. It may be entered again, nested, and combined with other edits, with `hvit.hooks` and
    with `Adapter.attached`, in any order. Edits of the same unit act in the order in which they were entered. On the
    stream path an edit also counts as what the unit wrote: `decompose` and `extract` show it, and still sum to the
    embedding.

    An edit is made for the weights as they are: make it anew after training them.

    Example:
        >>> from residual_lens.interventions import ablate, scale
        >>> hvit = HookedViT.from_pretrained("attribute-clip")
        >>> images = torch.zeros(2, 3, *hvit.cfg.image_size)
        >>> ablate(hvit, "L3")
        Edit(zero ablation of 7 units L3H0 … 3_mlp_out of attribute-clip, path='direct')
        >>> with ablate(hvit, ["L3H5"]), scale(hvit, {"3_mlp_out": 2.0}, path="stream") as edited:
        ...     embedding = edited(images)
        >>> hvit.hooked_points()
        []
    """

    def __init__(self, hvit: HookedViT, units: Sequence[Unit], path: Path, doing: str) -> None:
        """Of units in the order of the model; `doing` says what is done to them, for messages."""
        self.hvit = hvit
        self.path: Path = path
        self.units = tuple(unit.name for unit in units)
        self.doing = doing
        self._chosen = tuple(units)
        self._entered: list[AbstractContextManager[object]] = []

    @abstractmethod
    def hooks(self) -> list[Hook]:
        """The hooks that make the edit, for `hvit.hooks`."""

    @abstractmethod
    def _stream_map(self, unit: Unit) -> AffineMap:
        """What the edit does to a unit's term in the stream."""

    def stream_maps(self) -> Mapping[str, AffineMap]:
        """What the edit does to what each unit adds to the stream, `c ↦ c M + t`, by unit name.

        Returns:
            In float64; each is made when it is asked for.

        Raises:
            InputError: it acts on the direct path, draws at random, or does not do the same at every token.
        """
        if self.path != "stream":
            raise InputError(
                f"{self!r} changes direct contributions to the embedding, and nothing in the stream: make it with "
                "path='stream'."
            )
        # What is no affine map for one unit is none for the others.
        for unit in self._chosen[:1]:
            self._stream_map(unit)
        return AffineMaps({unit.name: partial(self._stream_map, unit) for unit in self._chosen})

    def __enter__(self) -> HookedViT:
        context = self.hvit.hooks(self.hooks())
        context.__enter__()
        self._entered.append(context)
        return self.hvit

    def __exit__(self, *exception: object) -> None:
        self._entered.pop().__exit__(None, None, None)

    def __repr__(self) -> str:
        names = self.units
        some = f" {names[0]} … {names[-1]}" if len(names) > 1 else "".join(f" {name}" for name in names)
        return (
            f"Edit({self.doing} of {len(names)} unit{'' if len(names) == 1 else 's'}{some} of "
            f"{self.hvit.cfg.model_name}, path={self.path!r})"
        )


class AffineEdit(Edit):
    """`x ↦ factor · x + offset` for what each unit contributes, or adds to the stream at every token."""

    def __init__(
        self,
        hvit: HookedViT,
        path: Path,
        doing: str,
        *,
        factors: Mapping[Unit, float],
        offsets: Mapping[Unit, Float[Tensor, "d"]] | None = None,
    ) -> None:
        super().__init__(hvit, [unit for unit in hvit.units if unit in factors], path, doing)
        self._factors = dict(factors)
        self._offsets = dict(offsets or {})

    def hooks(self) -> list[Hook]:
        return [changing(point, units, self._changed) for point, units in by_point(self._chosen, self._point_of)]

    def _point_of(self, unit: Unit) -> str:
        return unit.direct_hook_name if self.path == "direct" else result_point(unit)

    def _changed(self, unit: Unit, part: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        factor, constant = self._factors[unit], self._offsets.get(unit, 0.0)
        if unit.kind == "head" and self.path == "stream":
            # `hook_result` leaves out the share s of the output bias, and f (r + s) − s = f r + (f − 1) s.
            constant = (factor - 1) * share_of_bias(self.hvit, unit) + constant
        constant = constant.to(part) if isinstance(constant, Tensor) else constant
        # Multiplied by zero, what is not finite would stay.
        return (torch.zeros_like(part) if factor == 0 else factor * part) + constant

    def _stream_map(self, unit: Unit) -> AffineMap:
        width = _stream_width(self.hvit, unit)
        matrix = self._factors[unit] * torch.eye(width, dtype=torch.float64, device=self.hvit.device)
        offset = self._offsets.get(unit, matrix.new_zeros(width))
        return AffineMap(matrix, offset.to(matrix))


def checked_path(path: str) -> Path:
    """`path` if it is one of the two paths.

    Raises:
        InputError: it is not.
    """
    if path == "direct" or path == "stream":
        return path
    raise InputError(f"path must be 'direct' or 'stream', got {path!r}.")


def edited_units(hvit: HookedViT, which: str | Unit | Iterable[str | Unit], path: Path) -> tuple[Unit, ...]:
    """The units that a selector names, in the order of the model; "all" leaves out `bias` on the stream path.

    Raises:
        InputError: none, unknown ones, or `bias` by name on the stream path.
    """
    selectors = {which} if isinstance(which, str | Unit) else set(which)
    chosen = hvit.units.select(selectors)
    if not chosen:
        raise InputError("No units were named: give 'heads', 'mlps', 'all', a layer like 'L3' or units' names.")
    if path == "direct":
        return chosen
    if selectors & {"bias", Unit.named("bias")}:
        raise InputError(
            "The unit 'bias' is what the final norm and the projection add behind the stream: leave it out, or edit it "
            "with path='direct'."
        )
    return tuple(unit for unit in chosen if unit.kind != "bias")


def checked_number(value: float | int, what: str) -> float:
    """A finite number.

    Raises:
        InputError: it is none.
    """
    if not isinstance(value, float | int) or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"{what} must be a finite number, got {value!r}.")
    return float(value)


def result_point(unit: Unit) -> str:
    """Where a unit's whole term in the stream is seen; of a head, all but its share of the output bias."""
    if unit.kind == "head":
        return f"blocks.{unit.layer}.attn.hook_result"
    return cast(str, unit.hook_name)


def share_of_bias(hvit: HookedViT, head: Unit) -> Float[Tensor, "d_model"]:
    """A head's even share of its layer's output bias."""
    return hvit.attention(cast(int, head.layer)).b_O / hvit.cfg.n_heads


def by_point(units: Iterable[Unit], point_of: Callable[[Unit], str]) -> list[tuple[str, list[Unit]]]:
    """Units by hook point, in the order of the model, which keeps those of one point together."""
    return [(point, list(group)) for point, group in groupby(units, key=point_of)]


def changing(point: str, units: Sequence[Unit], change: Change) -> Hook:
    """A hook that changes the parts of units that share a point, and copies the others."""

    def hook_function(values: Tensor, hook: object) -> Tensor:
        if units[0].index is None:
            return change(units[0], values)
        out = values.clone()
        for unit in units:
            out[..., unit.index, :] = change(unit, unit.read(values))
        return out

    return point, hook_function


def _stream_width(hvit: HookedViT, unit: Unit) -> int:
    return hvit.pool.width(hvit.parts.ln_final) if unit.kind == "pool" else hvit.cfg.d_model
