"""Where units write from, and what must stand there instead for an affine edit of their terms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.hooked.mlp import HookedMLP
from residual_lens.hooked.parts.reference import Ref, plain_linear
from residual_lens.interventions.affine import AffineMap
from residual_lens.units import Unit

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
AS_HOOKS = "Attach the edit as hooks instead."
Place = tuple[torch.device, int, int]
"""Device, first byte, and the byte behind the last."""


@dataclass(frozen=True, eq=False)
class OutputLayer:
    """The linear layer through which units write into the stream: `c = (x W + b / n) ⊙ gain` for each of n units."""

    name: str
    """What it is called in the wrapper."""
    linear: nn.Linear
    """The layer."""
    units: tuple[Unit, ...]
    """All heads of a layer, or one MLP."""
    gain: Ref | None
    """LayerScale's factors behind it."""

    @classmethod
    def of(cls, hvit: HookedViT, unit: Unit) -> "OutputLayer":
        """The layer of a unit.

        Raises:
            InputError: the unit has none.
        """
        if unit.kind == "pool":
            parts = cast(HookedMLP, hvit.pool.mlp).parts
            return cls("pool.mlp", parts.out, (unit,), parts.gain)
        if unit.layer is None:
            raise InputError(
                f"{unit.name} is not written by one linear layer: heads and MLPs can be baked. Leave it out of the "
                f"edit (or name it among what keep_only keeps). {AS_HOOKS}"
            )
        block = hvit.parts.blocks[unit.layer]
        if unit.kind == "mlp":
            return cls(f"blocks.{unit.layer}.mlp", block.mlp.out, (unit,), block.mlp.gain)
        heads = tuple(hvit.units[f"L{unit.layer}H{head}"] for head in range(hvit.cfg.n_heads))
        return cls(f"blocks.{unit.layer}.attn", block.attention.out, heads, block.attention.gain)

    def edited(self, edits: Sequence[Mapping[str, AffineMap]]) -> dict[str, Tensor]:
        """Weight and (where it changes) bias under which each unit writes what the edits make of its term.

        `W' = W M` and `b' = Σ_unit (b M / n + t)`, in float64, between the factors of LayerScale. Units that no edit
        names keep their bits.

        Args:
            edits: maps by unit name, applied in this order.

        Returns:
            `"weight"` and `"bias"` in the layer's dtype.

        Raises:
            InputError: a constant for a layer without bias, a term where LayerScale is 0, or what the dtype cannot
                hold.
        """
        weight, bias = self.linear.weight.detach(), self.linear.bias
        gain = torch.ones_like(weight[:, 0]).double() if self.gain is None else self.gain().detach().double()
        by_unit = rearrange(weight.double(), "m (unit d) -> unit d m", unit=len(self.units)).clone()
        share = torch.zeros_like(gain) if bias is None else bias.detach().double() * gain / len(self.units)
        added = torch.zeros_like(gain)
        for row, unit in enumerate(self.units):
            maps = [edit[unit.name] for edit in edits if unit.name in edit]
            if maps:
                terms = torch.cat([by_unit[row] * gain, share[None]])
                for each in maps:
                    terms = terms @ each.matrix.to(terms)
                    terms[-1] += each.offset.to(terms)
                by_unit[row] = self._without_gain(terms[:-1], gain, by_unit[row], unit)
                added += terms[-1] - share
        values = {"weight": rearrange(by_unit, "unit d m -> m (unit d)").to(weight.dtype)}
        if bool(added.any()):
            if bias is None:
                raise InputError(
                    f"{self.name} has no output bias, and the edit adds a constant there (up to "
                    f"{float(added.abs().max()):.2g}): only edits without one, such as scaling and zero ablation, can "
                    f"be baked. {AS_HOOKS}"
                )
            kept = bias.detach().double()
            values["bias"] = (kept + self._without_gain(added, gain, 0 * kept, self.units[0])).to(bias.dtype)
        if not all(bool(value.isfinite().all()) for value in values.values()):
            raise InputError(
                f"{self.name}: the edited weights do not fit into {weight.dtype} (LayerScale is as small as "
                f"{float(gain.abs().min()):.2g} there). Cast the model to a wider dtype, or attach the edit as hooks."
            )
        return values

    def _without_gain(
        self,
        written: Float[Tensor, "*rows d_model"],
        gain: Float[Tensor, "d_model"],
        before: Float[Tensor, "*rows d_model"],
        unit: Unit,
    ) -> Float[Tensor, "*rows d_model"]:
        """What LayerScale turns into `written`; where it is 0, what stood there before."""
        silent = gain == 0
        if bool(written[..., silent].any()):
            raise InputError(
                f"{self.name}: LayerScale is 0 in {int(silent.sum())} coordinates, so that no weights let {unit.name} "
                f"write there, as the edit asks. {AS_HOOKS}"
            )
        return torch.where(silent, before, written / gain.masked_fill(silent, 1))


@dataclass(frozen=True, eq=False)
class Layout:
    """Every tensor of a model by all names that lead to it, and the bytes in which it lies."""

    places: tuple[tuple[str, Place], ...]

    @classmethod
    def of(cls, source: nn.Module) -> "Layout":
        """The model as it is."""
        places = []
        # Also modules that stand at several places, by each of their names.
        for path, module in source.named_modules(remove_duplicate=False):
            for name, tensor in chain(module._parameters.items(), module._buffers.items()):
                if tensor is not None and type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided:
                    places.append((f"{path}.{name}" if path else name, _place(tensor)))
        return cls(tuple(places))

    def parameter_names(self, layer: OutputLayer, model_name: str) -> dict[str, str]:
        """Names in the model of a layer's weight and bias, both found to be parameters that one may write to.

        Raises:
            InputError: they are computed from others, quantised, of an integer dtype, without memory, or used twice.
            UnsupportedModelError: the layer carries hooks.
        """
        plain_linear(layer.linear, layer.name, model_name)
        names = {}
        for key in ("weight", "bias"):
            parameter = layer.linear._parameters.get(key)
            if parameter is None and key == "bias" and layer.linear.bias is None:
                continue
            what = f"{layer.name}: the {key} of its output projection"
            device, start, stop = _place(_writable(parameter, what))
            shared = [name for name, (d, first, last) in self.places if d == device and first < stop and start < last]
            if len(shared) != 1:
                raise InputError(
                    f"{what} is used {len(shared)} times ({', '.join(shared)}): what is written for one unit would "
                    f"change the others. Untie the weights (a copy for each). {AS_HOOKS}"
                )
            names[key] = shared[0]
        return names


def _writable(parameter: Tensor | None, what: str) -> nn.Parameter:
    """A plain parameter that one may write to.

    Raises:
        InputError: it is none.
    """
    if type(parameter) is not nn.Parameter:
        raise InputError(
            f"{what} is {'computed from others' if parameter is None else type(parameter).__name__}, not a plain "
            "parameter. Make it one first (remove parametrizations or weight norm, load the model unquantised and "
            f"unsharded). {AS_HOOKS}"
        )
    if parameter.dtype not in FLOATING or parameter.is_meta or parameter.is_inference():
        raise InputError(
            f"{what} is {parameter.dtype} on {parameter.device}"
            f"{', made in inference mode' if parameter.is_inference() else ''}: it cannot be written to. Load the "
            "model in a floating dtype, into memory, outside of torch.inference_mode()."
        )
    return parameter


def _place(tensor: Tensor) -> Place:
    """Device, first byte and the one behind the last."""
    start = tensor.data_ptr()
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.device, start, start + (reach + 1) * tensor.element_size() if tensor.numel() else start
