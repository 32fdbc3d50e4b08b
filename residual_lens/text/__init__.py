"""Texts in the space of images: zero-shot classifiers, dictionaries; stands on nothing but a model's text tower."""

from residual_lens.text.classifier import ZeroShotClassifier, zero_shot_classifier
from residual_lens.text.dictionary import CACHE, Dictionary
from residual_lens.text.encoding import TextEncoder
from residual_lens.text.opening import open_dictionary
from residual_lens.text.templates import imagenet_classes, templates

__all__ = [
    "CACHE",
    "Dictionary",
    "TextEncoder",
    "ZeroShotClassifier",
    "imagenet_classes",
    "open_dictionary",
    "templates",
    "zero_shot_classifier",
]
