"""Many training runs: a grid of them, each a command of its own, run here side by side."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from tqdm import tqdm

from residual_lens.errors import InputError, did_you_mean
from residual_lens.hooked.devices import device_named
from residual_lens.hooked.loading import PAPER_MODELS
from residual_lens.training.methods import METHODS
from residual_lens.training.runs import Resources, RunConfig, RunResult
from residual_lens.training.runs.refusals import useless
from residual_lens.training.runs.result import RESULT

logger = logging.getLogger(__name__)

PAPER_DATA = (
    *("cifar10", "cifar100", "dtd", "eurosat", "gtsrb"),
    *("mnist", "resisc45", "stanford_cars", "sun397", "svhn"),
)
"""The ten data sets that Basile et al. (arXiv 2411.00246) train on, see experiment 4 of their released code."""
PRESETS = {"models": {"paper": tuple(PAPER_MODELS)}, "data": {"paper": PAPER_DATA}, "methods": {"all": tuple(METHODS)}}
"""Names that stand for several."""
COMMAND = (sys.executable, "-m", "residual_lens")
"""`residual-lens` of this environment."""
LOGS = "logs"
"""Folder of what runs say, among their folders."""
POLL = 0.1
"""Seconds between looks at what runs."""
GRACE = 30
"""Seconds that runs have to stop in once they are interrupted."""


@dataclass(frozen=True)
class Failure:
    """A run that did not end well."""

    config: RunConfig
    """Which."""
    status: int
    """Its exit status; below 0 the signal that killed it."""
    log: Path
    """What it said."""

    @property
    def last_words(self) -> str:
        """The last line of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def grid(
    models: Sequence[str], data: Sequence[str], methods: Sequence[str], seeds: Sequence[int], base: RunConfig
) -> list[RunConfig]:
    """Every method on every data set with every model and seed.

    Args:
        models: names, or "paper" for the paper's seven.
        data: names, or "paper" for the paper's ten.
        methods: names, or "all".
        seeds: of the runs.
        base: all other settings. A method is given those that it reads, so that its run is the one that it is alone.

    Raises:
        InputError: nothing of a kind, one of it twice, a method that there is not, or a setting that none reads.
    """
    lists = {"models": models, "data": data, "methods": methods}
    named = {kind: [one for name in names for one in PRESETS[kind].get(name, (name,))] for kind, names in lists.items()}
    for kind, values in (*named.items(), ("seeds", list(seeds))):
        if not values or len(set(values)) < len(values):
            given = ", ".join(map(str, values)) or "none"
            raise InputError(f"A sweep takes at least one of {kind}, each once; got {given}.")
    if unknown := [name for name in named["methods"] if name not in METHODS]:
        hint = did_you_mean(unknown[0], METHODS)
        raise InputError(f"got methods {', '.join(unknown)}, expected all, or of {', '.join(METHODS)}.{hint}")
    left_out = {method: useless(METHODS[method]) & set(base.options) for method in named["methods"]}
    if of_none := frozenset.intersection(*left_out.values()):
        raise InputError(f"got {', '.join(sorted(of_none))}, which none of these methods has a use for: leave it out.")
    default = RunConfig("", "", "")
    read = {
        method: replace(base, method=method, **{name: getattr(default, name) for name in names})
        for method, names in left_out.items()
    }
    return [
        replace(read[method], model=model, data=name, seed=seed)
        for model, name, method, seed in product(*named.values(), seeds)
    ]


def unfinished(configs: Iterable[RunConfig], out: Path) -> list[RunConfig]:
    """Runs without a result."""
    return [config for config in configs if not (out / config.folder_name / RESULT).is_file()]


