"""TransformerLens' `ActivationCache` for a vision transformer."""

from typing import Any, NoReturn

from transformer_lens import ActivationCache

from residual_lens.errors import UnsupportedModelError


class ViTCache(ActivationCache):
    """An `ActivationCache` that refuses the methods whose arithmetic is a language model's.

    They start the stream from `hook_embed + hook_pos_embed`, which a norm may still follow here, or divide by a final
    norm that has one scale a sample instead of one a token: the numbers would be wrong without a word.
    """

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise UnsupportedModelError(
            "This method of ActivationCache assumes a language model's embedding and final norm. Use "
            "hvit.decompose(images) for exact direct contributions; cache.stack_head_results() and "
            "cache.stack_activation() give raw terms."
        )

    decompose_resid = get_full_resid_decomposition = apply_ln_to_stack = _refuse
    logit_attrs = logit_lens = stack_neuron_results = get_neuron_results = _refuse


def position_axis(name: str, ndim: int) -> int | None:
    """Axis of token positions (queries, for patterns) in what a hook point sees; `None` where there is none."""
    if name.endswith("_direct") or name in ("hook_pooled", "hook_image_embed"):
        return None
    if name.startswith("ln_final.") and ndim == 2:
        return None
    return 2 if name.endswith(("hook_attn_scores", "hook_pattern")) else 1
