"""Captions: sentences that name a random subset of what is in a scene, and the knowledge of which they named."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from residual_lens.data.attribute_world.scenes import Scenes
from residual_lens.data.attribute_world.vocabulary import ATTRIBUTES

NAMING_RATES: dict[str, float] = {
    "colour": 0.35,
    "background": 0.25,
    "shape": 0.75,
    "texture": 0.70,
    "digit": 0.80,
    "letter": 0.80,
    "size": 0.03,
    "position": 0.06,
    "orientation": 0.05,
}
"""Chance that a caption names an attribute of its image; one of the last three is in every eighth caption or so."""

OPENINGS: tuple[str, ...] = ("", "a photo of ", "a picture of ", "an image of ", "this is ", "there is ")
ARTICLES: tuple[str, ...] = ("a", "the", "one")
NOUNS: tuple[str, ...] = ("thing", "object")
GLYPH_NOUNS: tuple[str, ...] = ("glyph", "symbol")

TEMPLATES: dict[str, tuple[str, ...]] = {
    "colour": ("the {} thing", "a picture of the {} object", "this is one {} symbol", "a photo of the {} glyph"),
    "background": (
        "the thing on a {} background",
        "a picture of one object on a {} background",
        "a glyph on a {} background",
    ),
    "shape": ("the {}", "a picture of the {}", "this is one {}", "a photo of the {}"),
    "texture": ("the {} thing", "a picture of the {} object", "this is one {} thing", "a photo of the {} object"),
    "digit": ("the digit {}", "a picture of the digit {}", "this is the digit {}", "a photo of one digit {}"),
    "letter": ("the letter {}", "a picture of the letter {}", "this is the letter {}", "a photo of one letter {}"),
    "size": ("the {} thing", "a picture of the {} object", "this is one {} symbol", "a photo of the {} glyph"),
    "position": ("the thing {}", "a picture of the object {}", "this is one symbol {}", "a photo of the glyph {}"),
    "orientation": ("the thing {}", "a picture of the object {}", "this is one symbol {}", "a photo of the glyph {}"),
}
"""Prompts in the captions' own style, one attribute at a time, for zero-shot ensembles."""


@dataclass(frozen=True)
class Captions:
    """Sentences, and which attributes of its own image each of them names."""

    texts: list[str]
    named: dict[str, Bool[Tensor, "batch"]]
    """One mask per attribute."""
    contrasted: dict[str, Bool[Tensor, "batch"]]
    """The part of `named` that can make a caption false of an image; see `write_captions`."""

    def compatible_with(self, scenes: Scenes, captioned: Scenes) -> Bool[Tensor, "batch caption"]:
        """Which captions say nothing false enough about which images, so that a contrastive loss spares these pairs.

        Args:
            scenes: the images in question.
            captioned: the scenes that these captions were written for.
        """
        compatible = torch.ones(len(scenes), len(self.texts), dtype=torch.bool)
        for name, contrasted in self.contrasted.items():
            agrees = scenes.labels[name][:, None] == captioned.labels[name][None, :]
            compatible &= agrees | ~contrasted[None, :]
        return compatible


