"""Zero-shot classifiers from class names; stands on nothing but a function that embeds texts."""

from residual_lens.text.classifier import ZeroShotClassifier, zero_shot_classifier

__all__ = ["ZeroShotClassifier", "zero_shot_classifier"]
