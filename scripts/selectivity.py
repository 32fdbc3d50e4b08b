"""From outcomes of ablations to claims: drops, selectivity, and whether a score foretells them, each with its doubt."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from head_effects import MEASURES, Outcomes
from jaxtyping import Float
from resampling import interval, over_attributes, paired_p, rank_correlation, resampled_means, within_groups_p

from residual_lens.selection import layer_matched
from residual_lens.units import Unit, Units

Scores = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Score → attribute → head → value."""
N_PERMUTATIONS = 10_000


class Drops:
    """What ablations take from every attribute, in percent, on resampled images."""

    def __init__(self, outcomes: Outcomes, counts: Float[np.ndarray, "draw image"]) -> None:
        """Drops against the model as it is, on the same draws of images."""
        self.outcomes, self._counts = outcomes, counts
        self.before = resampled_means(outcomes.of(()), counts)

    def of(self, units: Sequence[str], n_draws: int | None = None) -> Float[np.ndarray, "measure draw attribute"]:
        """Points of accuracy lost; share of the contrast lost. On all draws, or the first so many."""
        before, after = self.before[:n_draws], resampled_means(self.outcomes.of(units), self._counts[:n_draws])
        return 100 * np.stack([before[:, 0] - after[:, 0], 1 - after[:, 1] / before[:, 1]])


def selectivity(
    drops: Float[np.ndarray, "measure draw attribute"], attribute: int
) -> Float[np.ndarray, "measure draw"]:
    """An attribute's own drop less the mean drop of the others."""
    return drops[..., attribute] - np.delete(drops, attribute, axis=-1).mean(axis=-1)


def top(scores: Mapping[str, float], k: int) -> tuple[str, ...]:
    """The k heads of the highest scores, ties in the order of the model."""
    return tuple(sorted(scores, key=lambda unit: -scores[unit])[:k])


def measured(
    outcomes: Outcomes,
    scores: Scores,
    *,
    tops: Iterable[int],
    n_random: int,
    counts: Float[np.ndarray, "draw image"],
    seed: int,
) -> dict[str, Any]:
    """All that is reported of one path and one way to ablate.

    Args:
        outcomes: of sets of heads.
        scores: of all heads, made on other images.
        tops: how many heads are ablated.
        n_random: layer-matched draws beside each choice; the same seeds for all.
        counts: resampled images.
        seed: of draws of attributes and of permutations.
    """
    drops = Drops(outcomes, counts)
    attributes = list(next(iter(scores.values())))
    heads = list(next(iter(scores.values()))[attributes[0]])
    chosen = {
        score: {
            str(k): {
                attribute: _chosen(drops, top(by_attribute[attribute], k), place, heads, n_random)
                for place, attribute in enumerate(attributes)
            }
            for k in tops
        }
        for score, by_attribute in scores.items()
    }
    return {
        "before": {measure: drops.before[0, place].tolist() for place, measure in enumerate(MEASURES)},
        "heads": {head: by_measure(drops.of([head], 1)[:, 0]) for head in heads},
        "chosen": chosen,
        "means": {
            score: {k: _means(drops, by_attribute, seed) for k, by_attribute in by_top.items()}
            for score, by_top in chosen.items()
        },
        "foretold": foretold(drops, scores, heads, attributes, seed),
        "repeatable": repeatable(outcomes, heads, attributes, seed),
    }


