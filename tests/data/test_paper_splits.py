"""The paper's splits: disjoint, exhaustive, in proportion, the same every time; what cannot be split is refused."""

import numpy as np
import pytest

from residual_lens.data import carve_validation, split_three_ways, stratified_subset
from residual_lens.data.images.paper_splits import CARVED, THREE_WAY
from residual_lens.errors import InputError

PINNED_SUBSET = [1, 5, 7, 12, 14, 18]
PINNED_VALIDATION = [1, 7, 12, 14]
"""Rows out of 20, with numpy 2.4."""


def uneven_labels(n: int = 2000, n_classes: int = 17, seed: int = 0) -> np.ndarray:
    """Classes of very different sizes in random order, each with 10 rows at least."""
    generator = np.random.default_rng(seed)
    drawn = (n_classes * generator.random(n - 10 * n_classes) ** 3).astype(np.int64)
    return generator.permutation(np.concatenate([np.repeat(np.arange(n_classes), 10), drawn]))


def in_proportion(labels: np.ndarray, chosen: np.ndarray) -> bool:
    """Every class count within one of its share."""
    n_classes = labels.max() + 1
    expected = len(chosen) * np.bincount(labels, minlength=n_classes) / len(labels)
    return bool((np.abs(np.bincount(labels[chosen], minlength=n_classes) - expected) < 1).all())


def test_the_issues_rules_are_the_tables():
    assert CARVED == {
        "gtsrb": 0.1,
        "mnist": 0.1,
        "cifar10": 0.1,
        "cifar100": 0.1,
        "svhn": 0.2,
        "dtd": 0.2,
        "stanford_cars": 0.2,
        "imagenet": 20_000,
    }
    assert set(THREE_WAY) == {"eurosat", "sun397", "pacs", "imagenet-sketch"}


def test_eighty_thousand_imagenet_images_are_eighty_of_each_class():
    labels = np.repeat(np.arange(1000), 130)
    chosen = stratified_subset(labels, 80_000)
    assert len(np.unique(chosen)) == 80_000
    assert np.array_equal(np.bincount(labels[chosen]), np.full(1000, 80))
    assert np.array_equal(chosen, np.sort(chosen))


@pytest.mark.parametrize("n", [1, 5, 17, 333, 1999, 2000])
def test_subsets_of_any_size_hold_every_class_in_proportion(n: int):
    labels = uneven_labels()
    chosen = stratified_subset(labels, n)
    assert len(np.unique(chosen)) == n
    assert in_proportion(labels, chosen)


def test_within_a_class_the_seed_decides_and_nothing_else():
    labels = uneven_labels()
    assert np.array_equal(stratified_subset(labels, 300), stratified_subset(labels, 300, seed=42))
    assert not np.array_equal(stratified_subset(labels, 300), stratified_subset(labels, 300, seed=43))
    frequency = sum(np.isin(np.arange(40), stratified_subset(np.zeros(40, int), 10, seed=s)) for s in range(400))
    # 400 draws at 1/4: 100 ± 8.7.
    assert frequency.min() > 60
    assert frequency.max() < 140


def test_unlabelled_rows_are_chosen_like_a_class():
    labels = np.array([-1] * 60 + [0] * 40)
    assert np.bincount(labels[stratified_subset(labels, 10)] + 1).tolist() == [6, 4]


def test_which_rows_seed_42_chooses_is_pinned():
    """A store made on one machine must meet the same split on another, and after an upgrade."""
    labels = np.arange(20) % 3
    assert stratified_subset(labels, 6).tolist() == PINNED_SUBSET
    assert carve_validation(labels, 0.2)[1].tolist() == PINNED_VALIDATION


@pytest.mark.parametrize(("share", "n", "expected"), [(0.1, 60_000, 6000), (0.2, 73_257, 14_652), (0.1, 26_640, 2664)])
def test_carved_shares_are_rounded_up(share: float, n: int, expected: int):
    train, validation = carve_validation(np.arange(n) % 10, share)
    assert len(validation) == expected
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(n))


@pytest.mark.parametrize("size", [0.1, 0.2, 0.07, 250])
def test_carving_keeps_proportions_on_both_sides(size: float | int):
    labels = uneven_labels()
    train, validation = carve_validation(labels, size)
    assert in_proportion(labels, train)
    assert in_proportion(labels, validation)
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(len(labels)))
    assert len(validation) == (size if isinstance(size, int) else round(size * len(labels)))


def test_three_ways():
    labels = uneven_labels(2715)
    rows = split_three_ways(labels)
    assert [len(rows.train), len(rows.validation), len(rows.test)] == [2172, 271, 272]
    assert np.array_equal(np.sort(np.concatenate([rows.train, rows.validation, rows.test])), np.arange(2715))
    assert in_proportion(labels, rows.validation)
    for part in (rows.train, rows.test):
        expected = len(part) * np.bincount(labels) / len(labels)
        # Two roundings, one after the other.
        assert (np.abs(np.bincount(labels[part]) - expected) < 2).all()
    assert np.array_equal(rows.test, split_three_ways(labels).test)
    assert not np.array_equal(rows.test, split_three_ways(labels, seed=1).test)


def test_eurosats_sizes_are_the_papers():
    rows = split_three_ways(np.arange(27_000) % 10)
    assert [len(rows.train), len(rows.validation), len(rows.test)] == [21_600, 2_700, 2_700]


def test_small_classes_may_miss_a_held_out_part_but_never_training():
    labels = np.array([0] * 97 + [1] * 3)
    train, validation = carve_validation(labels, 0.1)
    assert np.bincount(labels[validation], minlength=2).tolist() == [10, 0]
    assert np.bincount(labels[train]).tolist() == [87, 3]
    with pytest.raises(InputError, match=r"class \d has 1 image\(s\), too few to be split"):
        carve_validation(np.arange(10), 0.5)


def test_impossible_sizes_are_refused():
    labels = np.arange(20) % 2
    for n in (0, 21, -3):
        with pytest.raises(InputError, match=rf"subset of {n} images, expected between 1 and the 20"):
            stratified_subset(labels, n)
    for size in (0.0, 1.0, -0.1, 1.5, 0, 20, -1, 0.99):
        with pytest.raises(InputError, match=rf"got size={size} of 20 images"):
            carve_validation(labels, size)
    with pytest.raises(InputError, match=r"got 2 images, expected at least 3"):
        split_three_ways(labels[:2])
