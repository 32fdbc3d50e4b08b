"""Models of open_clip: `NAME/TAG`, `hf-hub:ORG/REPO`, `local-dir:PATH`."""

from difflib import get_close_matches

from residual_lens.errors import InputError
from residual_lens.hooked.loading.failures import explained
from residual_lens.hooked.loading.loaded import Loaded


def load(rest: str, name: str) -> Loaded:
    """The whole CLIP object and its tokenizer.

    Args:
        rest: what follows `open_clip:`.
        name: the model as the user typed it, for messages.
    """
    import open_clip

    if rest.startswith(("hf-hub:", "local-dir:")):
        with explained(name, rest):
            # open_clip would go on with random weights where it finds none.
            module = open_clip.create_model(rest, precision="fp32", require_pretrained=True)
            return Loaded(module.eval(), open_clip.get_tokenizer(rest))
    model, tag = name_and_tag(rest)
    config = open_clip.get_pretrained_cfg(model, tag)
    with explained(name, str(config.get("hf_hub") or config.get("url"))):
        # Fetched beforehand, because create_model hides the reason of a failed download.
        open_clip.download_pretrained(config)
        # The activation belongs to the weights: OpenAI's were trained with QuickGELU, also under names whose config
        # says GELU, and open_clip only warns of that.
        module = open_clip.create_model(
            model, pretrained=tag, precision="fp32", force_quick_gelu=bool(config.get("quick_gelu"))
        )
        return Loaded(module.eval(), open_clip.get_tokenizer(model))


def name_and_tag(rest: str) -> tuple[str, str]:
    """Model and tag of `NAME/TAG`, both known to open_clip.

    Raises:
        InputError: with the close ones.
    """
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
