"""Model names → models in memory. Nothing is guessed: an unknown name is refused with the close ones."""

from difflib import get_close_matches

from residual_lens.errors import InputError
from residual_lens.hooked.loading.loaded import Loaded
from residual_lens.zoo import attribute_clip_path

SHIPPED = "attribute-clip"
"""The model that comes with the package."""

PAPER_MODELS = {
    "clip-b": "open_clip:ViT-B-16/openai",
    "clip-l": "open_clip:ViT-L-14/openai",
    "openclip-b": "open_clip:ViT-B-16/laion2b_s34b_b88k",
    "openclip-l": "open_clip:ViT-L-14/laion2b_s32b_b82k",
    "blip-l": "hf:Salesforce/blip-itm-large-flickr",
    "vit-l": "hf:google/vit-large-patch16-224",
    "dinov2-l": "hf:facebook/dinov2-large",
}
"""Short names of the seven models of the ResiDual paper (arXiv 2411.00246) and the checkpoints it used."""


def load(name: str, *, head: bool = False) -> Loaded:
    """A model by name, in float32 and eval mode, with its tokenizer and preprocessing.

    Args:
        name: `"attribute-clip"`, a short name of `PAPER_MODELS`, `"open_clip:NAME/TAG"`, `"timm:NAME.TAG"`,
            `"hf:ORG/REPO"` or `"hf:/folder"`; `open_clip:` and `timm:` also take `hf-hub:ORG/REPO` and
            `local-dir:/folder` behind them.
        head: keep the linear head that a classifier was published with (timm, and `vit` of Hugging Face), so that the
            embedding is its logits.

    Raises:
        InputError: no such source, model, tag or folder, with the close ones; a checkpoint that cannot be fetched or
            read; `head=True` for a model without one.
    """
    source, _, rest = PAPER_MODELS.get(name, name).partition(":")
    if name == SHIPPED:
        source, rest = "open_clip", f"local-dir:{attribute_clip_path()}"
    if source not in ("open_clip", "timm", "hf") or not rest:
        raise InputError(_unknown(name))
    if source == "timm":
        from residual_lens.hooked.loading import timm

        return timm.load(rest, name, head=head)
    if source == "hf":
        from residual_lens.hooked.loading import hugging_face

        return hugging_face.load(rest, name, head=head)
    from residual_lens.hooked.loading import open_clip

    if head:
        raise InputError(f"{name}: open_clip models have no classification head; load it with head=False.")
    return open_clip.load(rest, name)


def _unknown(name: str) -> str:
    close = get_close_matches(name, [SHIPPED, *PAPER_MODELS], n=3)
    hint = f"Close ones: {', '.join(close)}. " if close else ""
    return (
        f"Unknown model {name!r}. {hint}Give {SHIPPED!r} (shipped with the package), one of {', '.join(PAPER_MODELS)}, "
        "or 'open_clip:NAME/TAG', 'timm:NAME.TAG', 'hf:ORG/REPO'; `residual-lens models` lists examples."
    )


__all__ = ["PAPER_MODELS", "SHIPPED", "Loaded", "load"]
