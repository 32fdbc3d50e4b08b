"""Every row of the benchmark runs, at sizes where its times mean nothing, and both sides come to the same."""

import mmap
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts.benchmark import measuring, resident
from scripts.benchmark.catalogue import GROUPS, group, group_of, selected
from scripts.benchmark.groups import dimensions, gpu
from scripts.benchmark.rows import Sides, Skipped
from scripts.benchmark.sizes import Sizes, tiny

# Float32 through a whole model, or a spectral cosine of float32 bases.
RELATIVE_TOL = 1e-4
QUICK = ("cosine-embedding", "forward-decompose", "gpu-base-plain", "pca-svd", "pursuit-head", "pursuit-single")
QUICK += ("store-correlation", "train-few", "twonn-matrix")
ELSEWHERE = "twonn-dadapy"
"""Needs an environment of its own: a stand-in below."""


def measured(name: str, folder: Path):
    module, sizes = group(group_of(name)), tiny(folder)
    return measuring.measure(name, module.CASES[name](sizes), module.section(sizes), rounds=1, seconds=0)


def check(name: str, folder: Path) -> None:
    row = measured(name, folder)
    assert len(row.ours) == len(row.other) == 1
    assert min(*row.ours, *row.other) > 0
    assert row.what
    assert row.the_other_way
    assert any(source.startswith("residual_lens/") for source in row.sources)
    assert f"scripts/benchmark/groups/{GROUPS[group_of(name)]}.py" in row.sources
    if row.counted:
        assert row.difference == 0
    elif row.difference is not None:
        assert row.difference <= RELATIVE_TOL


@pytest.mark.parametrize("name", QUICK)
def test_a_row_of_every_group_but_the_bridge(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*selected([])} - {*QUICK, ELSEWHERE}))
def test_all_other_rows(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)


def test_names_select_groups_and_rows_in_the_order_of_the_table() -> None:
    assert selected(["cosine", "forward-z"]) == ["forward-z", "cosine-head", "cosine-embedding"]
    assert {group_of(name) for name in selected([])} == {*GROUPS}
    with pytest.raises(SystemExit, match=r"called nothing\. Groups: forward, .* Rows: forward-plain"):
        selected(["cosine", "nothing"])


def test_sides_take_turns_at_being_first_after_a_warm_up() -> None:
    calls: list[str] = []
    sides = Sides("", lambda: calls.append("ours"), lambda: calls.append("other"), "")
    measuring.measure("", sides, "", rounds=3, seconds=0)
    assert calls == ["ours", "other", "ours", "other", "other", "ours", "ours", "other"]


def test_quick_rows_get_more_rounds_up_to_a_bound() -> None:
    sides = Sides("", lambda: None, lambda: None, "")
    assert len(measuring.measure("", sides, "", rounds=2, seconds=60).ours) == measuring.ROUNDS_AT_MOST
    assert len(measuring.measure("", sides, "", rounds=2, seconds=0).ours) == 2


def test_a_side_with_a_clock_of_its_own_is_believed() -> None:
    sides = Sides("", lambda: measuring.Timed(3.0, 2.0, 5.0), lambda: measuring.Timed(4.0, 6.0), "", lambda a, b: a + b)
    row = measuring.measure("", sides, "", rounds=1, seconds=0)
    assert (row.ours, row.other, row.ratios, row.mib, row.difference) == ([2.0], [6.0], [3.0], (5.0, None), 7.0)


def touched(mebibytes: int) -> mmap.mmap:
    """Memory that the allocator cannot have had lying around."""
    memory = mmap.mmap(-1, mebibytes * 2**20)
    for page in range(0, len(memory), mmap.PAGESIZE):
        memory[page] = 1
    return memory


@pytest.mark.skipif(not resident.SUPPORTED, reason="peak memory is read from /proc")
def test_a_peak_is_what_a_run_adds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def sides(sizes: Sizes) -> Sides:
        return Sides("", lambda: touched(64), lambda: touched(48), "")

    monkeypatch.setitem(group("cosine").CASES, "cosine-head", sides)
    sizes = [tiny(tmp_path)]
    assert measuring.peak("cosine-head", "ours", sizes) == pytest.approx(64, abs=2)
    assert measuring.peak("cosine-head", "other", sizes) == pytest.approx(48, abs=2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_gpu_its_rows_are_skipped(tmp_path: Path) -> None:
    with pytest.raises(Skipped, match="no CUDA device"):
        gpu.CASES["gpu-large-decompose"](Sizes(tmp_path))


STAND_IN = """
class Data:
    def __init__(self, x, maxk, n_jobs=1): self.x = x
    def compute_id_2NN(self): return (float(len(self.x)), 0.0, 0.0)
"""


def test_dadapy_tells_its_result_and_seconds_from_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "dadapy.py").write_text(STAND_IN)
    about = tmp_path / "dadapy-7.8.9.dist-info" / "METADATA"
    about.parent.mkdir()
    about.write_text("Metadata-Version: 2.1\nName: dadapy\nVersion: 7.8.9\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(dimensions, "installed", lambda: Path(sys.executable))
    sizes = tiny(tmp_path)
    sides = dimensions.CASES[ELSEWHERE](sizes)
    told = sides.other()
    assert "DADApy 7.8.9" in sides.the_other_way
    assert told.result == sizes.samples // 2
    assert 0 < told.seconds < 1


def test_dadapy_that_cannot_be_installed_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(command: list[str], timeout: float | None = None) -> str:
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(dimensions, "ENVIRONMENT", tmp_path / "dadapy")
    monkeypatch.setattr(dimensions, "printed_by", fails)
    with pytest.raises(Skipped, match=r"DADApy could not be installed .*CalledProcessError"):
        dimensions.CASES[ELSEWHERE](tiny(tmp_path))
