"""Runs: one method on one data set with one model, in a folder of its own, resumable and never repeated."""

from typing import TYPE_CHECKING, Any

from residual_lens.training.runs.config import Resources, RunConfig
from residual_lens.training.runs.folder import ADAPTER, run_folder
from residual_lens.training.runs.result import CONFIG, RESULT, RunResult

if TYPE_CHECKING:
    from residual_lens.training.runs.running import run

__all__ = ["ADAPTER", "CONFIG", "RESULT", "Resources", "RunConfig", "RunResult", "run", "run_folder"]


def __getattr__(name: str) -> Any:
    # Loaded when it is called: settings and results are read without torch.
    if name == "run":
        from residual_lens.training.runs.running import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