def _chosen(drops: Drops, units: tuple[str, ...], place: int, heads: Sequence[str], n_random: int) -> dict[str, Any]:
    """One row of the effect matrix, its selectivity, and those of random draws."""
    found = drops.of(units)
    before, after = (drops.outcomes.of(each)[0] for each in ((), units))
    known = ~np.isnan(before)
    every = Units(Unit.named(head) for head in heads)
    draws = [layer_matched(units, every, seed=seed) for seed in range(n_random)]
    random = [drops.of(draw, 1) for draw in draws]
    return {
        "units": list(units),
        "drop": by_measure([[interval(column) for column in measure.T] for measure in found]),
        "p": [paired_p(before[row, known[row]] == 1, after[row, known[row]] == 1) for row in range(len(before))],
        "selectivity": by_measure([interval(each) for each in selectivity(found, place)]),
        "random": {
            "drop": by_measure(np.stack([each[:, 0, place] for each in random], axis=1)),
            "selectivity": by_measure(np.stack([selectivity(each, place)[:, 0] for each in random], axis=1)),
        },
    }


def _means(drops: Drops, by_attribute: Mapping[str, Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Own drop and selectivity, means over attributes; random draws of one seed together."""
    found = [drops.of(each["units"]) for each in by_attribute.values()]
    own = np.stack([each[..., place] for place, each in enumerate(found)], axis=-1)
    selective = np.stack([selectivity(each, place) for place, each in enumerate(found)], axis=-1)
    random = {
        kind: by_measure(
            [np.mean([each["random"][kind][measure] for each in by_attribute.values()], axis=0) for measure in MEASURES]
        )
        for kind in ("drop", "selectivity")
    }
    return {
        "drop": by_measure([interval(over_attributes(each, seed)) for each in own]),
        "selectivity": by_measure([interval(over_attributes(each, seed)) for each in selective]),
        "random": random,
    }


def foretold(
    drops: Drops, scores: Scores, heads: Sequence[str], attributes: Sequence[str], seed: int
) -> dict[str, Any]:
    """Spearman's ρ over heads between a score and the drop when that head alone is ablated.

    The interval is over images, the p-value against heads mixed within their layers: that late heads matter more and
    score higher does not count.
    """
    alone = np.stack([drops.of([head]) for head in heads], axis=-1)
    layers = np.array([Unit.named(head).layer for head in heads])

    def one(score: str, place: int, measure: int) -> dict[str, Any]:
        values = np.array([scores[score][attributes[place]][head] for head in heads])
        effects = alone[measure, :, place]
        p = within_groups_p(values, effects[0], layers, N_PERMUTATIONS, seed)
        return {"rho": interval(rank_correlation(np.broadcast_to(values, effects.shape), effects)), "p": p}

    def mean(score: str, measure: int) -> list[float]:
        values = np.array([[scores[score][attribute][head] for head in heads] for attribute in attributes])
        effects = alone[measure]
        return interval(over_attributes(rank_correlation(np.broadcast_to(values, effects.shape), effects), seed))

    return {
        score: {
            **{
                attribute: by_measure([one(score, place, measure) for measure in range(len(MEASURES))])
                for place, attribute in enumerate(attributes)
            },
            "mean": by_measure([{"rho": mean(score, measure)} for measure in range(len(MEASURES))]),
        }
        for score in scores
    }


def repeatable(
    outcomes: Outcomes, heads: Sequence[str], attributes: Sequence[str], seed: int
) -> dict[str, dict[str, float]]:
    """ρ of heads' drops on one half of the images with those on the other: what no score can be expected to exceed."""
    n_images = outcomes.of(()).shape[-1]
    order = np.random.default_rng(seed).permutation(n_images)
    halves = np.ones((3, n_images), np.float32)
    halves[1, order[: n_images // 2]] = 0
    halves[2, order[n_images // 2 :]] = 0
    drops = Drops(outcomes, halves)
    alone = np.stack([drops.of([head]) for head in heads], axis=-1)
    rho = rank_correlation(alone[:, 1], alone[:, 2])
    return {attribute: by_measure(rho[:, place]) for place, attribute in enumerate(attributes)}


def by_measure(values: Sequence[Any] | np.ndarray) -> dict[str, Any]:
    """For JSON."""
    return dict(
        zip(MEASURES, (each.tolist() if isinstance(each, np.ndarray) else each for each in values), strict=True)
    )
