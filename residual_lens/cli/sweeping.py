"""`residual-lens sweep`: a grid of training runs, run here, printed, or handed to a scheduler."""

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from residual_lens.cli.places import require_files, require_folders
from residual_lens.errors import InputError

if TYPE_CHECKING:
    from residual_lens.training.runs import Resources, RunConfig

OWN = ("--model", "--data", "--method", "--seed", "--out")
"""Options of `residual-lens train` that a sweep sets itself."""


def sweep(
    options: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    *,
    models: tuple[str, ...],
    data: tuple[str, ...],
    methods: tuple[str, ...] = ("all",),
    seeds: tuple[int, ...] = (0,),
    out: Path = Path("runs"),
    at_once: int | None = None,
    show: Annotated[bool, tyro.conf.arg(name="print")] = False,
    slurm: Path | None = None,
    partition: str | None = None,
    time: str = "04:00:00",
    gpus: int = 1,
    cpus: int = 8,
    memory: str | None = None,
    tasks: int = 1000,
) -> None:
    """Train every method on every data set with every model and seed, each run a command of its own.

    Runs that fail do not stop the others and are listed in the end, with their logs. Given again, a sweep passes over
    what is finished and goes on with what was interrupted.

    In a shell:
        residual-lens sweep --models attribute-clip --data digits attributes:shape --seeds 0 1 2
        residual-lens sweep --models paper --data paper --seeds 0 1 2 --slurm sweep.sh --partition gpu
        residual-lens sweep --models clip-b --data dtd --methods coarse residual --print -- --shots 16 --root /data

    Args:
        options: of `residual-lens train`, behind two dashes, for all runs whose method has a use for them.
        models: names as in `residual-lens models`, or paper for the paper's seven.
        data: names as in `residual-lens data`, folder:PATH or hf:ORG/REPO, or paper for the paper's ten.
        methods: names as for `residual-lens train`, or all.
        seeds: of the runs.
        out: folder for the runs' folders, and for their logs.
        at_once: runs at a time; here 1 by default, of the scheduler as many as it likes.
        show: write the commands, one a line, and run none of them.
        slurm: write a script for sbatch to this file, and run nothing. What follows is for its tasks.
        partition: where they run.
        time: longest time of one, as sbatch takes it.
        gpus: GPUs of one.
        cpus: CPU cores of one.
        memory: of one, as sbatch takes it, such as 64G.
        tasks: at most so many, which share the runs out between them; Slurm itself takes 1000 unless set up otherwise.
    """
    from tqdm import tqdm

    from residual_lens.files import write_atomically
    from residual_lens.training.runs.slurm import Slurm, slurm_script
    from residual_lens.training.runs.sweep import arguments, grid, in_order, run_sweep, unfinished

    if show and slurm:
        raise InputError("Got --print and --slurm: give one of them.")
    base, resources = _parsed(options)
    require_folders(out=out, stores=resources.stores)
    require_files(slurm=slurm)
    configs = grid(models, data, methods, seeds, base)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    left = in_order(unfinished(configs, out))
    if show or slurm:
        console.print(f"{len(left)} of {len(configs)} runs are left.")
    if show:
        for config in left:
            sys.stdout.write(shlex.join(["residual-lens", *arguments(config, resources, out)]) + "\n")
        return
    if slurm:
        asked = Slurm(partition, time, gpus, cpus, memory, tasks=tasks, at_once=at_once)
        script = slurm_script(left, resources, out, asked)
        write_atomically(slurm, script.encode())
        console.print(f"Wrote {slurm}: submit it with sbatch.", markup=False)
        return

    def tell(line: str) -> None:
        # Above the bar, if there is one.
        tqdm.write(line, file=sys.stdout)

    try:
        with _stopped_by_signals():
            failures = run_sweep(
                configs,
                resources,
                out,
                at_once=1 if at_once is None else at_once,
                progress=console.is_terminal,
                report=tell,
            )
    except (KeyboardInterrupt, SystemExit):
        left = len(unfinished(configs, out))
        console.print(
            f"Interrupted: {len(configs) - left} of {len(configs)} runs are finished, in {out}. Nothing is "
            "lost: the same command goes on.",
            markup=False,
        )
        raise
    for failure in failures:
        said = failure.last_words.removeprefix("residual-lens: ")
        console.print(
            f"{failure.config.folder_name} failed ({failure.status}): {said}\n    {failure.log}", markup=False
        )
    console.print(f"{len(configs) - len(failures)} of {len(configs)} runs are finished, in {out}.", markup=False)
    if failures:
        sys.exit(1)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """`kill`, or a terminal that is closed, stops what runs as Ctrl-C does."""
    signals = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, lambda number, frame: sys.exit(128 + number)) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _parsed(options: tuple[str, ...]) -> "tuple[RunConfig, Resources]":
    """Settings that all runs share, and what they run on; of an unknown option, what `train` would say of it."""
    from residual_lens.training.runs import Resources, RunConfig

    if own := [option for option in options if option.partition("=")[0] in OWN]:
        raise InputError(f"{', '.join(own)} behind the dashes: a sweep sets this option of each run itself.")

    def both(
        config: Annotated[RunConfig, tyro.conf.arg(name="")], resources: Annotated[Resources, tyro.conf.arg(name="")]
    ) -> tuple[RunConfig, Resources]:
        return config, resources

    named = [text for name in OWN[:3] for text in (name, "-")]
    return tyro.cli(both, args=[*named, *options], prog="residual-lens sweep … --")
