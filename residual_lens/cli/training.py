"""The command `train`."""

import shlex
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from residual_lens.cli.places import require_folders
from residual_lens.training.runs.config import Resources, RunConfig


def train(
    config: Annotated[RunConfig, tyro.conf.arg(name="")],
    resources: Annotated[Resources, tyro.conf.arg(name="")] = Resources(),  # noqa: B008 - frozen
    out: Path = Path("runs"),
) -> None:
    """Train one method on one data set with one model, test it, and print the result in one line, and where it lies.

    The run has a folder of its own in --out, named after it. A finished run is not repeated, an interrupted one goes on
    where it was.

    In a shell:
        residual-lens train --model clip-l --data eurosat --method residual
        residual-lens train --model attribute-clip --data digits --method zero-shot
        residual-lens train --model dinov2-l --data folder:birds --method residual* --shots 16 --bases imagenet.h5
        residual-lens train --model clip-b --data dtd --method lora --augment --epochs 10 --seed 1

    Args:
        config: what decides the numbers.
        resources: where things lie and run.
        out: folder of the folders of runs.
    """
    require_folders(out=out, stores=resources.stores)
    from residual_lens.explain.of_run import METHODS
    from residual_lens.training.fitting.checkpoints import LAST
    from residual_lens.training.runs import run, run_folder

    folder = run_folder(config, out)
    waiting = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    try:
        result = run(config, out, resources, progress=waiting.is_terminal)
    except KeyboardInterrupt:
        kept = f"all whole epochs are kept, in {folder}" if (folder / LAST).exists() else "no epoch was whole yet"
        waiting.print(f"Interrupted: {kept}; the same command goes on.")
        raise
    hint = f"; what its λ do: residual-lens explain {shlex.quote(str(folder))}" if config.method in METHODS else ""
    for line in (result.line, f"In {folder}{hint}"):
        Console().print(line, highlight=False, markup=False, soft_wrap=True)
