"""One table: each row a ratio, measured in one run, of ours against what a user would otherwise do.

    python -m scripts.benchmark                        # all rows that are not there: 45 minutes on 2 idle cores
    python -m scripts.benchmark forward pca-sklearn    # a group, a row
    python -m scripts.benchmark --rounds 7             # more rounds of every row
    python -m scripts.benchmark --fresh                # measure again what is there
    python -m scripts.benchmark --tiny                 # a minute, to see that it works: figures mean nothing

Run from the root of the repository. Rows go to studies/benchmark/ one by one. An interrupted run goes on where it was:
a row stays as long as machine, versions and the code that it measured are the same. The table is printed and put into
docs/benchmarks.md, which says how it is measured; a few rows go into README.md. Every group has a process of its own;
one that fails is reported at the end, and the rest is measured all the same.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import tyro

from scripts.benchmark.catalogue import group_of, selected
from scripts.benchmark.results import FOLDER, ROOT, Results, row_of
from scripts.benchmark.table import markdown, put_between_markers, short, show

PAGE, README = ROOT / "docs" / "benchmarks.md", ROOT / "README.md"
MEASURING = (sys.executable, "-m", "scripts.benchmark.measuring", "rows")


@dataclass(frozen=True)
class Config:
    """What to measure."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Groups or rows; all by default."""
    rounds: int = 3
    """Of both sides of every row, at least; quick ones get more."""
    fresh: bool = False
    """Measure again what is there; without names, forget all that is there."""
    tiny: bool = False
    """At tiny sizes, without memory; kept in a file of its own, and out of the page."""


def main(
    config: Config,
    *,
    folder: Path = FOLDER,
    page: Path = PAGE,
    readme: Path = README,
    command: Sequence[str] = MEASURING,
) -> int:
    """Measure what is missing, print the table, fill the pages.

    Args:
        config: which rows.
        folder: of results.
        page: that has the table.
        readme: that has a few rows of it.
        command: a process that measures rows of one group.

    Returns:
        How many groups failed.
    """
    results = Results.open("tiny" if config.tiny else "results", folder, fresh=config.fresh and not config.names)
    names = selected(config.names)
    missing = names if config.fresh else [name for name in names if not results.has(name, config.rounds)]
    print(f"{len(names)} rows, {len(missing)} of them to be measured.", flush=True)
    options = ["--rounds", str(config.rounds), *["--tiny"] * config.tiny]
    failures = run(missing, results, command, options)
    show(results)
    if not config.tiny:
        put_between_markers(markdown(results), page)
        put_between_markers(short(results), readme)
    for failure in failures:
        print(failure, file=sys.stderr)
    return len(failures)


def run(names: Sequence[str], results: Results, command: Sequence[str], options: Sequence[str]) -> list[str]:
    """Let a process for each group measure its rows, keep them one by one; what failed, in words."""
    failures, count = [], 0
    with TemporaryDirectory() as folder:
        for group, of_group in groupby(names, key=group_of):
            rows = list(of_group)
            left = list(rows)
            arguments = [*command, *rows, "--folder", folder, *options]
            with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own command
                try:
                    for line in process.stdout or ():
                        count += 1
                        told = keep(json.loads(line), results)
                        left.remove(told[0])
                        print(f"[{count}/{len(names)}] {'  '.join(told)}", flush=True)
                except BaseException:
                    process.terminate()
                    raise
            if process.returncode:
                failures.append(f"{group} failed with exit code {process.returncode}; not measured: {', '.join(left)}.")
                count += len(left)
                print(failures[-1], flush=True)
    return failures


def keep(told: dict, results: Results) -> list[str]:
    """Put what a process has told into the results; its name and cells."""
    if "skipped" in told:
        results.skip(told["name"], told["skipped"])
        return [told["name"], f"skipped: {told['skipped']}"]
    row = row_of(told)
    results.add(row)
    return [row.name, *row.cells()[2:]]


if __name__ == "__main__":
    # Told to end, it ends the process that measures, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("interrupted; the same command goes on where it was"))
    sys.exit(min(main(tyro.cli(Config, description=__doc__)), 1))
