"""Panels and tables of the study of unit selection."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from residual_lens.figures import AccuracyCurve
from residual_lens.report.selection import AccuracyPanel
from residual_lens.subsets import DROPPED

SCORES = ("supervised", "task", "output", "concepts")
"""The concepts of the last are the classes."""
PERCENTS = (1, 5, 10, 25, 50, 75, 100)
"""Of the heads that are kept, beside a single one."""
DESCRIBED = 10
"""Percentage at which kept heads are described."""
LAYERS = ("heads of a layer", "all of a layer", "heads up to it", "all up to it")
"""What is kept by layer."""


def sizes(n_heads: int) -> dict[int, str]:
    """Numbers of heads that are kept, with their percentage (the largest one that comes to so many)."""
    return {1: ""} | {-(-n_heads * percent // 100): f"{percent} %" for percent in PERCENTS}


def rows_of_heads(results: Mapping[str, Mapping[str, Any]]) -> dict[str, list[AccuracyPanel]]:
    """By data set: heads alone, dropped units zero or mean, and heads beside all other units."""
    ways = (
        ("heads alone, all else zero", "zero", ""),
        ("heads alone, all else mean", "mean", ""),
        ("beside MLPs and embed, other heads mean", "mean", ", others"),
    )
    return {data: [heads_panel(result, *way) for way in ways] for data, result in results.items()}


def heads_panel(result: Mapping[str, Any], title: str, how: str, beside: str) -> AccuracyPanel:
    """Accuracy by number of heads, a curve a score."""
    hits, n_samples = result[how], result["about"]["samples"]
    ticks = sizes(len(result["supervised"]))
    curves = {score: with_interval([hits[f"{score}, {n}{beside}"] for n in ticks], n_samples) for score in SCORES}
    curves["random"] = over_seeds(
        [[hits[f"{order}, {n}{beside}"] / n_samples for n in ticks] for order in result if order.startswith("random")]
    )
    labels = [f"{n}\n{percent}" for n, percent in ticks.items()]
    return AccuracyPanel(title, "heads kept", labels, curves, levels(result, how))


def rows_of_layers(results: Mapping[str, Mapping[str, Any]]) -> dict[str, list[AccuracyPanel]]:
    """By data set: dropped units zero, and mean."""
    return {data: [layers_panel(result, how) for how in DROPPED] for data, result in results.items()}


def layers_panel(result: Mapping[str, Any], how: str) -> AccuracyPanel:
    """Accuracy by layer."""
    hits, n_samples = result[how], result["about"]["samples"]
    layers = sorted({int(choice.rpartition(" ")[2]) for choice in hits if choice.startswith(LAYERS)})
    curves = {name: with_interval([hits[f"{name}, {layer}"] for layer in layers], n_samples) for name in LAYERS}
    return AccuracyPanel(f"all else {how}", "layer", [str(layer) for layer in layers], curves, levels(result, how))


def levels(result: Mapping[str, Any], how: str) -> dict[str, float]:
    """What does not depend on a ranking."""
    hits, n_samples = result[how], result["about"]["samples"]
    return {
        "all units": hits["all"] / n_samples,
        "all but heads": hits["others"] / n_samples,
        "chance": 1 / len(result["about"]["classes"]),
    }


def with_interval(hits: Sequence[int], n_samples: int) -> AccuracyCurve:
    """Wilson's 95 % interval over test images (Wilson 1927)."""
    shares, z2 = np.array(hits) / n_samples, 1.96**2 / n_samples
    middle = (shares + z2 / 2) / (1 + z2)
    half = np.sqrt(z2 * (shares * (1 - shares) + z2 / 4)) / (1 + z2)
    low, high = (middle - half).clip(0, 1), (middle + half).clip(0, 1)
    return AccuracyCurve(shares.tolist(), low.tolist(), high.tolist())


def over_seeds(accuracies: Sequence[Sequence[float]]) -> AccuracyCurve:
    """Mean over random orders, and the 5th to the 95th percentile."""
    low, high = np.quantile(accuracies, [0.05, 0.95], axis=0)
    return AccuracyCurve(np.mean(accuracies, axis=0).tolist(), low.tolist(), high.tolist())


def print_tables(model: str, results: Mapping[str, Mapping[str, Any]]) -> None:
    """The figures' numbers and the descriptions, in Markdown."""
    for how in DROPPED:
        print_accuracies(model, results, how)
    n_heads = len(next(iter(results.values()))["supervised"])
    print(f"\n{model}: accuracy in percent without a ranking, all else zero / mean\n")
    print("| data | samples | all units | less their mean | all heads | all but heads | MLPs |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for data, result in results.items():
        n_samples = result["about"]["samples"]

        def percent(name: str, result: Mapping[str, Any] = result, n_samples: int = n_samples) -> str:
            return " / ".join(f"{100 * result[how][name] / n_samples:.1f}" for how in DROPPED)

        whole = f"{100 * result['zero']['all'] / n_samples:.1f} | {100 * result['centred'] / n_samples:.1f}"
        cells = [percent(name) for name in (f"supervised, {n_heads}", "others", "MLPs")]
        print(f"| {data} | {n_samples:,} | {whole} | {' | '.join(cells)} |")
    print(f"\n{model}: the best {DESCRIBED} % of the heads, in texts by SOMP with the share of variance explained\n")
    print("| data | score | heads, and two texts of each | five texts of their sum |")
    print("|---|---|---|---|")
    for data, result in results.items():
        for score, found in result["described"].items():
            heads = "; ".join(f"{head}: {listed(texts, 2)}" for head, texts in found["heads"].items())
            print(f"| {data} | {score} | {heads} | {listed(found['together'])} |")


def print_accuracies(model: str, results: Mapping[str, Mapping[str, Any]], how: str) -> None:
    """By data set and score, and the average over data sets."""
    n_heads = len(next(iter(results.values()))["supervised"])
    columns = [f"{n} ({percent})" if percent else str(n) for n, percent in sizes(n_heads).items()]
    print(f"\n{model}: accuracy in percent with so many of {n_heads} heads kept alone, all else {how}\n")
    print("| data | score | " + " | ".join(columns) + " |")
    print("|---|---|" + "--:|" * len(columns))
    panels = {data: heads_panel(result, "", how, "") for data, result in results.items()}
    for data, panel in panels.items():
        for score, curve in panel.curves.items():
            cells = [f"{100 * accuracy:.1f}" for accuracy in curve.accuracy]
            if score == "random":
                ends = zip(cells, curve.low, curve.high, strict=True)
                cells = [f"{cell} ({100 * low:.0f}–{100 * high:.0f})" for cell, low, high in ends]
            print(f"| {data} | {score} | " + " | ".join(cells) + " |")
    for score in (*SCORES, "random"):
        mean = np.mean([panel.curves[score].accuracy for panel in panels.values()], axis=0)
        print(f"| average | {score} | " + " | ".join(f"{100 * accuracy:.1f}" for accuracy in mean) + " |")


def listed(texts: Mapping[str, float], most: int | None = None) -> str:
    """Texts with the share that is explained once they are there."""
    return ", ".join(f"{text} {100 * share:.0f} %" for text, share in list(texts.items())[:most])
