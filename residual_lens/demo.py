"""The main job end to end: decompose, fit bases, train ResiDual through hooks, compare honestly."""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from residual_lens.bases import Bases, fit_bases
from residual_lens.data import Task, load_task, task_names
from residual_lens.errors import InputError
from residual_lens.figures import save
from residual_lens.files import write_atomically
from residual_lens.hooked import HookedViT
from residual_lens.interventions import Adapter, ResiDual
from residual_lens.report import demo_figure, results_table
from residual_lens.text import zero_shot_classifier
from residual_lens.training import Coarse, LinearAdapter, cache_samples, evaluate, train_adapter

MODEL = "attribute-clip"
FITTING = "residual_lens.training.fitting.fit"
"""What logs that training diverged."""
# Unlabelled training images of each of the demo's tasks that the bases are fitted on together, whatever tasks are run.
BASIS_IMAGES_PER_TASK = 200


METHODS: dict[str, Callable[[HookedViT, Bases, int], Adapter]] = {
    "coarse": lambda hvit, bases, seed: Coarse(hvit.cfg.n_layers, hvit.cfg.n_heads),
    "residual*": lambda hvit, bases, seed: ResiDual.from_bases(bases, variant="residual*", seed=seed),
    "residual": lambda hvit, bases, seed: ResiDual.from_bases(bases, variant="residual", seed=seed),
    "linear": lambda hvit, bases, seed: LinearAdapter(hvit.cfg.d_out),
}
"""What is trained, from model, bases and seed; zero-shot comes before."""


@dataclass(frozen=True)
class MethodResult:
    """What a method reached on a task."""

    accuracy: float
    """On the test split, in [0, 1]."""
    parameters: int
    """Numbers trained."""
    seconds: float
    """Wall-clock time of training (zero-shot: of building the classifier)."""


@dataclass(frozen=True)
class TaskResult:
    """What every method reached on a task, and what ResiDual changed."""

    n_test: int
    """Test images."""
    chance: float
    """Accuracy of guessing."""
    methods: dict[str, MethodResult]
    """By name."""
    change: Float[np.ndarray, "layer column"]
    """Share of ResiDual's change by head (last column: MLP)."""
    kept_start: tuple[str, ...]
    """Methods that no epoch made better than their start."""


def run_demo(
    out: str | Path, *, seed: int = 0, tasks: tuple[str, ...] | None = None, console: Console | None = None
) -> dict[str, Any]:
    """Run the main job on the shipped model and write `results.json` and `figure.png`.

    Args:
        out: folder to write to.
        seed: of data, λ and the order of samples.
        tasks: names from `task_names()`; all of `demo_tasks()` by default.
        console: where progress and the table go.

    Returns:
        What `results.json` holds.

    Raises:
        InputError: unknown tasks, before anything runs.
    """
    console = console or Console()
    names = tuple(dict.fromkeys(tasks or demo_tasks()))
    unknown = [name for name in names if name not in task_names()]
    if unknown:
        raise InputError(f"Unknown tasks {', '.join(unknown)}; known are {', '.join(task_names())}.")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise InputError(f"Cannot write to {out.absolute()}: give another folder with --out.")
    started = time.perf_counter()
    hvit = HookedViT.from_pretrained(MODEL)
    console.print(
        f"[bold]{MODEL}[/bold]: {hvit.cfg.n_layers} layers × {hvit.cfg.n_heads} heads, {len(hvit.units)} units, "
        f"{sum(p.numel() for p in hvit.parts.tower.parameters()):,} parameters; {len(names)} tasks",
        soft_wrap=True,
    )
    results: dict[str, TaskResult] = {}
    with _progress(console, total=1 + len(names) * (1 + len(METHODS))) as step:
        with step("all tasks", "rendering images, fitting bases"):
            loaded = [load_task(name, image_size=hvit.cfg.image_size[0], seed=seed) for name in names]
            bases = fit_bases(hvit, hvit.normalize(_basis_images(hvit, seed)))
        for task in loaded:
            results[task.name] = _run_task(hvit, bases, task, seed, step)
    report = {"model": MODEL, "seed": seed, "tasks": {name: _as_json(result) for name, result in results.items()}}
    shown = {_label(name): result for name, result in report["tasks"].items()}
    console.print(results_table(shown, title="Accuracy on held-out test images (%)"))
    kept = [f"{_label(name)} ({', '.join(one.kept_start)})" for name, one in results.items() if one.kept_start]
    if kept:
        said = f"Left at their start, since no epoch was better: {', '.join(kept)}."
        console.print(said, highlight=False, markup=False, soft_wrap=True)
    write_atomically(out / "results.json", f"{json.dumps(report, indent=2)}\n".encode())
    change = np.mean([result.change for result in results.values()], axis=0)
    save(demo_figure(shown, change, title=f"ResiDual on {MODEL}"), out / "figure.png")
    console.print(
        f"Wrote {out / 'results.json'} and {out / 'figure.png'} in {time.perf_counter() - started:.0f} s. "
        "Bold: best of the row. All methods but zero-shot trained on the task's training split.",
        markup=False,
        soft_wrap=True,
    )
    return report


