"""A run's folder: whose it is, and that one process at a time works in it."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from residual_lens.errors import InputError, StoreError
from residual_lens.files import made_while_needed, remove_leftovers, write_atomically
from residual_lens.training.runs.config import Resources, RunConfig
from residual_lens.training.runs.result import CONFIG, load_config

ADAPTER = "adapter"
"""Folder of the trained adapter in that of its run."""


def run_folder(config: RunConfig, out: str | Path) -> Path:
    """The folder of a run, inside the folder of all runs."""
    return Path(out) / config.folder_name


@contextmanager
def claimed(folder: Path, config: RunConfig, resources: Resources) -> Iterator[bool]:
    """Work in a run's folder alone.

    Args:
        folder: the run's.
        config: its settings.
        resources: say whether several processes make the run.

    Yields:
        Whether this process writes down what comes out: of those that torchrun or Slurm starts, the first.

    Raises:
        InputError: the folder is another run's, or another process works in it.
    """
    if (folder / CONFIG).exists():
        _require_same(folder, config)
    if _is_helper(resources):
        yield False
        return
    # Settings and results are read without torch, which this loads.
    from residual_lens.activations.writer import alone_with

    with ExitStack() as claim:
        # The lock lies beside the folder, which is made by what is written into it first.
        claim.enter_context(made_while_needed(folder.parent))
        try:
            claim.enter_context(alone_with(folder))
        except StoreError as error:
            raise InputError(f"Another process is at work in {folder}: wait for it, or end it.") from error
        remove_leftovers(folder, folder / ADAPTER)
        yield True


def _is_helper(resources: Resources) -> bool:
    if resources.devices == resources.num_nodes == 1:
        return False
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    # Read from the environment.
    return bool(getattr(rank_zero_only, "rank", 0))


def save_config(folder: Path, config: RunConfig) -> None:
    """Write `config.json`: from then on the folder is this run's."""
    text = json.dumps(config.to_dict(), indent=1, ensure_ascii=False)
    write_atomically(folder / CONFIG, f"{text}\n".encode())


def _require_same(folder: Path, config: RunConfig) -> None:
    made, asked = load_config(folder).to_dict(), config.to_dict()
    differing = [f"{name} was {made[name]!r}, is {value!r}" for name, value in asked.items() if made[name] != value]
    if differing:
        raise InputError(
            f"{folder} is the folder of another run: {'; '.join(differing)}. Give another --out, or delete it."
        )
