"""Dictionaries by name, as the command line gives them."""

from pathlib import Path

from residual_lens.errors import InputError
from residual_lens.text.dictionary import CACHE, Dictionary
from residual_lens.text.encoding import TextEncoder
from residual_lens.text.templates import imagenet_classes, templates


def open_dictionary(
    encoder: TextEncoder, name: str, *, cache: str | Path | None = CACHE, progress: bool = False
) -> Dictionary:
    """A dictionary by name.

    Args:
        encoder: see `Dictionary.of_texts`.
        name: "attributes" (`Dictionary.of_attributes`), "words:3500" (`of_words`), "imagenet" (`of_classes`, ImageNet's
            class names in CLIP's 80 templates), or the path of a text file with one description a line (`from_file`).
        cache: see `Dictionary.of_texts`.
        progress: show a progress bar.

    Raises:
        InputError: no such name or file; otherwise as in `Dictionary.of_texts`.
        UnsupportedModelError: see `Dictionary.of_texts`.

    >>> from residual_lens import HookedViT
    >>> len(open_dictionary(HookedViT.from_pretrained("attribute-clip"), "attributes", cache=None))
    81
    """
    kind, _, rest = name.partition(":")
    if name == "attributes":
        return Dictionary.of_attributes(encoder, cache=cache, progress=progress)
    if name == "imagenet":
        imagenet = imagenet_classes(), templates("imagenet")
        return Dictionary.of_classes(encoder, *imagenet, cache=cache, progress=progress)
    if kind == "words":
        if not rest.isdecimal():
            raise InputError(f"Got the dictionary {name!r}; say how many words, as in 'words:3500'.")
        return Dictionary.of_words(encoder, int(rest), cache=cache, progress=progress)
    if not Path(name).is_file():
        raise InputError(
            f"There is no dictionary or file {name!r}: give 'attributes', 'imagenet', 'words:3500', or a text file "
            "with one description a line."
        )
    return Dictionary.from_file(encoder, name, cache=cache, progress=progress)
