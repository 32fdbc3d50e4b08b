"""Where a dictionary's texts come from: a file, a list of frequent words, the attribute world."""

import logging
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from residual_lens.errors import InputError
from residual_lens.text.prompts import fill

log = logging.getLogger(__name__)


def read_texts(path: Path) -> list[str]:
    """One text a line, UTF-8; spaces around it and blank lines are dropped, and how many lines were blank is logged.

    Raises:
        InputError: no such file, not UTF-8, or nothing in it.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}: give a text file with one description a line.")
    data = path.read_bytes()
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path} is not UTF-8: line {line} holds the byte 0x{data[error.start]:02x}. Save it as UTF-8 text."
        ) from error
    texts = [line for line in lines if line]
    if not texts:
        raise InputError(f"{path} holds no text: write one description a line.")
    if len(texts) < len(lines):
        log.warning("%s: %d blank lines were left out.", path, len(lines) - len(texts))
    return texts


def without_repeats(texts: Sequence[str], where: str) -> list[str]:
    """Each text once, at its first place; what was dropped is logged.

    Raises:
        InputError: no texts, or some that are blank or no texts.
    """
    if isinstance(texts, str) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(f"{where}: expected a list of texts, none of them blank, got {_short(texts)}.")
    distinct = list(dict.fromkeys(texts))
    if len(distinct) < len(texts):
        repeated = [text for text, times in Counter(texts).items() if times > 1]
        log.warning("%s: %d repeated texts were left out: %s.", where, len(texts) - len(distinct), named(repeated))
    return distinct


def frequent_words(n: int) -> tuple[list[str], str]:
    """The `n` most frequent English words, and where they are from.

    They are wordfreq's (Speer 2022, https://github.com/rspeer/wordfreq), as they stand: numbers and short forms such as
    "it's" are among them.

    Raises:
        InputError: fewer than one word, or more than there are.

    >>> frequent_words(3)[0]
    ['the', 'to', 'and']
    """
    from wordfreq import top_n_list

    words = top_n_list("en", n) if n > 0 else []
    if n < 1 or len(words) < n:
        raise InputError(f"Asked for {n} English words; wordfreq knows {len(top_n_list('en', 10**9)):,}.")
    return words, f"wordfreq {version('wordfreq')}, top {n} of English"


def attribute_prompts() -> dict[str, list[str]]:
    """Every word of the attribute world with prompts in the style of its captions, all that `attribute-clip` knows.

    >>> attribute_prompts()["red"][:2]
    ['the red thing', 'a picture of the red object']
    """
    from residual_lens.data.attribute_world import ATTRIBUTES, TEMPLATES

    return {
        word: prompts
        for attribute, words in ATTRIBUTES.items()
        for word, prompts in zip(words, fill(TEMPLATES[attribute], words), strict=True)
    }


def named(texts: Sequence[str], most: int = 5) -> str:
    """The first few, for messages."""
    first = ", ".join(repr(text) for text in texts[:most])
    return first if len(texts) <= most else f"{first} and {len(texts) - most:,} more"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
