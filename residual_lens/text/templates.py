"""Prompt templates and class names that open_clip carries, by name."""

from difflib import get_close_matches

from residual_lens.errors import InputError

TEMPLATES = {"imagenet": "OPENAI_IMAGENET_TEMPLATES", "imagenet-simple": "SIMPLE_IMAGENET_TEMPLATES"}
"""What `open_clip.zero_shot_metadata` calls them: CLIP's 80, and the 7 that its authors selected of them."""


def templates(name: str) -> tuple[str, ...]:
    """Templates by name, each with one `{}` for the class.

    Args:
        name: "imagenet", CLIP's 80 (Radford et al. 2021, §3.1.4), or "imagenet-simple", 7 of them that its
            authors selected.

    Raises:
        InputError: no such name.

    >>> templates("imagenet-simple")[0], len(templates("imagenet"))
    ('itap of a {}.', 80)
    """
    from open_clip import zero_shot_metadata

    if name not in TEMPLATES:
        close = get_close_matches(name, TEMPLATES, n=1)
        raise InputError(f"No templates {name!r}{f', only close: {close[0]!r}' if close else ''}: {list(TEMPLATES)}.")
    # Functions of a class name there; what they make of "{}" is the template.
    return tuple(template("{}") for template in getattr(zero_shot_metadata, TEMPLATES[name]))


def imagenet_classes() -> tuple[str, ...]:
    """The 1,000 class names of ImageNet as CLIP's authors worded them, in label order; two names come twice.

    >>> imagenet_classes()[:2], len(imagenet_classes())
    (('tench', 'goldfish'), 1000)
    """
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    return tuple(IMAGENET_CLASSNAMES)
