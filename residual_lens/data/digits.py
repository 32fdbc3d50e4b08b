"""The handwritten digits that scikit-learn ships: real scans, split by seed with every digit equally often."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from residual_lens.data.splits import ImageSplit
from residual_lens.errors import InputError

DIGIT_SHARE = 0.8
"""Side of the enlarged scan as a share of the image's: the rest is a black margin, since scans touch their border."""


def load_digit_splits(n_images: Sequence[int], *, image_size: int, seed: int) -> list[ImageSplit]:
    """Disjoint, stratified splits of the 1,797 scans of 8×8 pixels.

    Args:
        n_images: size of each split.
        image_size: side of the images in pixels; scans are enlarged bicubically to `DIGIT_SHARE` of it.
        seed: decides which scan falls into which split.

    Raises:
        InputError: if the splits need more scans than there are, or the images are smaller than a scan.

    >>> [len(split) for split in load_digit_splits([20, 10], image_size=32, seed=0)]
    [20, 10]
    """
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    if sum(n_images) > len(classes):
        raise InputError(
            f"got splits of {' + '.join(map(str, n_images))} = {sum(n_images)} images, expected at most "
            f"{len(classes)}: there are no more scans; ask for fewer."
        )
    if image_size < 8:
        raise InputError(f"got image_size={image_size}, expected at least 8 pixels, the size of a scan.")
    images = enlarge_scans(torch.from_numpy(pixels).float().reshape(-1, 8, 8) / 16, image_size)
    labels = torch.from_numpy(classes)
    order = _interleaved_order(labels, torch.Generator().manual_seed(seed))
    return [
        ImageSplit(images=images[chosen], labels=labels[chosen])
        for chosen in order[: sum(n_images)].split(list(n_images))
    ]


def enlarge_scans(scans: Float[Tensor, "sample 8 8"], image_size: int) -> Float[Tensor, "sample 3 height width"]:
    """White on black, in the middle of the frame, with a margin."""
    side = max(8, round(DIGIT_SHARE * image_size))
    large = functional.interpolate(scans.unsqueeze(1), size=side, mode="bicubic", align_corners=False).clamp(0, 1)
    before = (image_size - side) // 2
    after = image_size - side - before
    return functional.pad(large, (before, after, before, after)).expand(-1, 3, -1, -1).contiguous()


def _interleaved_order(labels: Int[Tensor, "sample"], generator: torch.Generator) -> Int[Tensor, "sample"]:
    """A shuffled order in which the classes take turns, so that every run of it is stratified."""
    shuffled = torch.randperm(len(labels), generator=generator)
    turn = torch.zeros(len(labels))
    for label in labels.unique():
        mine = labels[shuffled] == label
        turn[mine] = (torch.arange(int(mine.sum())) + torch.rand(int(mine.sum()), generator=generator)) / mine.sum()
    return shuffled[turn.argsort()]
