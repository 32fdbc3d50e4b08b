"""The part of the cache that knows the residual stream: looking up, cutting, normalising, splitting by layer."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.utilities.slice import Slice

from residual_lens.errors import InputError
from residual_lens.hooked.cache.axes import position_axis
from residual_lens.hooked.cache.lookup import NotCachedError, how_to_cache
from residual_lens.hooked.cache.norm import FrozenNorm, position_weights

# What TransformerLens makes a `Slice` of; a tuple is a range.
Range = tuple[int] | tuple[int, int] | tuple[int, int, int]
Sliced = Slice | int | np.integer | Range | list[int] | Tensor | np.ndarray | None
Stack = Float[Tensor, "component *batch_and_pos d"]
LabelledStack = Stack | tuple[Stack, list[str]]

EMBED = "blocks.0.hook_resid_pre"


class View(NamedTuple):
    """How terms are to be seen: at which positions, behind which norm."""

    positions: Slice
    norm: FrozenNorm | None


class StreamCache(ActivationCache):
    """Lookup and the methods of `ActivationCache` that need no weights; users meet `ViTCache`."""

    def __init__(
        self, cache_dict: dict[str, Tensor], model: Any, has_batch_dim: bool = True, pos_slice: Sliced = None
    ) -> None:
        """Around activations.

        Args:
            cache_dict: activations by the names of their hook points.
            model: the `HookedViT` that gave them.
            has_batch_dim: whether they have a batch axis.
            pos_slice: the token positions that were kept of them; `Slice(None)` for all, `None` if that is not known.
        """
        super().__init__(cache_dict, model, has_batch_dim)
        self.pos_slice = pos_slice

    def __getitem__(self, key: str | tuple[Any, ...]) -> Tensor:
        """An activation by name or by TransformerLens' shorthand, such as `"pattern", 3`.

        Raises:
            NotCachedError: the hook point was not cached; the message says how to cache it.
            InputError: there is no such hook point.
        """
        try:
            return super().__getitem__(key)
        except KeyError as error:
            name = str(error.args[0])
        if self.model is not None:
            cast(Any, self.model).names_of(name)
        raise NotCachedError(how_to_cache([name], [name]))

    @torch.no_grad()
    def accumulated_resid(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        layer: int | None = None,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos_slice: Sliced = None,
        mlp_input: bool = False,
        return_labels: bool = False,
    ) -> LabelledStack:
        """The stream at the start of every block up to `layer`.

        Args:
            layer: last block; `n_layers`, -1 or `None` adds the end of the stream ("final_post").
            incl_mid: whether to take the middle of the blocks before it too.
            apply_ln: for the final norm, that norm with statistics of each entry's own, gain and offset included: times
                the projection it is the embedding that the model would give if it ended there. For a block, its norm at
                the cached scale.
            pos_slice: token positions.
            mlp_input: whether to end with the middle of block `layer`.
            return_labels: whether to return labels too ("0_pre", "0_mid", "final_post").

        Raises:
            NotCachedError: something that this needs was not cached.
            InputError: no such layer, or `pos_slice` leaves out what the final norm reads.
        """
        layer = self._layer(layer, mlp_input)
        labels = [f"{index}_{part}" for index in range(layer) for part in ("pre", "mid")[: 1 + incl_mid]]
        labels += [self._end(layer, False)] + ([self._end(layer, True)] if mlp_input else [])
        view = self._view([*map(self._name, labels)], layer, mlp_input, apply_ln, pos_slice)
        stack = torch.stack([self._cut(self._name(label), view) for label in labels])
        if view.norm is not None:
            stack = self.model.ln_final(view.norm.pool(stack)) if layer == self._n_layers else view.norm(stack)
        return (stack, labels) if return_labels else stack

    @torch.no_grad()
    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: str = "all",
        apply_ln: bool = False,
        pos_slice: Sliced = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> LabelledStack:
        """The stream as outputs of layers: `resid_pre_l = embed + Σ_{k<l} (attn_out_k + mlp_out_k)`.

        Args:
            layer: up to the input of this block; `n_layers`, -1 or `None` for all of them.
            mlp_input: up to the input of that block's MLP.
            mode: "all"; "attn" or "mlp" leaves out the other kind.
            apply_ln: whether to apply the norm that reads the stream there (see `apply_ln_to_stack`).
            pos_slice: token positions.
            incl_embeds: whether to include `embed`.
            return_labels: whether to return labels too ("embed", "0_attn_out", "0_mlp_out").

        Raises:
            NotCachedError: something that this needs was not cached.
            InputError: no such layer or mode, or `pos_slice` leaves out what the final norm reads.
        """
        layer = self._layer(layer, mlp_input)
        if mode not in ("all", "mlp", "attn"):
            raise InputError(f"mode={mode!r}: expected 'all', 'mlp' or 'attn'.")
        labels = ["embed"] if incl_embeds else []
        for index in range(layer + mlp_input):
            labels += [f"{index}_attn_out"] if mode != "mlp" else []
            labels += [f"{index}_mlp_out"] if mode != "attn" and index < layer else []
        names = [*map(self._name, labels)]
        view = self._view(names or [EMBED], layer, mlp_input, apply_ln, pos_slice)
        stack = self._terms(names, view) if names else self._terms([EMBED], view)[:0]
        return (stack, labels) if return_labels else stack

    def apply_ln_to_stack(
        self,
        residual_stack: Float[Tensor, "component *batch_and_pos d_model"],
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: Sliced = None,
        batch_slice: Sliced = None,
        has_batch_dim: bool = True,
        recompute_ln: bool = False,
    ) -> Float[Tensor, "component *batch_and_pos_out d_model"]:
        """What components of the stream contribute to the input of a layer, the norm's scale held at its cached value.

        `c → (c − mean(c)) / scale` (without the mean for an RMSNorm), before gain and offset. The final norm of a model
        that normalises the pooled stream pools `c` first, so that the result has no position axis.

        Args:
            residual_stack: components as the other methods give them.
            layer: the block whose norm it is; `n_layers`, -1 or `None` for the final norm.
            mlp_input: the norm in front of that block's MLP.
            pos_slice: the positions that `residual_stack` was cut to.
            batch_slice: images to cut `residual_stack` to.
            has_batch_dim: whether `residual_stack` has a batch axis; if not, `batch_slice` says which image it is.
            recompute_ln: apply the final norm with statistics of each component's own, gain and offset included.

        Raises:
            NotCachedError: the norm's scale was not cached.
            InputError: a stack at other positions or of other images than the scale.
            UnsupportedModelError: the final norm lies behind an attention pooling.
        """
        layer = self._layer(layer, mlp_input)
        images, positions = as_slice(batch_slice), as_slice(pos_slice)
        has_batch_dim = has_batch_dim and self.has_batch_dim
        if has_batch_dim:
            residual_stack = images.apply(residual_stack, dim=1)
        norm = self._norm(layer, mlp_input, positions, images)
        if self.has_batch_dim and not has_batch_dim and norm.scale.shape[0] == 1 and images.mode != "int":
            norm = norm._replace(scale=norm.scale[0])
        if norm.weights is not None and residual_stack.ndim == 2 + (has_batch_dim and images.mode != "int"):
            # An integer pos_slice took the position axis.
            residual_stack = residual_stack.unsqueeze(-2)
        if recompute_ln and layer == self._n_layers:
            return self.model.ln_final(norm.pool(residual_stack))
        return norm(residual_stack)

    @property
    def _n_layers(self) -> int:
        return self.model.cfg.n_layers

    def _layer(self, layer: int | None, mlp_input: bool = False) -> int:
        """The layer meant, checked: TransformerLens takes `None` and -1 for `n_layers`."""
        chosen = self._n_layers if layer is None or layer == -1 else layer
        if not 0 <= chosen <= self._n_layers:
            raise InputError(
                f"layer={layer}: expected 0 to {self._n_layers} ({self._n_layers}, -1 or None: the end of the stream)."
            )
        if mlp_input and chosen == self._n_layers:
            raise InputError(
                f"mlp_input=True asks for the input of a block's MLP, and layer={layer} is the end of the stream: pass "
                f"layer=0 to {chosen - 1}, or leave mlp_input out."
            )
        return chosen

    def _end(self, layer: int, mlp_input: bool) -> str:
        """Label of the stream that enters a layer."""
        if layer == self._n_layers:
            return "final_post"
        return f"{layer}_mid" if mlp_input else f"{layer}_pre"

    def _name(self, label: str) -> str:
        """Hook point of a labelled term or stream."""
        if label == "embed":
            return EMBED
        if label == "final_post":
            return f"blocks.{self._n_layers - 1}.hook_resid_post"
        layer, _, kind = label.partition("_")
        return f"blocks.{layer}.hook_{'resid_' if kind in ('pre', 'mid') else ''}{kind}"

    def _need(self, names: Sequence[str]) -> None:
        missing = [name for name in dict.fromkeys(names) if name not in self.cache_dict]
        if missing:
            raise NotCachedError(how_to_cache(missing, names))

    def _norm_name(self, layer: int, mlp_input: bool) -> str:
        return "ln_final" if layer == self._n_layers else f"blocks.{layer}.ln{1 + mlp_input}"

    def _view(self, names: Sequence[str], layer: int, mlp_input: bool, apply_ln: bool, pos_slice: Sliced) -> View:
        """The view that a method's arguments ask for, after checking that all it needs was cached."""
        scale = [f"{self._norm_name(layer, mlp_input)}.hook_scale"] if apply_ln else []
        self._need([*names, *scale])
        positions = as_slice(pos_slice)
        if not apply_ln:
            return View(positions, None)
        norm = self._norm(layer, mlp_input, positions, Slice(None))
        if norm.weights is not None and positions.mode == "int":
            # The pooled axis stays until it is pooled.
            positions = Slice([cast(int, positions.slice)])
        return View(positions, norm)

    def _norm(self, layer: int, mlp_input: bool, positions: Slice, images: Slice) -> FrozenNorm:
        """The norm that reads the stream at a layer, at its cached scale."""
        name = self._norm_name(layer, mlp_input)
        self._need([f"{name}.hook_scale"])
        scale = self[f"{name}.hook_scale"]
        parts = cast(Any, self.model).get_submodule(name).parts
        weights = None
        if scale.ndim == 2 + self.has_batch_dim:
            scale = positions.apply(scale, dim=-2)
        else:
            n_ctx = self.model.cfg.n_ctx if self._is_cut() else self._n_positions()
            weights = position_weights(cast(Any, self.model).parts.pooling, n_ctx, positions, scale)
        scale = images.apply(scale) if self.has_batch_dim else scale
        return FrozenNorm(scale, parts.centred, weights)

    def _cut(self, name: str, view: View) -> Tensor:
        """A cached activation at the positions of a view."""
        activation, axis = self[name], int(self.has_batch_dim)
        if view.norm is not None and view.norm.weights is not None and self._is_cut():
            raise InputError(
                f"The final norm acts on the pooled stream, and the cache holds {activation.shape[axis]} of "
                f"{self.model.cfg.n_ctx} positions. Cache without pos_slice; or leave apply_ln out and call "
                "cache.apply_ln_to_stack(stack, pos_slice=...) with the pos_slice that run_with_cache got."
            )
        return view.positions.apply(activation, dim=axis)

    def _n_positions(self) -> int:
        """How many positions were cached of each image."""
        for name, activation in self.items():
            axis = position_axis(name, activation.ndim + 1 - self.has_batch_dim)
            if name.startswith("blocks.") and axis is not None:
                return activation.shape[axis - 1 + self.has_batch_dim]
        return self.model.cfg.n_ctx

    def _is_cut(self) -> bool:
        """Whether positions were left out in caching."""
        if self.pos_slice is None:
            return self._n_positions() != self.model.cfg.n_ctx
        return as_slice(self.pos_slice).mode != "identity"

    def _terms(self, names: Sequence[str], view: View) -> Stack:
        """Cached streams or terms, stacked, as a view shows them."""
        stack = torch.stack([self._cut(name, view) for name in names])
        return stack if view.norm is None else view.norm(stack)


def as_slice(given: Sliced) -> Slice:
    """TransformerLens' `Slice` of what may stand for one; an integer takes its axis away."""
    return given if isinstance(given, Slice) else Slice(given)