def write_captions(
    scenes: Scenes,
    generator: torch.Generator,
    *,
    naming_rates: dict[str, float] | None = None,
    contrast_rates: dict[str, float] | None = None,
) -> Captions:
    """One caption for every scene, naming each of its attributes by chance and always at least one.

    A batch of web photographs hardly ever holds two pictures that differ in nothing but the object's size or place,
    so CLIP is hardly ever corrected on those words; a batch of these simple scenes always does. A contrast rate below 1
    makes up for that: only this share of the captions that name an attribute count as false of an image that differs
    in it alone.

    Args:
        scenes: what the captions are about.
        generator: the source of chance, on the CPU.
        naming_rates: chance that an attribute is named; attributes left out keep their `NAMING_RATES`.
        contrast_rates: chance that a named attribute is also contrasted; attributes left out are always.

    >>> from residual_lens.data.attribute_world.scenes import sample_scenes
    >>> generator = torch.Generator().manual_seed(3)
    >>> captions = write_captions(sample_scenes(2, generator), generator)
    >>> len(captions.texts), sorted(captions.named) == sorted(ATTRIBUTES)
    (2, True)
    """
    naming_rates, contrast_rates = NAMING_RATES | (naming_rates or {}), contrast_rates or {}
    n_scenes = len(scenes)
    dice = torch.rand(n_scenes, len(ATTRIBUTES), generator=generator)
    named = {
        name: (dice[:, index] < naming_rates[name]) & (scenes.labels[name] >= 0)
        for index, name in enumerate(ATTRIBUTES)
    }
    silent = ~torch.stack(list(named.values())).any(0)
    for name in ("shape", "digit", "letter"):
        named[name] |= silent & (scenes.labels[name] >= 0)

    weighed = torch.rand(n_scenes, len(ATTRIBUTES), generator=generator)
    contrasted = {
        name: mask & (weighed[:, index] < contrast_rates.get(name, 1.0))
        for index, (name, mask) in enumerate(named.items())
    }
    style = torch.rand(n_scenes, 5, generator=generator).tolist()
    masks = {name: mask.tolist() for name, mask in named.items()}
    labels = {name: label.tolist() for name, label in scenes.labels.items()}
    texts = []
    for index in range(n_scenes):
        words = {name: ATTRIBUTES[name][labels[name][index]] for name, mask in masks.items() if mask[index]}
        texts.append(_sentence(words, labels["shape"][index] < 0, style[index]))
    return Captions(texts=texts, named=named, contrasted=contrasted)


def _sentence(words: dict[str, str], is_glyph: bool, style: list[float]) -> str:
    """Grammar: opening, article, adjectives, noun, then what stands behind the noun, in one of two orders."""
    adjectives = [words[name] for name in ("size", "colour", "texture") if name in words]
    if style[0] < 0.25:
        adjectives.reverse()
    phrase = " ".join([_pick(ARTICLES, style[1]), *adjectives, _noun(words, is_glyph, style[2])])
    article, rest = phrase.split(" ", 1)
    if article == "a" and rest[0] in "aeiou":
        phrase = f"an {rest}"
    behind = [words[name] for name in ("orientation", "position") if name in words]
    if "background" in words:
        behind.append(f"on a {words['background']} background")
    if style[3] < 0.25:
        behind.reverse()
    return " ".join([_pick(OPENINGS, style[4]) + phrase, *behind])


def _noun(words: dict[str, str], is_glyph: bool, choice: float) -> str:
    if "shape" in words:
        return words["shape"]
    if "digit" in words:
        return f"digit {words['digit']}"
    if "letter" in words:
        return f"letter {words['letter']}"
    return _pick(GLYPH_NOUNS if is_glyph and choice < 0.5 else NOUNS, choice * 2 % 1)


def _pick(options: tuple[str, ...], choice: float) -> str:
    return options[int(choice * len(options))]


def caption_vocabulary() -> tuple[str, ...]:
    """Every word that a caption or a prompt can contain, sorted: the tokenizer's vocabulary.

    >>> {"crescent", "seven", "tilted"} <= set(caption_vocabulary())
    True
    """
    phrases = [*OPENINGS, *ARTICLES, *NOUNS, *GLYPH_NOUNS, "an", "digit", "letter", "on a background"]
    for name, values in ATTRIBUTES.items():
        phrases += [*values, *(template.replace("{}", " ") for template in TEMPLATES[name])]
    return tuple(sorted({word for phrase in phrases for word in phrase.split()}))


def label_words(name: str, labels: Int[Tensor, "batch"]) -> list[str]:
    """The caption words of an attribute's labels.

    >>> label_words("size", torch.tensor([0, 2]))
    ['small', 'large']
    """
    return [ATTRIBUTES[name][label] for label in labels.tolist()]
