"""The benchmark runs: every use of every library, at a size where its figures mean nothing."""

import logging
import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    import benchmark
    import benchmark_spectra
    import benchmark_uses

    yield benchmark, benchmark_uses, benchmark_spectra
    # The script silences the whole process.
    logging.disable(logging.NOTSET)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(("source", "expected"), [("open_clip", 11), ("hugging_face", 5), ("eager", 1), ("bridge", 4)])
def test_every_use_runs_offline(scripts, source, expected):
    _, benchmark_uses, _ = scripts
    uses = benchmark_uses.uses_of(source, "ViT-S-32", "cpu")
    assert len(uses) == expected
    images = benchmark_uses.images_of("ViT-S-32", 1, "cpu")
    for run in uses.values():
        run(images)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_times_and_memory_make_a_table(scripts, capsys):
    benchmark, benchmark_uses, _ = scripts
    config = benchmark.Config(model="ViT-S-32", batch=2, rounds=2, markdown=True)
    plain = benchmark_uses.Variant("transformers, eager attention", benchmark_uses.PLAIN)
    columns = benchmark.time_columns(config, plain, ["eager"]) + benchmark.memory_columns(config, plain, ["eager"])
    benchmark.show(config, plain, columns)
    row = capsys.readouterr().out.splitlines()[-2].strip("| ").split(" | ")
    assert row[:2] == [plain.use, plain.library]
    assert row[3:5] == ["1.000", "1.000–1.000"]
    assert row[6:] == ["1.00", "1.000"]


@pytest.mark.slow
@torch.no_grad()
def test_every_analysis_agrees_with_its_twin_and_makes_a_table(scripts, capsys):
    _, _, spectra = scripts
    spectra.main(
        spectra.Config(
            models=("ViT-B/16",), samples=300, rounds=1, twin_heads=1, images=32, memory=False, markdown=True
        )
    )
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    rows = [line[2:-2].split(" | ") for line in lines[2:]]
    assert len(rows) == 7
    compared = [float(row[5]) for row in rows if row[5]]
    assert len(compared) == 6
    assert max(compared) <= 1e-5


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_a_peak_is_a_number(scripts, capsys):
    import benchmark_peaks

    benchmark_peaks.main("neighbours", "600")
    assert float(capsys.readouterr().out) >= 0