def finished_runs(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """Results of all finished runs below some folders.

    With each go the settings that are not the default ("options"), and those that mean nothing for its method
    ("useless").

    Args:
        folders: of runs, or folders that hold them.

    Raises:
        InputError: a folder that is not there, a run's file that cannot be read, or one run in two folders.
    """
    found, places = [], {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder}: expected one that `residual-lens train` wrote to.")
        for path in sorted(folder.rglob(RESULT)):
            result = RunResult.load(path.parent)
            # Which columns hold images and labels is part of the data's name.
            options = {name: value for name, value in result.config.options.items() if not name.endswith("_column")}
            config = result.config
            of_none = sorted(useless(METHODS[config.method])) if config.method in METHODS else []
            found.append(result.to_dict() | {"options": options, "useless": of_none})
            run = (config.model, config.data, config.method, config.seed, str(options))
            if run in places:
                raise InputError(
                    f"{config.method} of {config.model} on {config.data} with seed {config.seed} came twice, from "
                    f"{places[run]} and {path.parent}: give each folder of runs once, and of copies one."
                )
            places[run] = path.parent
    return found


def in_order(configs: Sequence[RunConfig]) -> list[RunConfig]:
    """First one run of each model and data set, which encodes their activations, then all others, which find them.

    A run that wants a store while another writes it waits. What comes first is what reads most of it.
    """
    first: dict[tuple[str, str], RunConfig] = {}
    for config in configs:
        pair = (config.model, config.data)
        first[pair] = min(first.get(pair, config), config, key=_reads_little)
    leading = set(first.values())
    return [*first.values(), *(config for config in configs if config not in leading)]


def arguments(config: RunConfig, resources: Resources, out: Path) -> list[str]:
    """What makes a run, as `residual-lens` takes it.

    >>> config = RunConfig("clip-b", "dtd", "residual*", shots=4, units=("L11", "L10"), keep_mean=True)
    >>> " ".join(arguments(config, Resources(), Path("runs")))
    'train --model clip-b --data dtd --method residual* --seed 0 --shots 4 --units L11 L10 --keep-mean --out runs'
    """
    texts = ["train", "--model", config.model, "--data", config.data, "--method", config.method]
    texts += ["--seed", str(config.seed)]
    options = config.options
    changed = {field.name: getattr(resources, field.name) for field in fields(Resources)}
    options |= {name: value for name, value in changed.items() if value != getattr(Resources(), name)}
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            texts.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            texts += [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
    return [*texts, "--out", str(out)]


def log_of(config: RunConfig, out: Path) -> Path:
    """Where a run of a sweep says what it does."""
    return out / LOGS / f"{config.folder_name}.log"


def run_sweep(
    configs: Sequence[RunConfig],
    resources: Resources,
    out: Path,
    *,
    at_once: int = 1,
    progress: bool = False,
    report: Callable[[str], object] = logger.info,
) -> list[Failure]:
    """Each run in a process of its own, several at once; those that fail do not stop the others.

    Finished runs are passed over, interrupted ones go on where they were. An interruption is handed on to all that run.

    Args:
        configs: the runs.
        resources: what they run on.
        out: folder of their folders; logs lie in `logs`.
        at_once: so many at a time. They share the machine's cores.
        progress: show a progress bar.
        report: is told the line of results of each run that is done.

    Returns:
        What failed, in the order of failing.

    Raises:
        InputError: `at_once` is below 1, or the runs' device is not here.
    """
    if at_once < 1:
        raise InputError(f"at_once starts at 1, got {at_once}.")
    device_named(resources.device)
    (out / LOGS).mkdir(parents=True, exist_ok=True)
    waiting = in_order(unfinished(configs, out))
    failures = []
    with tqdm(total=len(configs), desc="runs", unit="run", disable=not progress) as bar, _processes() as running:
        bar.update(len(configs) - len(waiting))
        while waiting or running:
            while waiting and len(running) < at_once:
                config = waiting.pop(0)
                running[_started(arguments(config, resources, out), log_of(config, out), at_once)] = config
            time.sleep(POLL)
            for process in [process for process in running if process.poll() is not None]:
                config = running.pop(process)
                if process.returncode:
                    failures.append(Failure(config, process.returncode, log_of(config, out)))
                    bar.set_postfix(failed=len(failures))
                else:
                    report(RunResult.load(out / config.folder_name).line)
                bar.update()
    return failures


@contextmanager
def _processes() -> Iterator[dict[subprocess.Popen[bytes], RunConfig]]:
    """Processes that do not outlive the block: they are interrupted, and killed if they do not stop."""
    running: dict[subprocess.Popen[bytes], RunConfig] = {}
    try:
        yield running
    finally:
        try:
            for process in running:
                process.send_signal(signal.SIGINT)
            given_up = time.monotonic() + GRACE
            for process in running:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0, given_up - time.monotonic()))
        finally:
            for process in running:
                process.kill()
                process.wait()


def _started(texts: Sequence[str], log: Path, at_once: int) -> subprocess.Popen[bytes]:
    """A process group of its own, so that Ctrl-C reaches it through us, once."""
    cores = max(1, (os.cpu_count() or 1) // at_once)
    with log.open("ab") as file:
        return subprocess.Popen(  # noqa: S603 - our own command
            [*COMMAND, *texts],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={"OMP_NUM_THREADS": str(cores), **os.environ},
            process_group=0,
        )


def _reads_little(config: RunConfig) -> tuple[bool, bool, bool]:
    method = METHODS[config.method]
    return method.needs_bases is None, not method.cached, method.learning_rate is None