def _basis_images(hvit: HookedViT, seed: int) -> Float[torch.Tensor, "batch 3 height width"]:
    size, count = hvit.cfg.image_size[0], BASIS_IMAGES_PER_TASK
    tasks = (
        load_task(name, image_size=size, seed=seed, n_train=count, n_validation=1, n_test=1) for name in demo_tasks()
    )
    return torch.cat([task.train.images for task in tasks])


def _label(task: str) -> str:
    """What the table and the figure call a task: rendered ones by attribute, scans as what they are."""
    return task.removeprefix("attributes:") if ":" in task else f"{task} (real)"


Step = Callable[[str, str], AbstractContextManager[None]]
"""A piece of work (on which task, doing what), shown while it runs and counted when it is done."""


@contextmanager
def _progress(console: Console, *, total: int) -> Iterator[Step]:
    """A bar in a terminal; a line for each task elsewhere."""
    columns = (TextColumn("{task.description:<40}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=total)
        current = ""

        @contextmanager
        def step(task: str, doing: str) -> Iterator[None]:
            nonlocal current
            progress.update(bar, description=f"{task}: {doing}")
            if not console.is_terminal and task != current:
                console.print(f"{task} …", highlight=False)
            current = task
            yield
            progress.advance(bar)

        yield step


def demo_tasks() -> tuple[str, ...]:
    """Real digits, every attribute as pretraining renders it, and shape under every shift that it never saw."""
    plain = [name for name in task_names() if "@" not in name]
    return (*plain, *(name for name in task_names() if name.startswith("attributes:shape@")))


def _run_task(hvit: HookedViT, bases: Bases, task: Task, seed: int, step: Step) -> TaskResult:
    """All methods on one task: the backbone runs once over each split, everything else happens in hooks."""
    with step(task.name, "decomposing images"):
        started = time.perf_counter()
        classifier = zero_shot_classifier(
            hvit.encode_text, task.classes, templates=task.templates, logit_scale=hvit.logit_scale
        )
        seconds = time.perf_counter() - started
        splits = (task.train, task.validation, task.test)
        train, validation, test = (cache_samples(hvit, hvit.normalize(s.images), s.labels) for s in splits)
        methods = {"zero-shot": MethodResult(evaluate(hvit, classifier, test), 0, seconds)}
    change = np.zeros((hvit.cfg.n_layers, hvit.cfg.n_heads + 1))
    kept_start: list[str] = []
    for name, make in METHODS.items():
        with step(task.name, f"training {name}"):
            adapter = make(hvit, bases, seed)
            with _quiet():
                log = train_adapter(adapter, hvit, classifier, train=train, validation=validation, seed=seed)
            if not log.best_epoch:
                kept_start.append(name)
            accuracy = evaluate(hvit, classifier, test, adapter=adapter)
            methods[name] = MethodResult(accuracy, adapter.parameter_count(), log.seconds)
        if name == "residual" and isinstance(adapter, ResiDual):
            change = _change(hvit, bases, adapter)
    return TaskResult(len(task.test), 1 / len(task.classes), methods, change, tuple(kept_start))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning that training diverged, which advises on options that the demo does not have."""

    def never(record: logging.LogRecord) -> bool:
        return False

    fitting = logging.getLogger(FITTING)
    fitting.addFilter(never)
    try:
        yield
    finally:
        fitting.removeFilter(never)


def _change(hvit: HookedViT, bases: Bases, residual: ResiDual) -> Float[np.ndarray, "layer column"]:
    """Share of `Σ_k (λ_k − 1)² variance_k`, the energy of what ResiDual changes, by head and MLP."""
    energy = np.zeros((hvit.cfg.n_layers, hvit.cfg.n_heads + 1))
    for unit in hvit.units.select(residual.config.units):
        scales = residual.scales_of(unit.name).detach()
        column = hvit.cfg.n_heads if unit.index is None else unit.index
        energy[unit.layer, column] = float(((scales - 1).square() * bases[unit.name].variances[: len(scales)]).sum())
    return energy / max(energy.sum(), np.finfo(np.float64).tiny)


def _as_json(result: TaskResult) -> dict[str, Any]:
    return {
        "n_test": result.n_test,
        "chance": result.chance,
        "methods": {name: asdict(method) for name, method in result.methods.items()},
    }
