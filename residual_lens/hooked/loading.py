"""Model names → models in memory. Nothing is guessed: an unknown name is refused with the close ones."""

from collections.abc import Callable
from difflib import get_close_matches

from torch import Tensor, nn

from residual_lens.errors import InputError
from residual_lens.zoo import attribute_clip_path

SHIPPED = "attribute-clip"


def load(name: str) -> tuple[nn.Module, Callable[..., Tensor]]:
    """The whole model with its text tower, in float32, and its tokenizer (see `HookedViT.from_pretrained`)."""
    if name == SHIPPED:
        return _open_clip(f"local-dir:{attribute_clip_path()}", None)
    source, _, rest = name.partition(":")
    if source != "open_clip" or not rest:
        raise InputError(
            f"Unknown model {name!r}. Give {SHIPPED!r} (shipped with the package) or 'open_clip:NAME/TAG', "
            "for example 'open_clip:ViT-L-14/openai'."
        )
    if rest.startswith(("hf-hub:", "local-dir:")):
        return _open_clip(rest, None)
    return _open_clip(*_name_and_tag(rest))


def _name_and_tag(rest: str) -> tuple[str, str]:
    import open_clip

    model, _, tag = rest.partition("/")
    known = open_clip.list_models()
    if model not in known:
        close = get_close_matches(model, known, n=5)
        hint = f"Close ones: {', '.join(close)}." if close else "open_clip.list_models() lists them."
        raise InputError(f"open_clip has no model {model!r}. {hint}")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag not in tags:
        raise InputError(
            f"open_clip has no weights {tag!r} for {model}. Give 'open_clip:{model}/TAG', one of: {', '.join(tags)}."
            if tags
            else f"open_clip has no pretrained weights for {model}; wrap a model of your own with HookedViT.wrap."
        )
    return model, tag


def _open_clip(model: str, tag: str | None) -> tuple[nn.Module, Callable[..., Tensor]]:
    import open_clip

    # The activation belongs to the weights: OpenAI's were trained with QuickGELU, also under names whose config says
    # GELU, and open_clip only warns of that.
    quick_gelu = tag is not None and bool(open_clip.get_pretrained_cfg(model, tag).get("quick_gelu"))
    loaded = open_clip.create_model(model, pretrained=tag, precision="fp32", force_quick_gelu=quick_gelu)
    return loaded, open_clip.get_tokenizer(model)
