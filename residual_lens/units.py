"""Names and order of the units: the additive terms of an image embedding.

`embed`, then for every layer its heads `L3H5` and its MLP `3_mlp_out`, then `pool_mlp_out` (the MLP of an attention
pooling, where there is one), then `bias`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from residual_lens.errors import InputError, did_you_mean

UnitKind = Literal["embed", "head", "mlp", "pool", "bias"]


@dataclass(frozen=True)
class Unit:
    """One additive term of the image embedding, and where it is hooked.

    Example:
        >>> unit = Units.of_vit(n_layers=4, n_heads=8)["L3H5"]
        >>> unit.hook_name, unit.direct_hook_name, unit.index
        ('blocks.3.attn.hook_z', 'blocks.3.attn.hook_direct', 5)
    """

    name: str
    """`embed`, `L3H5`, `3_mlp_out`, `pool_mlp_out` or `bias`."""
    kind: UnitKind
    """Which sort of term it is."""
    layer: int | None
    """Layer, `None` for units that belong to none."""
    index: int | None
    """Place on the head axis of its hook points; `None` where the hook point is the unit's alone."""
    hook_name: str | None
    """Hook point of the term in the stream (a head's `z`); `None` for `bias`, which is not in the stream."""
    direct_hook_name: str
    """Hook point of the term's direct contribution to the embedding."""

    @classmethod
    def named(cls, name: str) -> "Unit":
        """The unit that a name stands for, whatever the size of the model.

        Raises:
            InputError: no unit is ever called that.
        """
        head, mlp = re.fullmatch(r"L(\d+)H(\d+)", name), re.fullmatch(r"(\d+)_mlp_out", name)
        if head:
            block = f"blocks.{head[1]}.attn"
            return cls(name, "head", int(head[1]), int(head[2]), f"{block}.hook_z", f"{block}.hook_direct")
        if mlp:
            block = f"blocks.{mlp[1]}"
            return cls(name, "mlp", int(mlp[1]), None, f"{block}.hook_mlp_out", f"{block}.hook_mlp_direct")
        if name == "embed":
            return cls(name, "embed", None, None, "blocks.0.hook_resid_pre", "hook_embed_direct")
        if name == "pool_mlp_out":
            return cls(name, "pool", None, None, "pool.hook_mlp_out", "pool.hook_mlp_direct")
        if name == "bias":
            return cls(name, "bias", None, None, None, "hook_bias_direct")
        raise InputError(
            f"No unit is called {name!r}: heads are like 'L0H0', MLPs like '0_mlp_out', then 'embed', 'pool_mlp_out', "
            "'bias'."
        )

    def read(self, activation: Float[Tensor, "*leading d"]) -> Float[Tensor, "*rest d"]:
        """This unit's part of an activation at `hook_name` or `direct_hook_name`, as a view.

        Args:
            activation: `[batch pos head d_head]`, `[batch head d_out]`, or the unit's own tensor.

        Returns:
            The same tensor without its head axis.
        """
        return activation if self.index is None else activation[..., self.index, :]

    def replace(
        self, activation: Float[Tensor, "*leading d"], value: Float[Tensor, "*rest d"] | float
    ) -> Float[Tensor, "*leading d"]:
        """A copy of an activation in which only this unit's part is `value`; the neighbours keep theirs.

        Args:
            activation: as for `read`.
            value: what `read` would give, or anything that broadcasts to it.

        Returns:
            A new tensor; `activation` is left alone, and gradients flow to both.
        """
        out = activation.clone()
        if self.index is None:
            out[...] = value
        else:
            out[..., self.index, :] = value
        return out


class Units(Sequence[Unit]):
    """The units of a model in the order of every `unit` axis.

    Example:
        >>> units = Units.of_vit(n_layers=2, n_heads=2)
        >>> units.names
        ('embed', 'L0H0', 'L0H1', '0_mlp_out', 'L1H0', 'L1H1', '1_mlp_out', 'bias')
        >>> [unit.name for unit in units.select("L1")]
        ['L1H0', 'L1H1', '1_mlp_out']
        >>> units.position("1_mlp_out")
        6
    """

    def __init__(self, units: Iterable[Unit]) -> None:
        self._units = tuple(units)
        self._position = {unit.name: i for i, unit in enumerate(self._units)}

    @classmethod
    def of_vit(cls, n_layers: int, n_heads: int, *, bias: bool = True, pool_mlp: bool = False) -> "Units":
        """All units of a pre-norm ViT.

        Args:
            n_layers: blocks.
            n_heads: heads in each.
            bias: whether there is a unit `bias` (centring "uniform" has none).
            pool_mlp: whether tokens are pooled by attention with an MLP of its own.
        """
        names = ["embed"]
        for layer in range(n_layers):
            names += [*(f"L{layer}H{head}" for head in range(n_heads)), f"{layer}_mlp_out"]
        if pool_mlp:
            names.append("pool_mlp_out")
        if bias:
            names.append("bias")
        return cls(Unit.named(name) for name in names)

    @property
    def names(self) -> tuple[str, ...]:
        """The names in order."""
        return tuple(unit.name for unit in self._units)

    def position(self, name: str) -> int:
        """Place of a unit on the `unit` axis."""
        if name not in self._position:
            raise InputError(self._unknown(name))
        return self._position[name]

    def select(self, which: str | Unit | Iterable[str | Unit]) -> tuple[Unit, ...]:
        """Units by a selector, in the order of the model.

        Args:
            which: `"all"`, `"heads"`, `"mlps"`, a layer `"L3"`, a unit or its name, or several of these.

        Raises:
            InputError: nothing is called that, with the closest names.
        """
        selectors = [which] if isinstance(which, str | Unit) else list(which)
        names = [one.name if isinstance(one, Unit) else one for one in selectors]
        chosen = {name for selector in names for name in self._matching(selector)}
        return tuple(unit for unit in self._units if unit.name in chosen)

    def _matching(self, selector: str) -> list[str]:
        layer = re.fullmatch(r"L(\d+)", selector)
        kinds = {"heads": "head", "mlps": "mlp"}
        if selector == "all":
            return list(self.names)
        if selector in kinds:
            return [unit.name for unit in self._units if unit.kind == kinds[selector]]
        if layer:
            names = [unit.name for unit in self._units if unit.layer == int(layer[1])]
            if names:
                return names
        return [self[selector].name]

    def _unknown(self, name: str) -> str:
        return (
            f"There is no unit {name!r}.{did_you_mean(name, self.names)} Units here are {self.names[0]} … "
            f"{self.names[-1]} ({len(self)} in all): heads are called like 'L0H0', MLPs like '0_mlp_out'."
        )

    def __getitem__(self, key: str | int) -> Unit:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A unit by name or by place (slices are not offered: use `select`)."""
        return self._units[self.position(key) if isinstance(key, str) else key]

    def __contains__(self, key: object) -> bool:
        """Whether there is such a unit, by name or as a `Unit`."""
        return key in self._position or key in self._units

    def __len__(self) -> int:
        return len(self._units)

    def __iter__(self) -> Iterator[Unit]:
        return iter(self._units)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Units) and self._units == other._units

    def __hash__(self) -> int:
        return hash(self._units)

    def __repr__(self) -> str:
        return f"Units({len(self)}: {self.names[0]} … {self.names[-1]})"
