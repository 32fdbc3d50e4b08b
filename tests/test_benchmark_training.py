"""The benchmark of training runs, at a size where its times mean nothing, and both sides learn the same."""

import logging
import sys
from pathlib import Path

import pytest


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    import benchmark_training

    yield benchmark_training
    logging.disable(logging.NOTSET)


@pytest.mark.slow
def test_every_row_is_measured_and_both_sides_learn_the_same(benchmark, capsys):
    sizes = {"scales": (150, 300), "batch": 4, "samples": 16, "live_images": 1, "run_samples": 16, "epochs": 2}
    benchmark.main(benchmark.Config(**sizes, rounds=1, memory=False, markdown=True))
    lines = [line[2:-2].split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + 5
    assert all(float(line[1]) > 0 for line in lines[2:])
    assert all(float(line[5]) <= 1e-4 for line in lines[2:4])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_a_peak_is_a_number(benchmark, capsys):
    benchmark.main(benchmark.Config(scales=(30,), batch=4, run_samples=16, epochs=1, peak=True))
    assert float(capsys.readouterr().out) >= 0
