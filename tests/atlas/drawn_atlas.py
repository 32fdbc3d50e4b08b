"""Atlases of any size with made-up contents, for tests of the page."""

import base64
import io
from collections.abc import Iterator

import numpy as np
from numpy.random import Generator
from PIL import Image

from residual_lens.atlas.contents import Atlas, ClassEffect, ComponentEntry, Measure, Said, TaskEntry, UnitEntry

TASKS = {
    "attributes:colour": ("red", "orange", "green", "blue"),
    "texture": ("solid", "striped", "dotted"),
    "letter": tuple("abcdefghijklmnop"),
}
WORDS = (
    "stripes",
    "a red star",
    "navy",
    "grey",
    "a dotted heart",
    "upright",
    "on the left",
    "b",
    "brown",
    "green",
)
MEASURES = (
    Measure("contrast:0", "colour: contrast lost", "Share that goes with the unit.", "effect", diverging=True),
    Measure("twonn", "TwoNN", "Intrinsic dimension.", "dimension", digits=1),
    Measure("linear", "linear dimension", "Components for 99 % of the variance.", "dimension", digits=0),
    Measure("energy", "λ energy", "What training changed.", "training"),
)
GRID = (4, 4)
N_IMAGES = 24
N_COMPONENTS = 12
ERROR = 0.004
"""Of each share of contrast."""


def drawn_atlas(n_layers: int = 3, n_heads: int = 4, *, seed: int = 0, title: str = "Head atlas") -> Atlas:
    """An atlas of so many heads and an MLP a layer; every optional part is there somewhere and missing elsewhere.

    Head 1 of layer 1 carries colour: its loss takes most of that task's contrast.
    """
    generator = np.random.default_rng(seed)
    accuracies = {task: generator.uniform(0.7, 1, len(classes)) for task, classes in TASKS.items()}
    tasks = tuple(
        TaskEntry(task, classes, 300, float(accuracies[task].mean()), tuple(accuracies[task].tolist()))
        for task, classes in TASKS.items()
    )
    return Atlas(
        title=title,
        model="a model of random numbers",
        facts={"stores": "none", "seed": str(seed)},
        n_layers=n_layers,
        n_heads=n_heads,
        measures=MEASURES,
        tasks=tasks,
        units=tuple(_units(n_layers, n_heads, tasks, generator)),
        images=tuple(_image(generator) for _ in range(N_IMAGES)),
        captions=tuple(f"caption {place}" for place in range(N_IMAGES)),
        grid=GRID,
        scale_start=1.0,
    )


def _units(n_layers: int, n_heads: int, tasks: tuple[TaskEntry, ...], generator: Generator) -> Iterator[UnitEntry]:
    for layer in range(n_layers):
        for column in range(n_heads + 1):
            kind = "head" if column < n_heads else "mlp"
            name = f"L{layer}H{column}" if kind == "head" else f"{layer}_mlp_out"
            carries_colour = (layer, column) == (1, 1)
            yield _unit(name, kind, layer, column, tasks, carries_colour, generator)


def _unit(
    name: str,
    kind: str,
    layer: int,
    column: int,
    tasks: tuple[TaskEntry, ...],
    carries_colour: bool,
    generator: Generator,
) -> UnitEntry:
    shares = np.sort(generator.dirichlet(np.full(N_COMPONENTS, 0.3)))[::-1]
    components = tuple(_component(float(share), generator) for share in shares[:3])
    seen = {image for component in components for image in (*component.low, *component.high)}
    described = kind == "head"
    effects = tuple(_effect(place, task, carries_colour, generator) for place, task in enumerate(tasks))
    return UnitEntry(
        name=name,
        kind=kind,
        layer=layer,
        column=column,
        measures={
            "contrast:0": effects[0].contrast,
            "twonn": float(generator.uniform(2, 9)),
            "linear": float(generator.integers(3, 20)),
            "energy": float(generator.exponential()) if described else None,
        },
        description=_description(generator) if described else (),
        explained=0.45 if described else None,
        explained_by_chance=0.2 if described else None,
        p_value=(0.025 if column % 2 else 0.4) if described else None,
        coherence=float(generator.uniform(-0.1, 0.5)) if described else None,
        spectrum=tuple(shares.tolist()),
        components=components,
        scales=tuple(generator.normal(1, 1, N_COMPONENTS).tolist()) if described else None,
        scales_before=tuple(generator.normal(1, 1, N_COMPONENTS).tolist()) if described and layer else None,
        effects=effects,
        attention={image: _attention(generator) for image in sorted(seen)} if described else {},
    )


def _component(share: float, generator: Generator) -> ComponentEntry:
    images = generator.choice(N_IMAGES, 8, replace=False).tolist()
    texts = generator.choice(WORDS, 4, replace=False).tolist()
    return ComponentEntry(share, tuple(images[:4]), tuple(images[4:]), tuple(texts[:2]), tuple(texts[2:]))


def _effect(place: int, task: TaskEntry, carries_colour: bool, generator: Generator) -> ClassEffect:
    contrast = (
        0.4
        if carries_colour and task.name == "attributes:colour"
        else float(np.clip(generator.normal(0.02, 0.05), -0.3, 0.3))
    )
    contrasts = (contrast + generator.normal(0, 0.03, len(task.classes))).tolist()
    classes = np.clip(np.array(task.class_accuracies) - contrast / 4, 0, 1)
    return ClassEffect(place, float(classes.mean()), tuple(classes.tolist()), contrast, ERROR, tuple(contrasts))


def _description(generator: Generator) -> tuple[Said, ...]:
    texts = generator.choice(WORDS, 7, replace=False).tolist()
    weights = np.sort(generator.uniform(0, 1, 7))[::-1]
    explained = np.cumsum(weights / weights.sum()) * 0.6
    return tuple(
        Said(text, float(weight / weights[0]), float(share))
        for text, weight, share in zip(texts, weights, explained, strict=True)
    )


def _attention(generator: Generator) -> str:
    weights = generator.integers(0, 256, GRID, dtype=np.uint8)
    return base64.b64encode(weights.tobytes()).decode()


def _image(generator: Generator) -> str:
    """A coloured square on a coloured ground, as a data URI."""
    pixels = np.empty((32, 32, 3), dtype=np.uint8)
    pixels[:] = generator.integers(0, 256, 3)
    pixels[8:24, 8:24] = generator.integers(0, 256, 3)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
