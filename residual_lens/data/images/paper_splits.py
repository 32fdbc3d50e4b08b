"""The paper's splits: stratified by class, decided by a seed (42 in the paper), the same on any machine.

ResiDual (arXiv 2411.00246) splits with stratification, in these proportions and with this seed (its `dataset.py`).
Which image goes where also depends on the order of the files and on the library that splits: the images of a
split are not the paper's very own.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from residual_lens.errors import InputError

PAPER_SEED = 42
CARVED: dict[str, float | int] = {
    "gtsrb": 0.1,
    "mnist": 0.1,
    "cifar10": 0.1,
    "cifar100": 0.1,
    "svhn": 0.2,
    "dtd": 0.2,
    "stanford_cars": 0.2,
    "imagenet": 20_000,
}
"""Data sets with a test set of their own: share or number of the training images that become the validation split."""
THREE_WAY: tuple[str, ...] = ("eurosat", "sun397", "pacs", "imagenet-sketch")
"""Data sets that are published as one: 80 % train, 10 % validation, 10 % test."""


@dataclass(frozen=True, eq=False)
class SplitRows:
    """Rows of each split, ascending; together all rows, each once."""

    train: Int[np.ndarray, "train"]
    validation: Int[np.ndarray, "validation"]
    test: Int[np.ndarray, "test"]


def stratified_subset(labels: Int[np.ndarray, "sample"], n: int, seed: int = PAPER_SEED) -> Int[np.ndarray, "chosen"]:
    """Chooses `n` rows with every class in proportion: class counts are within one of `n · share`.

    The paper's 80,000 ImageNet images are `stratified_subset(labels, 80_000)`. A class of which `n` holds less than
    one image may be left out. Unlabelled rows (-1) count as a class.

    Args:
        labels: class of each row.
        n: how many rows.
        seed: decides which.

    Returns:
        Distinct rows in ascending order.

    Raises:
        InputError: `n` is not between 1 and the number of rows.

    >>> labels = np.array([0] * 60 + [1] * 40)
    >>> np.bincount(labels[stratified_subset(labels, 10)])
    array([6, 4])
    """
    if not 1 <= n <= len(labels):
        raise InputError(f"got a subset of {n} images, expected between 1 and the {len(labels)} that there are.")
    generator = np.random.default_rng(seed)
    _, of_row, counts = np.unique(labels, return_inverse=True, return_counts=True)
    quotas = n * counts / len(labels)
    taken = np.floor(quotas).astype(np.int64)
    # Largest remainders get what rounding down left over; ties are broken by lot.
    by_remainder = np.lexsort((generator.random(len(counts)), taken - quotas))
    taken[by_remainder[: n - taken.sum()]] += 1
    # Rows class by class, shuffled within each: the first `taken` of every class.
    shuffled = np.lexsort((generator.random(len(labels)), of_row))
    place_in_class = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(shuffled[place_in_class < np.repeat(taken, counts)])


def carve_validation(
    labels: Int[np.ndarray, "sample"], size: float | int, seed: int = PAPER_SEED
) -> tuple[Int[np.ndarray, "left"], Int[np.ndarray, "chosen"]]:
    """Takes a stratified part of the training rows away, for validation.

    Args:
        labels: class of each training row.
        size: a share of the rows (float in (0, 1); their number is rounded up), or a number of rows (int).
        seed: decides which.

    Returns:
        Rows that stay for training, rows for validation; both ascending.

    Raises:
        InputError: the size leaves nothing on one side, or a class would be left without training images.

    >>> train, validation = carve_validation(np.arange(50) % 5, 0.2)
    >>> len(train), len(validation)
    (40, 10)
    """
    n = size if isinstance(size, int) else _rounded_up(size * len(labels))
    if size <= 0 or n >= len(labels):
        raise InputError(
            f"got size={size} of {len(labels)} images for validation, expected a share between 0 and 1, or a number of "
            "images, that leaves some for training."
        )
    return _take(np.arange(len(labels)), labels, n, seed)


def split_three_ways(labels: Int[np.ndarray, "sample"], seed: int = PAPER_SEED) -> SplitRows:
    """80 % train, 10 % validation, 10 % test, stratified. A fifth, rounded up, is held out; its larger half is test.

    Args:
        labels: class of each row.
        seed: decides which row goes where.

    Raises:
        InputError: there are fewer than three rows, or a class would be left without training images.

    >>> rows = split_three_ways(np.arange(50) % 5)
    >>> len(rows.train), len(rows.validation), len(rows.test)
    (40, 5, 5)
    """
    if len(labels) < 3:
        raise InputError(f"got {len(labels)} images, expected at least 3 to make train, validation and test of.")
    n_held = max(2, _rounded_up(0.2 * len(labels)))
    rest, validation = _take(np.arange(len(labels)), labels, n_held // 2, seed)
    train, test = _take(rest, labels, n_held - n_held // 2, seed)
    return SplitRows(train=train, validation=validation, test=test)


def _take(
    rows: Int[np.ndarray, "sample"], labels: Int[np.ndarray, "all_samples"], n: int, seed: int
) -> tuple[Int[np.ndarray, "left"], Int[np.ndarray, "chosen"]]:
    """What is left of the rows, and a stratified `n` of them."""
    chosen = stratified_subset(labels[rows], n, seed)
    left = np.delete(rows, chosen)
    gone = np.setdiff1d(labels[rows], labels[left])
    if len(gone):
        raise InputError(
            f"class {gone[0]} has {np.count_nonzero(labels == gone[0])} image(s), too few to be split: none would be "
            "left to train on; add images, or leave the class out."
        )
    return left, rows[chosen]


def _rounded_up(n: float) -> int:
    """`ceil`, deaf to the last bits of a product like 0.07 · 100."""
    return math.ceil(round(n, 6))
