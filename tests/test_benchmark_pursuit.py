"""The benchmark of the pursuits runs, at a size where its times mean nothing, and finds the same picks."""

import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    import benchmark_pursuit

    return benchmark_pursuit


@torch.no_grad()
def test_every_row_has_the_picks_of_its_twin(benchmark, capsys):
    rows = ("head", "gaussian", "sparse", "noise", "head-span", "span")
    benchmark.main(benchmark.Config(rows=rows, samples=300, atoms=100, picks=5, rounds=1, memory=False, markdown=True))
    lines = [line[2:-2].split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + len(rows)
    assert [float(line[5]) for line in lines[2:]] == [0.0] * len(rows)


@torch.no_grad()
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_a_peak_is_a_number(benchmark, capsys):
    benchmark.main(benchmark.Config(rows=("head",), samples=300, atoms=100, picks=5, peak="ours"))
    assert float(capsys.readouterr().out) >= 0
