"""Peak memory of this process: the high-water mark that the kernel keeps of what is resident (VmHWM; Linux only).

It needs no library, so that twins in environments of their own can use it.
"""

import gc
import os
import sys
from pathlib import Path

SUPPORTED = sys.platform.startswith("linux")


def mapping_tensors() -> dict[str, str]:
    """An environment in which glibc maps every tensor by itself and unmaps it when freed: resident is what is alive."""
    return os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}


def set_back() -> float:
    """Let the mark be what is resident; MiB."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return high_water()


def high_water() -> float:
    """MiB at the peak since it was set back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
