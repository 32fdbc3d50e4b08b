"""The benchmark's command: rows are kept one by one, what is there is not measured again, failures are told."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from scripts.benchmark import results as results_module
from scripts.benchmark.__main__ import Config, main
from scripts.benchmark.catalogue import selected
from scripts.benchmark.results import Results, digest_of, outdated
from scripts.benchmark.rows import HEADS, Row
from scripts.benchmark.table import MARKERS, SHORT, markdown

PAGE = f"before {{untouched}}\n\n{MARKERS[0]}\nold\n{MARKERS[1]}\n\nafter\n"

MEASURES = """
import json, sys
from pathlib import Path
names = sys.argv[2 : sys.argv.index("--folder")]
with open(sys.argv[1], "a") as calls:
    print(*names, file=calls)
for name in names:
    told = json.loads(Path(sys.argv[1]).with_name("told.json").read_text())[name]
    if told is None:
        sys.exit(3)
    print(json.dumps(told), flush=True)
"""
"""Stands in for the process that measures: tells what told.json says, and exits where that has nothing."""

TWO_OF_BRIDGE = ["bridge-plain", "bridge-z"]
COSINE = ["cosine-head", "cosine-embedding"]


def row(name: str, ours: list[float], other: list[float], **about: object) -> Row:
    return Row(name, f"section of {name}", f"what {name}", f"against {name}", ours, other, code=digest_of([]), **about)


@pytest.fixture
def bench(tmp_path: Path):
    """Runs the command on what is to be told; its exit code, and what was asked for, group by group."""
    page, calls = tmp_path / "page.md", tmp_path / "calls"
    readme = tmp_path / "README.md"
    for file in (page, readme):
        file.write_text(PAGE)

    def run(told: dict[str, Row | dict | None], *names: str, **options: bool | int) -> tuple[int, list[str]]:
        stored = {name: asdict(given) if isinstance(given, Row) else given for name, given in told.items()}
        (tmp_path / "told.json").write_text(json.dumps(stored))
        calls.write_text("")
        command = (sys.executable, "-c", MEASURES, str(calls))
        failed = main(Config(names, **options), folder=tmp_path, page=page, readme=readme, command=command)
        return failed, calls.read_text().splitlines()

    return run


def told(*names: str, rounds: int = 3) -> dict[str, Row | dict | None]:
    return {name: row(name, [0.5] * rounds, [1.0] * rounds) for name in names}


def test_what_is_there_is_not_measured_again(bench, tmp_path: Path) -> None:
    assert bench(told(*COSINE), "cosine") == (0, [" ".join(COSINE)])
    assert bench(told(*COSINE), "cosine") == (0, [])
    assert bench(told(*COSINE, rounds=5), "cosine", rounds=5) == (0, [" ".join(COSINE)])
    assert bench(told(*COSINE), "cosine-head", fresh=True) == (0, ["cosine-head"])
    (file,) = tmp_path.glob("results-*.json")
    assert {*json.loads(file.read_text())["rows"]} == {*COSINE}


def test_a_group_that_fails_is_told_and_the_rest_is_measured(bench, tmp_path: Path, capsys) -> None:
    failing = {**told("cosine-head", "twonn-matrix"), "cosine-embedding": None}
    names = ["twonn-matrix", "cosine"]
    assert bench(failing, *names) == (1, ["twonn-matrix", " ".join(COSINE)])
    printed = capsys.readouterr()
    assert "cosine failed with exit code 3; not measured: cosine-embedding." in printed.err
    page = (tmp_path / "page.md").read_text()
    assert "what cosine-head" in page
    assert "what twonn-matrix" in page
    # The same command goes on where it was.
    assert bench(told("cosine-embedding"), *names) == (0, ["cosine-embedding"])
    assert "what cosine-embedding" in (tmp_path / "page.md").read_text()


def test_a_row_that_cannot_be_measured_is_told_on_the_page(bench, tmp_path: Path) -> None:
    without = {**told("cosine-head"), "cosine-embedding": {"name": "cosine-embedding", "skipped": "it is missing"}}
    assert bench(without, "cosine")[0] == 0
    page = (tmp_path / "page.md").read_text()
    assert "Not measured, because it is missing: cosine-embedding." in page
    assert bench(told("cosine-embedding"), "cosine") == (0, ["cosine-embedding"])
    assert "Not measured" not in (tmp_path / "page.md").read_text()


def test_tiny_figures_stay_out_of_the_page(bench, tmp_path: Path) -> None:
    assert bench(told(*COSINE), "cosine", tiny=True) == (0, [" ".join(COSINE)])
    assert (tmp_path / "page.md").read_text() == PAGE
    assert bench(told(*COSINE), "cosine") == (0, [" ".join(COSINE)])


def test_the_page_holds_what_the_results_say_and_keeps_the_rest(bench, tmp_path: Path) -> None:
    measured = row("cosine-head", [0.5, 0.25, 0.125], [1.0, 2.0, 0.5], difference=3e-7, mib=(1234.4, 0.6))
    counted = row("pursuit-head", [0.25] * 3, [312.5] * 3, difference=0.0, counted="picks")
    on_gpu = row("gpu-base-plain", [0.1] * 3, [0.05] * 3, images=64)
    bench({one.name: one for one in (measured, counted, on_gpu)}, "cosine-head", "pursuit-head", "gpu-base-plain")
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("before {untouched}\n\n")
    assert page.endswith(f"{MARKERS[1]}\n\nafter\n")
    lines = [line[2:-2].split(" | ") for line in page.splitlines() if line.startswith("| ")]
    assert lines[0] == [*HEADS]
    assert {len(line) for line in lines} == {len(HEADS)}
    rows = {line[0]: line[1:] for line in lines[2:]}
    speed = ["0.25 s", "1 s", "4", "2–8", "3e-07", "1,234", "1"]
    assert rows["what cosine-head"] == ["against cosine-head", *speed]
    assert rows["what pursuit-head"][1:6] == ["0.25 s", "312 s", "1,250", "1,250–1,250", "0 picks"]
    assert rows["what gpu-base-plain"][1:4] == ["640 images/s", "1,280 images/s", "0.5"]
    assert [line[0] for line in lines[2:]][::2] == [
        "**section of cosine-head**",
        "**section of pursuit-head**",
        "**section of gpu-base-plain**",
    ]


def test_the_readme_holds_a_few_rows(bench, tmp_path: Path) -> None:
    bench({"bridge-z": row("bridge-z", [0.5] * 3, [2.0] * 3, mib=(3.0, 70.0)), **told("bridge-plain")}, *TWO_OF_BRIDGE)
    readme = (tmp_path / "README.md").read_text()
    assert readme.startswith("before {untouched}\n\n")
    assert readme.endswith(f"{MARKERS[1]}\n\nafter\n")
    lines = [line[2:-2].split(" | ") for line in readme.splitlines() if line.startswith("| ")]
    assert lines[2:] == [[SHORT["bridge-z"], "4", "4–4", "3", "70"]]
    assert {*SHORT} <= {*selected([])}


def test_a_page_without_markers_is_refused(bench, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("nothing")
    with pytest.raises(SystemExit, match=r"page\.md must hold <!-- benchmark: begin -->"):
        bench(told("cosine-head"), "cosine-head")


def test_a_row_is_measured_again_when_its_code_has_changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(results_module, "ROOT", tmp_path)
    (tmp_path / "a.py").write_text("1")
    results = Results.open("results", tmp_path)
    measured = row("cosine-head", [1.0] * 3, [1.0] * 3, sources=["a.py"])
    measured.code = digest_of(["a.py"])
    results.add(measured)
    again = Results.open("results", tmp_path)
    assert again.rows["cosine-head"] == measured
    assert again.has("cosine-head", 3)
    assert "has changed" not in markdown(again)
    (tmp_path / "a.py").write_text("2")
    assert outdated(measured)
    assert not again.has("cosine-head", 3)
    assert "The code has changed since these were measured: cosine-head." in markdown(again)
    (tmp_path / "a.py").unlink()
    assert outdated(measured)


def test_each_machine_has_results_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Results.open("results", tmp_path).add(row("cosine-head", [1.0], [1.0]))
    there = {**results_module.machine(), "torch": "0.0"}
    monkeypatch.setattr(results_module, "machine", lambda: there)
    assert not Results.open("results", tmp_path).rows
    Results.open("results", tmp_path).add(row("cosine-head", [2.0], [1.0]))
    monkeypatch.undo()
    assert Results.open("results", tmp_path).rows["cosine-head"].ours == [1.0]
