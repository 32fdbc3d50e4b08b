"""Figures and tables of the study of ground truth, from its kept results."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from head_effects import MEASURES
from matplotlib.figure import Figure
from resampling import LEVEL, holm
from scipy.stats import norm

from residual_lens.report import effect_figure, interval_figure

Runs = Mapping[str, Mapping[str, Any]]
"""What `measured` gave, by path and way to ablate ("direct, mean")."""
DRAWN_WAY = "mean"
"""Figures show what replacing by the mean does; tables show both."""
CERTAIN = 0.05
"""What is called certain: adjusted p-value below this."""
UNITS = {"accuracy": "points", "contrast": "%"}
"""What drops of each measure are counted in."""


def matrices(runs: Runs, scores: Sequence[str], k: str, measure: str, *, title: str) -> Figure:
    """What every attribute loses when the heads chosen for another go, one map for each score and path."""
    shown = {
        f"heads chosen by {score}; {run.split(',')[0]} path": found["chosen"][score][k]
        for score in scores
        for run, found in runs.items()
        if run.endswith(DRAWN_WAY)
    }
    attributes = list(next(iter(shown.values())))
    effects = {
        name: np.array([[value for value, *_ in row["drop"][measure]] for row in rows.values()])
        for name, rows in shown.items()
    }
    p_values = np.array([[_p_values(row, measure) for row in rows.values()] for rows in shown.values()])
    certain = np.reshape(holm(p_values.ravel().tolist()), p_values.shape) < CERTAIN
    return effect_figure(
        effects,
        attributes,
        certain=dict(zip(effects, certain, strict=True)),
        title=title,
        label="points of accuracy lost" if measure == "accuracy" else "% of the contrast lost",
    )


def _p_values(row: Mapping[str, Any], measure: str) -> list[float]:
    """Of a row's drops: McNemar's of accuracy; of contrast the normal one with the bootstrap interval's width."""
    if measure == "accuracy":
        return row["p"]
    values, lows, highs = np.array(row["drop"][measure]).T
    errors = (highs - lows) / (2 * norm.ppf((1 + LEVEL) / 2))
    return [float(2 * norm.sf(size)) for size in np.abs(values) / np.where(errors > 0, errors, np.inf)]


def selectivities(runs: Runs, *, title: str) -> Figure:
    """Own drop less that of other attributes, by score and number of heads, beside random draws."""
    panels, random = {}, {}
    for name, (found, measure) in _panels(runs).items():
        means = found["means"]
        tops = {f"{k} head{'s' * (k != '1')}": k for k in next(iter(means.values()))}
        panels[name] = {
            row: {score: means[score][k]["selectivity"][measure] for score in means} for row, k in tops.items()
        }
        random[name] = {
            row: {score: means[score][k]["random"]["selectivity"][measure] for score in means}
            for row, k in tops.items()
        }
    labels = [UNITS[measure] for _, measure in _panels(runs).values()]
    return interval_figure(panels, random=random, title=title, labels=labels)


def foretellings(runs: Runs, *, title: str) -> Figure:
    """Rank correlation of score and effect, by attribute; the last row is the mean over attributes."""
    panels = {}
    for name, (found, measure) in _panels(runs).items():
        by_score = found["foretold"]
        rows = next(iter(by_score.values()))
        panels[name] = {row: {score: by_row[row][measure]["rho"] for score, by_row in by_score.items()} for row in rows}
    return interval_figure(panels, title=title, labels=["Spearman's ρ"] * len(panels))


def _panels(runs: Runs) -> dict[str, tuple[Mapping[str, Any], str]]:
    """Results and measure of every panel, by its title."""
    return {
        f"{run.split(',')[0]} path, {measure}": (found, measure)
        for run, found in runs.items()
        if run.endswith(DRAWN_WAY)
        for measure in MEASURES
    }


def print_tables(runs: Runs, k: str) -> None:
    """The numbers, as tables in Markdown."""
    found = next(iter(runs.values()))
    attributes = list(next(iter(found["chosen"].values()))[k])
    before = zip(attributes, found["before"]["accuracy"], strict=True)
    print("\nZero-shot accuracy (%): " + ", ".join(f"{name} {100 * value:.1f}" for name, value in before))
    for measure in MEASURES:
        print(f"\nThe {k} best heads: {measure} lost ({UNITS[measure]}). Means over attributes [95 % interval]; random")
        print("draws: mean, largest; wins: attributes whose selectivity is above that of every draw; first: attributes")
        print("that lose more than every other attribute does.\n")
        print("| path, replaced by | chosen by | own drop | random | selectivity | random | wins | first |")
        print("|---|---|--:|--:|--:|--:|--:|--:|")
        for run, found in runs.items():
            for score, means in found["means"].items():
                print(f"| {run} | {score} | {' | '.join(_cells(means[k], found['chosen'][score][k], measure))} |")
    print("\nSpearman's ρ over heads of the score and the drop when that head alone goes. Means over attributes [95 %")
    print("interval]; in brackets for how many attributes it is above that of heads mixed within layers (Holm, 5 %).")
    print("Repeated: of drops on one half of the test images with those on the other.\n")
    columns = [(run, measure) for run in runs for measure in MEASURES]
    print("| | " + " | ".join(f"{run}: {measure}" for run, measure in columns) + " |")
    print("|---|" + "--:|" * len(columns))
    certain = {column: certainly_foretold(runs[column[0]]["foretold"], column[1]) for column in columns}
    for score in found["foretold"]:
        cells = [
            f"{_estimate(runs[run]['foretold'][score]['mean'][measure]['rho'], 2)} ({certain[run, measure][score]})"
            for run, measure in columns
        ]
        print(f"| {score} | {' | '.join(cells)} |")
    repeated = [np.mean([each[measure] for each in runs[run]["repeatable"].values()]) for run, measure in columns]
    print("| repeated | " + " | ".join(f"{value:.2f}" for value in repeated) + " |")


def _cells(means: Mapping[str, Any], rows: Mapping[str, Any], measure: str) -> list[str]:
    """Own drop and selectivity, each with its random draws, wins, and how often the own drop is the largest."""
    largest = [np.argmax([value for value, *_ in row["drop"][measure]]) for row in rows.values()]
    wins = sum(row["selectivity"][measure][0] > max(row["random"]["selectivity"][measure]) for row in rows.values())
    return [
        _estimate(means["drop"][measure]),
        _spread(means["random"]["drop"][measure]),
        _estimate(means["selectivity"][measure]),
        _spread(means["random"]["selectivity"][measure]),
        f"{wins} of {len(rows)}",
        f"{sum(place == found for place, found in enumerate(largest))} of {len(rows)}",
    ]


def certainly_foretold(by_score: Mapping[str, Any], measure: str) -> dict[str, int]:
    """For how many attributes a score foretells effects beyond the layer; all scores and attributes are one family."""
    cells = [(score, name) for score, by_name in by_score.items() for name in by_name if name != "mean"]
    adjusted = holm([by_score[score][name][measure]["p"] for score, name in cells])
    counts = dict.fromkeys(by_score, 0)
    for (score, _), p in zip(cells, adjusted, strict=True):
        counts[score] += p < CERTAIN
    return counts


def _estimate(values: Iterable[float], digits: int = 1) -> str:
    value, low, high = (f"{each:.{digits}f}" for each in values)
    return f"{value} [{low}, {high}]"


def _spread(values: Iterable[float]) -> str:
    found = list(values)
    return f"{np.mean(found):.1f}, {max(found):.1f}"
