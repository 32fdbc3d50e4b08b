"""TransformerLens' `ActivationCache` for a vision transformer."""

from typing import Any, NoReturn, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.utilities.slice import Slice

from residual_lens.errors import InputError, UnsupportedModelError
from residual_lens.hooked.cache.stream import EMBED, LabelledStack, Sliced, Stack, StreamCache, View, as_slice
from residual_lens.hooked.cache.terms import head_terms, neuron_terms


class ViTCache(StreamCache):
    """An `ActivationCache` with a vision transformer's arithmetic; signatures and labels are TransformerLens'.

    The stream starts at `blocks.0.hook_resid_pre`, behind the norm that may follow the token and position embeddings:
    one component, `embed`. At layer `n_layers` (also `None` and -1) the norm is the final one. Where it acts on the
    pooled stream, `apply_ln` pools components as the model does, and they have no position axis any more. Stacks are
    made of what was cached, without gradients; they sum to the stream unless a hook edited the stream itself
    (`hook_resid_*`) behind the start of block 0.

    Example:
        >>> from residual_lens import HookedViT
        >>> hvit = HookedViT.from_pretrained("attribute-clip")
        >>> _, cache = hvit.run_with_cache(torch.zeros(2, 3, *hvit.cfg.image_size))
        >>> terms, labels = cache.decompose_resid(apply_ln=True, return_labels=True)
        >>> labels[:3], terms.shape == (2 * hvit.cfg.n_layers + 1, 2, hvit.cfg.d_model)
        (['embed', '0_attn_out', '0_mlp_out'], True)
        >>> torch.allclose(terms.sum(dim=0), cache["ln_final.hook_normalized"], atol=1e-4)
        True
    """

    @torch.no_grad()
    def compute_head_results(self) -> None:
        """Add to the cache what each head writes (`"result", layer`), from `z` and `W_O`, where it is not there yet.

        Raises:
            NotCachedError: neither `hook_result` nor `hook_z` of some layer was cached.
        """
        self._need([*map(self._heads_name, range(self._n_layers))])
        super().compute_head_results()

    @torch.no_grad()
    def stack_head_results(
        self,
        layer: int | None = -1,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: Sliced = None,
        apply_ln: bool = False,
    ) -> LabelledStack:
        """What every head of the blocks before `layer` writes into the stream: `z W_O`, without `b_O`.

        Args:
            layer: heads of all blocks before it; `n_layers`, -1 or `None` for all heads.
            return_labels: whether to return labels too ("L0H0").
            incl_remainder: whether to end with the rest of the stream that enters `layer`.
            pos_slice: token positions.
            apply_ln: whether to apply the norm that reads the stream there (see `apply_ln_to_stack`).

        Raises:
            NotCachedError: something that this needs was not cached.
            InputError: no such layer, or `pos_slice` leaves out what the final norm reads.
        """
        layer = self._layer(layer)
        end = self._name(self._end(layer, False))
        names = [*map(self._heads_name, range(layer)), *([end] if incl_remainder or layer == 0 else [])]
        view = self._view(names, layer, False, apply_ln, pos_slice)
        stack, labels = self._heads(layer, view)
        if incl_remainder:
            stack, labels = torch.cat([stack, self._terms([end], view) - stack.sum(dim=0)]), [*labels, "remainder"]
        return (stack, labels) if return_labels else stack

    @torch.no_grad()
    def get_neuron_results(
        self,
        layer: int,
        neuron_slice: Sliced = None,
        pos_slice: Sliced = None,
        project_output_onto: Float[Tensor, "d_model *d"] | None = None,
    ) -> Float[Tensor, "*shape"]:
        """What every neuron of a block writes into the stream: `post_n W_out^n`, LayerScale included, without `b_out`.

        Args:
            layer: the block.
            neuron_slice: which neurons.
            pos_slice: token positions.
            project_output_onto: `[d_model]` or `[d_model d]` directions to read instead of the whole stream.

        Returns:
            `[*batch_and_pos neuron d_model]`; the last axis is the projection's, if there is one.

        Raises:
            NotCachedError: that block's `mlp.hook_post` was not cached.
        """
        return super().get_neuron_results(layer, neuron_slice, pos_slice, project_output_onto)

    @torch.no_grad()
    def stack_neuron_results(
        self,
        layer: int | None,
        pos_slice: Sliced = None,
        neuron_slice: Sliced = None,
        return_labels: bool = False,
        incl_remainder: bool = False,
        apply_ln: bool = False,
        project_output_onto: Float[Tensor, "d_model *d"] | None = None,
        mlp_input: bool = False,
    ) -> LabelledStack:
        """What every neuron of the blocks before `layer` writes into the stream: `post_n W_out^n`.

        Args:
            layer: neurons of all blocks before it; `n_layers`, -1 or `None` for all neurons.
            pos_slice: token positions. All neurons at all tokens are large: cut, project, or apply the final norm.
            neuron_slice: which neurons of each block; an integer is a list of one.
            return_labels: whether to return labels too ("L0N0").
            incl_remainder: whether to end with the rest of the stream that enters `layer`.
            apply_ln: whether to apply the norm that reads the stream there (see `apply_ln_to_stack`).
            project_output_onto: `[d_model]` or `[d_model d]` directions to read, after the norm, instead of the whole
                stream.
            mlp_input: whether norm and remainder are those of that block's MLP.

        Raises:
            NotCachedError: something that this needs was not cached.
            InputError: no such layer, or `pos_slice` leaves out what the final norm reads.
        """
        layer = self._layer(layer, mlp_input)
        end = self._name(self._end(layer, mlp_input))
        names = [*map(self._post_name, range(layer)), *([end] if incl_remainder or layer == 0 else [])]
        view = self._view(names, layer, mlp_input, apply_ln, pos_slice)
        projection = _matrix(project_output_onto)
        stack, labels = self._neurons(layer, view, neuron_slice, projection)
        if incl_remainder:
            rest = _projected(self._terms([end], view), projection) - stack.sum(dim=0)
            stack, labels = torch.cat([stack, rest]), [*labels, "remainder"]
        stack = stack if project_output_onto is None or project_output_onto.ndim > 1 else stack.squeeze(-1)
        return (stack, labels) if return_labels else stack

    @torch.no_grad()
    def get_full_resid_decomposition(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        expand_neurons: bool = True,
        apply_ln: bool = False,
        pos_slice: Sliced = None,
        return_labels: bool = False,
        project_output_onto: Float[Tensor, "d_model *d"] | None = None,
    ) -> LabelledStack:
        """The stream that enters a layer as heads, neurons or MLPs, `embed` and the sum of all biases, in this order.

        Args:
            layer: up to the input of this block; `n_layers`, -1 or `None` for the whole stream.
            mlp_input: up to the input of that block's MLP.
            expand_neurons: single neurons ("L0N0") instead of MLPs ("0_mlp_out"); large, see `stack_neuron_results`.
            apply_ln: whether to apply the norm that reads the stream there (see `apply_ln_to_stack`).
            pos_slice: token positions.
            return_labels: whether to return labels too ("L0H0", ..., "embed", "bias").
            project_output_onto: `[d_model]` or `[d_model d]` directions to read, after the norm, instead of the whole
                stream.

        Raises:
            NotCachedError: something that this needs was not cached.
            InputError: no such layer, or `pos_slice` leaves out what the final norm reads.
        """
        layer = self._layer(layer, mlp_input)
        mlps = [f"{index}_mlp_out" for index in range(layer)]
        mlp_names = map(self._post_name, range(layer)) if expand_neurons else map(self._name, mlps)
        names = [EMBED, *map(self._heads_name, range(layer + mlp_input)), *mlp_names]
        view = self._view(names, layer, mlp_input, apply_ln, pos_slice)
        projection = _matrix(project_output_onto)
        heads, labels = self._heads(layer + mlp_input, view)
        stacks = [_projected(heads, projection)]
        if expand_neurons:
            neurons, neuron_labels = self._neurons(layer, view, None, projection)
            stacks, labels = [*stacks, neurons], [*labels, *neuron_labels]
        elif mlps:
            stacks.append(_projected(self._terms([*map(self._name, mlps)], view), projection))
            labels = [*labels, *mlps]
        stacks.append(_projected(self._terms([EMBED], view), projection))
        bias = self._biases(layer, mlp_input, expand_neurons).expand_as(self._cut(EMBED, view))[None]
        stacks.append(_projected(bias if view.norm is None else view.norm(bias), projection))
        stack, labels = torch.cat(stacks), [*labels, "embed", "bias"]
        stack = stack if project_output_onto is None or project_output_onto.ndim > 1 else stack.squeeze(-1)
        return (stack, labels) if return_labels else stack

    def apply_slice_to_batch_dim(self, batch_slice: Sliced) -> "ViTCache":
        """The cache of some of its images; an integer takes the batch axis away.

        Raises:
            InputError: the batch axis is gone already.
        """
        images = as_slice(batch_slice)
        if not self.has_batch_dim:
            raise InputError("The cache holds one image without a batch axis: there is nothing to slice.")
        cut = {name: images.apply(activation) for name, activation in self.items()}
        return ViTCache(cut, self.model, has_batch_dim=images.mode != "int", pos_slice=self.pos_slice)

    def remove_batch_dim(self, batch_size: int | None = None) -> "ViTCache":
        """Take the batch axis of one image away, in place.

        Raises:
            InputError: there are more images.
        """
        count = self._batch_size() if batch_size is None else batch_size
        if self.has_batch_dim and count != 1:
            raise InputError(f"Expected a cache of one image, got {count}: use cache.apply_slice_to_batch_dim(0).")
        super().remove_batch_dim(batch_size)
        return self

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise UnsupportedModelError(
            "A vision transformer has no unembedding and so no logits. Use hvit.decompose(images): its terms lie in "
            "the space of the embedding, where texts (hvit.encode_text) and classifiers are; "
            "cache.accumulated_resid(apply_ln=True) gives the stream after each block behind the final norm."
        )

    logit_attrs = logit_lens = _refuse

    def _heads_name(self, layer: int) -> str:
        """Where a layer's heads are read: what they write, if that was cached, or else `z`."""
        written = f"blocks.{layer}.attn.hook_result"
        return written if written in self.cache_dict else f"blocks.{layer}.attn.hook_z"

    def _post_name(self, layer: int) -> str:
        return f"blocks.{layer}.mlp.hook_post"

    def _heads(self, layers: int, view: View) -> tuple[Stack, list[str]]:
        """Terms of all heads of the first `layers` blocks."""
        stacks = []
        for layer, name in enumerate(map(self._heads_name, range(layers))):
            w_o = None if name.endswith("hook_result") else self.model.blocks[layer].attn.W_O
            stacks.append(head_terms(self._cut(name, view), w_o, view.norm))
        labels = [f"L{layer}H{head}" for layer in range(layers) for head in range(self.model.cfg.n_heads)]
        return (torch.cat(stacks) if stacks else self._terms([EMBED], view)[:0]), labels

    def _neurons(
        self, layers: int, view: View, neuron_slice: Sliced, projection: Float[Tensor, "d_model d"] | None
    ) -> tuple[Stack, list[str]]:
        """Terms of neurons of the first `layers` blocks."""
        neurons = Slice.unwrap(neuron_slice)
        neurons = Slice([cast(int, neurons.slice)]) if neurons.mode == "int" else neurons
        stacks, labels = [], []
        for layer in range(layers):
            w_out = self.model.blocks[layer].mlp.W_out
            post = neurons.apply(self._cut(self._post_name(layer), view), dim=-1)
            stacks.append(neuron_terms(post, neurons.apply(w_out), view.norm, projection))
            labels += [f"L{layer}N{neuron}" for neuron in cast(np.ndarray, neurons.indices(len(w_out)))]
        return (torch.cat(stacks) if stacks else _projected(self._terms([EMBED], view)[:0], projection)), labels

    def _biases(self, layer: int, mlp_input: bool, with_mlps: bool) -> Float[Tensor, "d_model"]:
        """Sum of the biases in the stream that enters a layer, apart from those within MLP terms."""
        blocks = self.model.blocks
        biases = [blocks[index].attn.b_O for index in range(layer + mlp_input)]
        biases += [blocks[index].mlp.b_out for index in range(layer if with_mlps else 0)]
        return torch.stack(biases).sum(dim=0) if biases else self[EMBED].new_zeros(self.model.cfg.d_model)


def _matrix(projection: Float[Tensor, "d_model *d"] | None) -> Float[Tensor, "d_model d"] | None:
    return projection[:, None] if projection is not None and projection.ndim == 1 else projection


def _projected(
    stack: Float[Tensor, "component *batch_and_pos d_model"], projection: Float[Tensor, "d_model d"] | None
) -> Float[Tensor, "component *batch_and_pos d"]:
    return stack if projection is None else stack @ projection.to(stack.dtype)
