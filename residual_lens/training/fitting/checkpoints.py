"""The state of a run on disk: replaced whole after every epoch, and never taken for another run's."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from residual_lens.errors import InputError, MismatchError
from residual_lens.files import write_atomically
from residual_lens.training.fitting.identity import digest
from residual_lens.training.fitting.progress import Progress

LAST = Path("checkpoints") / "last.ckpt"
METRICS = "metrics.csv"
COLUMNS = ("epoch", "train_loss", "validation_accuracy", "seconds")


class OtherRunError(MismatchError):
    """A checkpoint is another run's."""

    def __init__(self, message: str, differing: frozenset[str]) -> None:
        super().__init__(message)
        self.differing = differing
        """What differs, as `identity` calls it."""


def write_metrics(folder: Path, progress: Progress) -> None:
    """`metrics.csv`: a row an epoch, the start (without a training loss) first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(progress.rows())
    write_atomically(folder / METRICS, text.getvalue().encode())


def saved_state(path: Path) -> Any:
    """What a checkpoint holds, tensors still on the disk."""
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def checkpoint_to_resume(path: Path, run: Mapping[str, Any], parameters: Sequence[nn.Parameter]) -> bool:
    """Whether there is a checkpoint to go on from.

    Args:
        path: where it would be.
        run: what `identity` says of the run that is asked for.
        parameters: of its adapter, as they are.

    Raises:
        OtherRunError: it is another run's; the message says what differs.
        InputError: it cannot be read.
    """
    if not path.exists():
        return False
    try:
        saved = saved_state(path)
        theirs, best = saved["run"], saved["state_dict"]["_extra_state"]["best"]
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, UnpicklingError) as error:
        raise InputError(f"{path} is no checkpoint of train_adapter ({error}): delete it to start anew.") from error
    # An adapter that an interrupted call has left holds the best weights until then.
    started = run["start"] if run["start"] not in (theirs.get("start"), digest(best)) else theirs.get("start")
    differing = {name: ours for name, ours in {**run, "start": started}.items() if theirs.get(name) != ours}
    for name, ours in differing.items():
        raise OtherRunError(
            f"{path} is of another run: {name} is {_short(theirs.get(name))} there and {_short(ours)} here. Give "
            "each run a folder of its own, or delete the checkpoint to start anew.",
            frozenset(differing),
        )
    return True


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:16]}…" if len(text) == 64 else text
