"""A dictionary: texts, their unit-norm embeddings, and where both are from."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from beartype import beartype
from jaxtyping import Float, jaxtyped
from torch import Tensor

from residual_lens.errors import InputError, MismatchError
from residual_lens.text import sources
from residual_lens.text.encoding import TextEncoder, distinct_prompts, embedded
from residual_lens.text.prompts import fill
from residual_lens.text.saving import read_dictionary, write_dictionary

log = logging.getLogger(__name__)

CACHE = "~/.cache/residual_lens/dictionaries"
"""Where embeddings are kept by default, so that the same dictionary is not embedded twice."""
UNIT_NORM_TOL = 1e-3
"""Unit norms may be off by the rounding of a half precision model's embeddings."""


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Texts and their unit-norm embeddings in the space of a model's image embedding.

    Example:
        >>> from residual_lens import HookedViT
        >>> hvit = HookedViT.from_pretrained("attribute-clip")
        >>> words = Dictionary.of_texts(hvit, ["a red thing", "a blue star"], cache=None)
        >>> words.texts, words.embeddings.shape
        (('a red thing', 'a blue star'), torch.Size([2, 96]))
        >>> words.select(["a blue star"]).texts
        ('a blue star',)
    """

    texts: tuple[str, ...]
    """What the atoms say, no text twice."""
    embeddings: Float[Tensor, "atom d_out"]
    """Unit-norm, float32, on the CPU."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Model, digests of its towers, source of the texts, templates, version of the library; as JSON can hold it."""

    def __post_init__(self) -> None:
        if not self.texts or len(set(self.texts)) != len(self.texts) or len(self.texts) != len(self.embeddings):
            raise InputError(
                f"A dictionary is different texts with an embedding each, got {len(self.texts)} texts, "
                f"{len(set(self.texts))} different ones, and embeddings {list(self.embeddings.shape)}."
            )
        off = (self.embeddings.double().norm(dim=1) - 1).abs()
        # Written so that NaN is refused as well.
        if not bool((off <= UNIT_NORM_TOL).all()):
            worst = int(off.nan_to_num(torch.inf).argmax())
            norm = float(self.embeddings[worst].double().norm())
            raise InputError(f"Embeddings must have unit norm; that of {self.texts[worst]!r} has {norm:.4g}.")

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        made = self.provenance
        return f"Dictionary({len(self):,} texts from {made.get('source', '?')}, {made.get('model', 'unknown model')})"

    @classmethod
    def of_texts(
        cls, encoder: TextEncoder, texts: Sequence[str], *, cache: str | Path | None = CACHE, progress: bool = False
    ) -> "Dictionary":
        """A dictionary of texts as they are.

        Args:
            encoder: the model, such as a `HookedViT` with a text tower.
            texts: repeated ones are left out, and logged.
            cache: folder of embeddings made before; `None` for none.
            progress: show a progress bar.

        Raises:
            InputError: no texts, blank ones, or words that the model's tokenizer does not know.
            UnsupportedModelError: the model has no text tower or no tokenizer.
        """
        distinct = sources.without_repeats(texts, "texts")
        return cls._of(encoder, {text: [text] for text in distinct}, {"source": "texts"}, cache, progress)

    @classmethod
    def from_file(
        cls, encoder: TextEncoder, path: str | Path, *, cache: str | Path | None = CACHE, progress: bool = False
    ) -> "Dictionary":
        """A dictionary of a file's lines, one description each, UTF-8; blank and repeated ones are left out and logged.

        Args:
            encoder: see `of_texts`.
            path: the file.
            cache: see `of_texts`.
            progress: show a progress bar.

        Raises:
            InputError: no such file, not UTF-8, no text in it; otherwise as in `of_texts`.
            UnsupportedModelError: see `of_texts`.
        """
        path = Path(path)
        distinct = sources.without_repeats(sources.read_texts(path), str(path))
        made = {"source": f"file {path.name}", "source_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        return cls._of(encoder, {text: [text] for text in distinct}, made, cache, progress)

    @classmethod
    def of_classes(
        cls,
        encoder: TextEncoder,
        classes: Sequence[str],
        templates: Sequence[str],
        *,
        cache: str | Path | None = CACHE,
        progress: bool = False,
    ) -> "Dictionary":
        """A dictionary of class names, each by the ensemble of its prompts (see `zero_shot_classifier`).

        Args:
            encoder: see `of_texts`.
            classes: the names; repeated ones are left out, and logged.
            templates: each with one `{}` for the name, such as `templates("imagenet")`.
            cache: see `of_texts`.
            progress: show a progress bar.

        Raises:
            InputError: templates without `{}`; otherwise as in `of_texts`.
            UnsupportedModelError: see `of_texts`.
        """
        distinct = sources.without_repeats(classes, "classes")
        prompts = dict(zip(distinct, fill(templates, distinct), strict=True))
        return cls._of(encoder, prompts, {"source": "classes", "templates": list(templates)}, cache, progress)

    @classmethod
    def of_words(
        cls, encoder: TextEncoder, n: int, *, cache: str | Path | None = CACHE, progress: bool = False
    ) -> "Dictionary":
        """A dictionary of the `n` most frequent English words, as the package wordfreq has them.

        Args:
            encoder: see `of_texts`.
            n: how many.
            cache: see `of_texts`.
            progress: show a progress bar.

        Raises:
            InputError: fewer than one word or more than there are; otherwise as in `of_texts`.
            UnsupportedModelError: see `of_texts`.
        """
        words, source = sources.frequent_words(n)
        return cls._of(encoder, {word: [word] for word in words}, {"source": source}, cache, progress)

    @classmethod
    def of_attributes(
        cls, encoder: TextEncoder, *, cache: str | Path | None = CACHE, progress: bool = False
    ) -> "Dictionary":
        """The attribute world's words, each by the ensemble of its attribute's prompts: what `attribute-clip` knows.

        `select(ATTRIBUTES["colour"])` gives one attribute's.

        Args:
            encoder: see `of_texts`.
            cache: see `of_texts`.
            progress: show a progress bar.

        Raises:
            InputError: the model's tokenizer does not know some of the words.
            UnsupportedModelError: see `of_texts`.
        """
        return cls._of(encoder, sources.attribute_prompts(), {"source": "attribute world"}, cache, progress)

    @classmethod
    def _of(
        cls,
        encoder: TextEncoder,
        prompts: Mapping[str, Sequence[str]],
        made: Mapping[str, Any],
        cache: str | Path | None,
        progress: bool,
    ) -> "Dictionary":
        kept, key = distinct_prompts(encoder, prompts)
        embeddings = embedded(encoder, list(kept.values()), key, cache, progress=progress)
        provenance = {
            "model": encoder.cfg.model_name,
            "model_fingerprint": encoder.fingerprint(),
            "text_fingerprint": encoder.text_fingerprint(),
            **made,
            "prompts_sha256": key,
            "version": version("residual_lens"),
        }
        return cls(tuple(kept), embeddings, provenance)

    @jaxtyped(typechecker=beartype)
    def select(self, which: Sequence[str] | Sequence[int]) -> "Dictionary":
        """Some of the atoms, in the order that is asked for.

        Args:
            which: texts or places.

        Raises:
            InputError: none, one twice, or one that is not there, with close ones.
        """
        places = [] if isinstance(which, str) else [self._place(one) for one in which]
        if not places or len(set(places)) != len(places):
            raise InputError(f"Expected a list of different texts or places, got {which!r}.")
        chosen = tuple(self.texts[place] for place in places)
        return Dictionary(chosen, self.embeddings[places], {**self.provenance, "selected_from": len(self)})

    def _place(self, which: str | int) -> int:
        if isinstance(which, str):
            if which not in self.texts:
                close = get_close_matches(which, self.texts, n=3)
                raise InputError(
                    f"{self!r} has no text {which!r}. {f'Close ones: {sources.named(close)}.' if close else ''}".strip()
                )
            return self.texts.index(which)
        if not -len(self) <= which < len(self):
            raise InputError(f"{self!r} has places 0 to {len(self) - 1}, got {which}.")
        return which % len(self)

    def require_space(self, d_out: int, model: str, model_fingerprint: str) -> None:
        """Refuse image embeddings of another model than the one whose text tower made this dictionary.

        Checked are the width of the embedding and the digest of the image tower that this dictionary's text tower came
        with. A dictionary that was put together by hand has none, so that its width alone is checked.

        Args:
            d_out: width of the image embedding.
            model: name of its model, for the message.
            model_fingerprint: digest of its image tower.

        Raises:
            MismatchError: with both models.
        """
        mine = self.provenance.get("model_fingerprint")
        widths = d_out, self.embeddings.shape[1]
        if widths[0] != widths[1] or mine not in (None, model_fingerprint):
            raise MismatchError(
                f"{self!r} is in another space than {model}'s image embedding: widths {widths[1]} and {d_out}, image "
                f"towers {str(mine)[:16]} and {model_fingerprint[:16]}. Build it with {model}, cast to the same dtype."
            )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all: `embeddings`, and all else as JSON in its metadata.

        Raises:
            InputError: provenance that JSON cannot hold.
        """
        write_dictionary(Path(path), self.texts, self.embeddings, self.provenance)

    @classmethod
    def load(cls, path: str | Path) -> "Dictionary":
        """Read what `save` wrote.

        Raises:
            InputError: missing, another kind of file, another format, cut short or changed; the message names the file.
        """
        return cls(*read_dictionary(Path(path)))
