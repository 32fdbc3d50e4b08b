"""TwoNN of one head beside a distance matrix, scikit-dimension and DADApy."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import skdim
import torch
from jaxtyping import Float
from torch import Tensor

from residual_lens.spectral import two_nn
from scripts.benchmark.made_up import head_like
from scripts.benchmark.results import FOLDER, ROOT
from scripts.benchmark.rows import Cases, Sides, Skipped, Timed
from scripts.benchmark.sizes import Sizes
from tests.reference.dimension import matrix_two_nearest, naive_two_nn

ENVIRONMENT = FOLDER / "dadapy"
INSTALL_SECONDS = 600


def case(
    other: Callable[[Float[Tensor, "sample d_out"]], float], the_other_way: str, share: int
) -> Callable[[Sizes], Sides]:
    """On one in `share` of the samples."""

    def sides(sizes: Sizes) -> Sides:
        x = head_like(sizes.samples // share)
        return against(x, lambda: other(x), the_other_way)

    return sides


def against(x: Float[Tensor, "sample d_out"], other: Callable[[], Any], the_other_way: str) -> Sides:
    """Both on the same samples."""
    return Sides(
        f"{len(x):,} samples, `two_nn`",
        lambda: two_nn(x).dimension,
        other,
        the_other_way,
        lambda ours, its: abs(ours / its - 1),
    )


def by_matrix(x: Float[Tensor, "sample d_out"]) -> float:
    """The twin: all distances in float64."""
    return naive_two_nn(matrix_two_nearest(x))


def dadapy(sizes: Sizes) -> Sides:
    """In a process with an environment of its own."""
    python = installed()
    x, file = head_like(sizes.samples // 2), sizes.folder / "samples.npy"
    np.save(file, x.numpy(), allow_pickle=False)
    command = [str(python), "-m", "scripts.benchmark.dadapy_twin", str(file), str(torch.get_num_threads())]

    def other() -> Timed:
        told = json.loads(printed_by(command).splitlines()[-1])
        return Timed(told["dimension"], told["seconds"], told["mib"])

    version = printed_by([str(python), "-c", "from importlib.metadata import version; print(version('dadapy'))"])
    return against(x, other, f"DADApy {version.strip()}, `compute_id_2NN`")


def installed() -> Path:
    """The interpreter of DADApy's environment, which is made on first use.

    Raises:
        Skipped: it could not be made.
    """
    python, finished = ENVIRONMENT / "bin" / "python", ENVIRONMENT / ".installed"
    if finished.exists():
        return python
    commands = [
        [sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)],
        [str(python), "-m", "pip", "install", "--quiet", "dadapy>=0.3,<1"],
    ]
    try:
        for command in commands:
            printed_by(command, timeout=INSTALL_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        raise Skipped(
            f"DADApy could not be installed into an environment of its own ({type(error).__name__})"
        ) from None
    finished.touch()
    return python


def printed_by(command: list[str], timeout: float | None = None) -> str:
    """What a process prints."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=timeout)  # noqa: S603
    return done.stdout


def section(sizes: Sizes) -> str:
    """What the rows share."""
    return "Intrinsic dimension of a head (TwoNN), contributions in 768 dimensions"


CASES: Cases = {
    "twonn-matrix": case(by_matrix, "all distances in float64, by `torch.cdist`", 1),
    "twonn-skdim": case(lambda x: skdim.id.TwoNN().fit(x.numpy()).dimension_, "scikit-dimension's `TwoNN`", 2),
    "twonn-dadapy": dadapy,
}
