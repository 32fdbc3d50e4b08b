"""Models of timm: `NAME`, `NAME.TAG`, `hf-hub:ORG/REPO`, `local-dir:PATH`."""

from difflib import get_close_matches
from typing import Any

from residual_lens.errors import InputError
from residual_lens.hooked.loading.failures import explained
from residual_lens.hooked.loading.loaded import Loaded
from residual_lens.hooked.loading.preprocessing import of_timm


def load(rest: str, name: str, *, head: bool) -> Loaded:
    """The image tower, with the checkpoint's own linear head or without.

    Args:
        rest: what follows `timm:`.
        name: the model as the user typed it, for messages.
        head: keep the linear head.

    timm reads safetensors where there are some and other files with `weights_only=True`: nothing is unpickled.
    """
    import timm

    origin = rest if rest.startswith(("hf-hub:", "local-dir:")) else published_at(rest)
    with explained(name, origin):
        # With the checkpoint's own head, because num_classes=0 makes timm accept files in which weights are missing.
        module: Any = timm.create_model(rest, pretrained=True)
    if head and not getattr(module, "num_classes", 0):
        raise InputError(f"{name} was published without a linear head; load it with head=False.")
    if not head:
        module.reset_classifier(0)
    config = module.pretrained_cfg
    _, height, width = config["input_size"]
    return Loaded(module.eval(), preprocessing=of_timm(config, (int(height), int(width))))


def published_at(model: str) -> str:
    """The repository or address of a model's weights.

    Raises:
        InputError: with the close ones.
    """
    import timm

    config = timm.get_pretrained_cfg(model) if timm.is_model_pretrained(model) else None
    if config is not None:
        return str(config.hf_hub_id or config.url or config.file)
    architecture, _, tag = model.partition(".")
    current = timm.models.get_deprecated_models().get(model) or timm.models.get_deprecated_models().get(architecture)
    if current:
        raise InputError(f"timm calls {model!r} {current!r}: give 'timm:{current}'.")
    if architecture not in timm.list_models():
        close = get_close_matches(architecture, timm.list_models(), n=5)
        hint = f"Close ones: {', '.join(close)}." if close else "timm.list_pretrained() lists them."
        raise InputError(f"timm has no model {architecture!r}. {hint}")
    published = timm.list_pretrained(f"{architecture}.*")
    raise InputError(
        f"timm has no weights {tag!r} for {architecture}. Give one of: {', '.join(f'timm:{one}' for one in published)}."
        if published
        else f"timm has no pretrained weights for {architecture}; wrap a model of your own with HookedViT.wrap."
    )
