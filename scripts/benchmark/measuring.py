"""Measures rows of one group, in a process of its own that `__main__.py` starts: one line of JSON a row.

    python -m scripts.benchmark.measuring rows forward-plain forward-z --rounds 3 --folder SCRATCH
    python -m scripts.benchmark.measuring peak forward-plain ours --folder SCRATCH

The first times both sides of each row in the same rounds. It starts the second for each side, which prints MiB: a
process of its own, in which memory that is freed goes back at once.
"""

import argparse
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.benchmark import resident
from scripts.benchmark.catalogue import group, group_of
from scripts.benchmark.results import ROOT, digest_of, loaded_sources
from scripts.benchmark.rows import Row, Sides, Skipped, Timed
from scripts.benchmark.sizes import Sizes, tiny

ROUNDS_AT_MOST = 30
SECONDS = 10.0
"""A row that is quick gets as many rounds as fit into these, up to that many."""


def timed(side: Callable[[], Any]) -> Timed:
    """By this clock, unless it has its own."""
    started = time.perf_counter()
    result = side()
    seconds = time.perf_counter() - started
    return result if isinstance(result, Timed) else Timed(result, seconds)


def measure(name: str, sides: Sides, section: str, *, rounds: int, seconds: float = SECONDS) -> Row:
    """Both sides once to warm up, which also gives the difference; then round by round, taking turns at being first."""
    row = Row(name, section, sides.what, sides.the_other_way, counted=sides.counted, images=sides.images)
    ours, other = timed(sides.ours), timed(sides.other)
    if sides.difference is not None:
        row.difference = float(sides.difference(ours.result, other.result))
    del ours, other
    both = [("ours", sides.ours, row.ours), ("other", sides.other, row.other)]
    mib: dict[str, float | None] = {}
    started = time.perf_counter()
    while len(row.ours) < rounds or (time.perf_counter() - started < seconds and len(row.ours) < ROUNDS_AT_MOST):
        for which, side, times in both:
            run = timed(side)
            times.append(run.seconds)
            mib[which] = run.mib
            del run  # Its result would be there while the other side runs.
        both.reverse()
    row.mib = (mib["ours"], mib["other"])
    row.sources = loaded_sources()
    row.code = digest_of(row.sources)
    return row


def with_peaks(row: Row, folder: Path) -> Row:
    """The row with the peaks of both sides, unless it has them already."""
    if resident.SUPPORTED and row.mib[0] is None:
        command = [sys.executable, "-m", "scripts.benchmark.measuring", "peak", row.name]
        prints = [
            subprocess.run(  # noqa: S603 - our own command
                [*command, side, "--folder", str(folder)],
                cwd=ROOT,
                env=resident.mapping_tensors(),
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            ).stdout
            for side in ("ours", "other")
        ]
        row.mib = (float(prints[0]), float(prints[1]))
    return row


def peak(name: str, which: str, sizes: list[Sizes]) -> float:
    """MiB that one side needs, its result included, at the last of the sizes, beyond what was there before.

    It runs at all sizes, the first for what is loaded and kept.
    """
    for at in sizes:
        sides = group(group_of(name)).CASES[name](at)
        side = sides.ours if which == "ours" else sides.other
        result = None  # That of a smaller size is gone before this one is watched.
        before = resident.set_back()
        result = side()
        mib = resident.high_water() - before
    return result.mib if isinstance(result, Timed) and result.mib is not None else mib


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["rows", "peak"])
    parser.add_argument("names", nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    logging.disable(logging.WARNING)  # open_clip and the bridge warn that weights are random and no processor is found.
    told, sys.stdout = sys.stdout, sys.stderr  # What libraries print is no result.
    if given.what == "peak":
        name, which = given.names
        print(peak(name, which, [tiny(given.folder), Sizes(given.folder)]), file=told)
        return
    sizes = tiny(given.folder) if given.tiny else Sizes(given.folder)
    for name in given.names:
        try:
            module = group(group_of(name))
            sides = module.CASES[name](sizes)
        except Skipped as reason:
            print(json.dumps({"name": name, "skipped": str(reason)}), file=told, flush=True)
            continue
        row = measure(name, sides, module.section(sizes), rounds=given.rounds, seconds=0 if given.tiny else SECONDS)
        del sides
        print(json.dumps(asdict(row if given.tiny else with_peaks(row, given.folder))), file=told, flush=True)


if __name__ == "__main__":
    main()
