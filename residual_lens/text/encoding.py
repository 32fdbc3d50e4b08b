"""Prompts to embeddings with a model's own text tower, once: what was embedded before lies in a folder."""

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from residual_lens.errors import InputError
from residual_lens.text.prompts import ensemble
from residual_lens.text.saving import read_dictionary, write_dictionary
from residual_lens.text.sources import named

log = logging.getLogger(__name__)

NOBODYS_WORD = "\N{UGARITIC LETTER ALPA}"
"""What a tokenizer makes of it alone is its mark for unknown words, if it has one."""


@runtime_checkable
class _Named(Protocol):
    @property
    def model_name(self) -> str: ...


@runtime_checkable
class TextEncoder(Protocol):
    """What a dictionary needs of a model; a `HookedViT` has it."""

    @property
    def cfg(self) -> _Named:
        """Knows the model's name."""
        ...

    def tokenize(self, texts: Sequence[str]) -> Tensor | Mapping[str, Tensor]:
        """What the text tower is given."""
        ...

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "text d_out"]:
        """Unit-norm embeddings."""
        ...

    def fingerprint(self) -> str:
        """Digest of the image tower, by which stores and bases know their model."""
        ...

    def text_fingerprint(self) -> str:
        """Digest of the text tower."""
        ...


def distinct_prompts(
    encoder: TextEncoder, prompts: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Sequence[str]], str]:
    """The texts that the model can tell apart, with their prompts, and a digest of what decides their embeddings.

    A text that the tokenizer reads as an earlier one (in other letters, or beyond the length that it cuts texts to) is
    left out, and logged.

    Args:
        encoder: the model.
        prompts: each text's.

    Returns:
        What is kept, and SHA-256 over the text tower, the tokens of all prompts and how they belong together.

    Raises:
        InputError: words that the tokenizer does not know.
    """
    refuse_unknown_words(encoder, prompts)
    tokens = encoder.tokenize([prompt for group in prompts.values() for prompt in group])
    tensors = [tokens] if isinstance(tokens, Tensor) else [tokens[name] for name in sorted(tokens)]
    rows = torch.cat([tensor.cpu().to(torch.int64) for tensor in tensors], dim=1)
    first: dict[bytes, str] = {}
    for text, part in zip(prompts, rows.split([len(group) for group in prompts.values()]), strict=True):
        first.setdefault(hashlib.sha256(part.contiguous().numpy().data).digest(), text)
    kept = set(first.values())
    left_out = [text for text in prompts if text not in kept]
    if left_out:
        log.warning(
            "%s reads %d texts as earlier ones, and they were left out: %s.",
            encoder.cfg.model_name,
            len(left_out),
            named(left_out),
        )
    key = hashlib.sha256(f"{encoder.text_fingerprint()};{rows.shape[1]};".encode())
    for digest in first:
        key.update(digest)
    return {text: prompts[text] for text in first.values()}, key.hexdigest()


def refuse_unknown_words(encoder: TextEncoder, prompts: Mapping[str, Sequence[str]]) -> None:
    """Refuse texts with words that the tokenizer has only its mark for unknown ones for: their embeddings mean nothing.

    Raises:
        InputError: naming the first of them.
    """
    words = {word: text for text, group in prompts.items() for prompt in group for word in _words(prompt)}
    tokens = encoder.tokenize([NOBODYS_WORD, *words])
    ids = tokens if isinstance(tokens, Tensor) else tokens["input_ids"]
    same = (ids[1:] == ids[0]).flatten(1).all(dim=1).tolist()
    unknown = [word for word, is_unknown in zip(words, same, strict=True) if is_unknown]
    if unknown:
        raise InputError(
            f"{encoder.cfg.model_name} does not know {len(unknown):,} of these texts' {len(words):,} words: "
            f"{named(unknown)}. Such texts would all mean the same to it. Leave them out, or take a model that knows "
            "them; attribute-clip knows Dictionary.of_attributes only."
        )


def _words(text: str) -> list[str]:
    """Words and signs."""
    return re.findall(r"\w+|[^\w\s]", text)


def embedded(
    encoder: TextEncoder, prompts: Sequence[Sequence[str]], key: str, cache: str | Path | None, *, progress: bool
) -> Float[Tensor, "atom d_out"]:
    """One unit-norm embedding for each group of prompts, float32 on the CPU, from the cache if it is there.

    A file that cannot be read is logged and written anew; so is a folder that cannot be written to, without harm.

    Args:
        encoder: the model.
        prompts: the groups.
        key: digest of what decides the embeddings.
        cache: the folder, or none.
        progress: show a progress bar.
    """
    path = None if cache is None else Path(cache).expanduser() / f"{key}.safetensors"
    if path is not None and path.exists():
        try:
            _, embeddings, about = read_dictionary(path)
            if about == {"prompts_sha256": key}:
                return embeddings
            log.warning("%s is of other prompts: it is written anew.", path)
        except (InputError, OSError) as error:
            log.warning("%s It is written anew.", error)
    embeddings = ensemble(encoder.encode_text, prompts, progress=progress).float().cpu()
    if path is not None:
        try:
            write_dictionary(path, [group[0] for group in prompts], embeddings, {"prompts_sha256": key})
        except OSError as error:
            log.warning("These embeddings could not be kept for the next time: %s.", error)
    return embeddings
