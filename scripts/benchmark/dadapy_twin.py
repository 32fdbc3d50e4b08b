"""TwoNN by DADApy, in an environment of its own, because it needs a NumPy below 2: one line of JSON.

    ENVIRONMENT/bin/python -m scripts.benchmark.dadapy_twin samples.npy 2

The arguments are a file `[sample feature]` and the number of threads. Seconds are those of the estimate alone.
"""

import json
import sys
import time

import numpy as np
from dadapy import Data

from scripts.benchmark import resident


def main(file: str, threads: str) -> None:
    """Estimate and print."""
    x = np.load(file, allow_pickle=False)
    Data(x[:100], maxk=2).compute_id_2NN()
    before = resident.set_back() if resident.SUPPORTED else None
    started = time.perf_counter()
    dimension = Data(x, maxk=2, n_jobs=int(threads)).compute_id_2NN()[0]
    seconds = time.perf_counter() - started
    mib = None if before is None else resident.high_water() - before
    print(json.dumps({"dimension": float(dimension), "seconds": seconds, "mib": mib}))


if __name__ == "__main__":
    main(*sys.argv[1:])
