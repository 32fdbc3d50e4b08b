"""Peak memory of one side of a row of `benchmark_spectra.py`: one number, MiB beyond what there was before.

MALLOC_MMAP_THRESHOLD_=65536 python scripts/benchmark_peaks.py neighbours 20000
"""

import gc
import sys
from pathlib import Path

import torch
from benchmark_memory import memory
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))  # The twins lie in tests/.
from residual_lens import Store, fit_bases
from residual_lens.spectral import two_nn
from tests.reference.dimension import matrix_two_nearest


@torch.no_grad()
def main(what: str, argument: str) -> None:
    """Run it small, for what is loaded and kept, then watch it."""
    if what == "pca":
        store = Store(argument)
        work = lambda: fit_bases(store, units="heads")  # noqa: E731
        fit_bases(store, units="L0H0")
    else:
        x = head_like(int(argument))
        side = {"neighbours": two_nn, "matrix": matrix_two_nearest}[what]
        work = lambda: side(x)  # noqa: E731
        side(x[:500])
    gc.collect()
    before = memory("cpu", reset=True)
    result = work()
    print(memory("cpu", reset=False) - before)
    del result


def head_like(n_samples: int) -> Tensor:
    """A 65-dimensional affine subspace of 768 dimensions, float32."""
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(n_samples, 65, generator=generator) * torch.exp(-torch.arange(65) / 20)
    return low @ torch.randn(65, 768, generator=generator) / 768**0.5 + 0.1


if __name__ == "__main__":
    main(*sys.argv[1:])
