"""A sweep as a job array of Slurm: one script, whose tasks go on where they were when it is submitted again."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from residual_lens.errors import InputError
from residual_lens.training.runs import Resources, RunConfig
from residual_lens.training.runs.sweep import LOGS, arguments, in_order, log_of

MOST_TASKS = 1000
"""Of an array, as Slurm comes (`MaxArraySize` 1001)."""


@dataclass(frozen=True)
class Slurm:
    """What the scheduler is asked for, for each task."""

    partition: str | None = None
    """Where it runs; the cluster's default by default."""
    time: str = "04:00:00"
    """Longest time, as sbatch takes it. What is cut off goes on when the script is submitted again."""
    gpus: int = 1
    """GPUs."""
    cpus: int = 8
    """CPU cores."""
    memory: str | None = None
    """Memory, as sbatch takes it, such as 64G."""
    tasks: int = MOST_TASKS
    """At most so many tasks, which share the runs out between them."""
    at_once: int | None = None
    """Tasks that run at the same time, at most."""

    def __post_init__(self) -> None:
        for name in ("tasks", "at_once", "cpus"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} starts at 1, got {value}.")
        if self.gpus < 0:
            raise InputError(f"gpus starts at 0, got {self.gpus}.")
        for name in ("partition", "time", "memory"):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(r"[\w.,:-]+", value, re.ASCII):
                raise InputError(f"{name} is letters, digits and .,:-_ for Slurm; got {value!r}.")


def slurm_script(configs: Sequence[RunConfig], resources: Resources, out: Path, slurm: Slurm) -> str:
    """A bash script for `sbatch`. Its runs write to the same folders and logs as `run_sweep`, from any node.

    Args:
        configs: the runs; at least one.
        resources: what they run on.
        out: folder of their folders.
        slurm: what to ask for.

    Raises:
        InputError: no runs, or a name with a line break.
    """
    if not configs:
        raise InputError("There is no run left to hand to Slurm: all have a result.")
    tasks = min(slurm.tasks, len(configs))
    asked = {
        "job-name": "residual-lens",
        "array": f"0-{tasks - 1}" + (f"%{slurm.at_once}" if slurm.at_once else ""),
        "partition": slurm.partition,
        "time": slurm.time,
        "gpus": slurm.gpus or None,
        "cpus-per-task": slurm.cpus,
        "mem": slurm.memory,
        "output": "/dev/null",
    }
    runs = []
    for number, config in enumerate(in_order(configs)):
        command = shlex.join(["residual-lens", *arguments(config, resources, out)])
        if "\n" in command:
            raise InputError(f"A line break in {command!r}: Slurm takes none.")
        runs.append(f"    {number}) {command} >>{shlex.quote(str(log_of(config, out)))} 2>&1 ;;")
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH --{name}={value}" for name, value in asked.items() if value is not None),
            f"# {len(configs)} runs, by `residual-lens sweep --slurm`. Submit with sbatch, in an environment that has",
            "# residual-lens; again, if some were cut off: finished runs take no time.",
            "",
            ': "${SLURM_ARRAY_TASK_ID:?is set by sbatch: submit this script with it}"',
            f"cd {shlex.quote(str(Path.cwd()))} || exit 1",
            f"mkdir -p {shlex.quote(str(out / LOGS))} || exit 1",
            "run() {",
            "    case $1 in",
            *runs,
            "    esac",
            "}",
            "status=0",
            f"for ((number = SLURM_ARRAY_TASK_ID; number < {len(configs)}; number += {tasks})); do",
            '    run "$number" || status=1',
            "done",
            'exit "$status"',
            "",
        ]
    )
