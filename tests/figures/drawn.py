"""One call of every figure, with results made by hand, and what else several tests want."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from PIL import Image

from residual_lens import figures
from residual_lens.bases import Bases, Basis
from residual_lens.descriptions import AgainstChance, Description, Descriptions
from residual_lens.dimensions import UnitDimensions
from residual_lens.hooked import HookedViT
from residual_lens.hooked.cache import ViTCache
from residual_lens.interventions import ResiDual
from tests.tiny_models import tiny_images, tiny_tower


def dimensions_of(unit: str, two_nn: float = 6.0, linear: int = 12) -> UnitDimensions:
    return UnitDimensions(unit, 1437, linear, two_nn, 0.1, 0, 3.0, 0.4)


def bases_of(*names: str, variances: Callable[[int], torch.Tensor] | None = None, d_out: int = 6) -> Bases:
    """Falling spectra that differ from unit to unit."""

    def basis(place: int) -> Basis:
        found = torch.arange(4.0, 0, -1) ** (1 + place) if variances is None else variances(place)
        return Basis(torch.zeros(d_out), torch.eye(d_out)[: len(found)], found, float(found.sum()))

    by_unit = {name: basis(place) for place, name in enumerate(names)}
    return Bases(by_unit, 3, "own", 1.0, 100, "made up", "0" * 64)


def residual_of(bases: Bases, *scales: float) -> ResiDual:
    residual = ResiDual.from_bases(bases, variant="residual", scales="ones")
    residual.scales.data.copy_(torch.tensor(scales))
    return residual


def described(unit: str, p: float = 0.025, texts: tuple[str, ...] = ("navy", "black", "teal", "red")) -> Description:
    chance = AgainstChance(0.8, 0.3, 0.05, p)
    return Description(unit, texts, tuple(0.2 * (i + 1) for i in range(len(texts))), chance, chance)


@cache
def a_run(kind: str = "ViT-B-16") -> tuple[HookedViT, ViTCache, torch.Tensor]:
    """A tiny model, all activations of three images, and these images in [0, 1]."""
    hvit = HookedViT.wrap(tiny_tower(kind))
    images = tiny_images(hvit.source)
    _, cached = hvit.run_with_cache(images)
    return hvit, cached, images.sigmoid()


PICTURE = Image.fromarray(np.arange(5 * 8 * 3, dtype=np.uint8).reshape(5, 8, 3))
CURVE = figures.AccuracyCurve([0.2, 0.6, 0.9], [0.1, 0.5, 0.9], [0.3, 0.7, 0.9])


def calls() -> dict[str, Callable[..., Axes]]:
    """Of every figure, with all but `axes` given."""
    heads = [dimensions_of(f"L{layer}H{head}", 3.0 + layer) for layer in range(3) for head in range(2)]
    bases = bases_of("L0H0", "L0H1", "L1H0")

    def call(draw: Callable[..., Axes], *arguments: Any, **options: Any) -> Callable[..., Axes]:
        return lambda axes=None: draw(*arguments, **options, axes=axes)

    _, cached, images = a_run()
    return {
        "accuracy_by_parameters": call(
            figures.accuracy_by_parameters, {"coarse": figures.Trained(36, 0.8, 0.01), "none": figures.Trained(0, 0.5)}
        ),
        "accuracy_curves": call(figures.accuracy_curves, {"random": CURVE}, ["1", "4", "36"], levels={"chance": 0.1}),
        "attention": call(figures.attention, cached, images[0], "L1H1"),
        "attention_overlay": call(figures.attention_overlay, PICTURE, np.array([[0.0, 0.2], [0.4, 0.0]])),
        "comparison": call(
            figures.comparison,
            {"digits": {"before": 0.5, "after": 0.75}, "shape": {"before": 0.25}},
            ends=("before", "after"),
            chance={"digits": 0.1},
        ),
        "descriptions": call(figures.descriptions, Descriptions({"L0H0": described("L0H0")}, {})),
        "dimensions": call(figures.dimensions, {"digits": heads, "random": heads[:4]}),
        "effects": call(figures.effects, np.array([[12.0, -3.0], [0.5, 8.0]]), ["colour", "shape"], label="points"),
        "image_grid": call(figures.image_grid, {"along": [PICTURE] * 3, "against": [images[0]]}),
        "intervals": call(
            figures.intervals,
            {"one": {"a": (1.0, 0.5, 2.0), "b": (3.0, 2.0, 3.5)}, "two": {"a": (4.0, 3.0, 5.0)}},
            random={"one": {"a": [0.1, 0.2]}},
        ),
        "scales": call(figures.scales, residual_of(bases, 2.0, 1.0, 0.0, 1.0, 1.0, -3.0, 0.5, 0.5, 0.5), bases),
        "similarity": call(figures.similarity, torch.tensor([[1.0, 0.4], [0.4, 1.0]]), ["digits", "random"]),
        "spectra": call(figures.spectra, bases),
        "transfer": call(
            figures.transfer, np.array([[0.5, 0.4], [0.9, 0.3]]), np.array([0.5, 0.4]), ["none", "b"], ["a", "b"]
        ),
        "unit_map": call(figures.unit_map, {"L0H0": 0.2, "L0H1": 0.7, "1_mlp_out": 0.4}, label="score"),
    }


PICTURES = {"attention", "attention_overlay", "image_grid"}
"""Figures that show photographs."""
