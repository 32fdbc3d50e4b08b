"""What ablations do to attributes, image by image and head by head."""

import numpy as np
from torch import Tensor


def naive_outcome(products: Tensor, counts: tuple[int, ...], labels: list[Tensor]) -> np.ndarray:
    """Accuracy and contrast of every attribute and image, in float64."""
    outcome = np.full((2, len(counts), len(products)), np.nan)
    first = 0
    for attribute, count in enumerate(counts):
        for image, values in enumerate(products.double().tolist()):
            label = int(labels[attribute][image])
            if label >= 0:
                words = values[first : first + count]
                others = words[:label] + words[label + 1 :]
                outcome[0, attribute, image] = words.index(max(words)) == label
                outcome[1, attribute, image] = words[label] - sum(others) / len(others)
        first += count
    return outcome
