"""The file of results: rows as they were measured on one machine with one set of versions."""

import json
import os
import platform
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import torch

from residual_lens.files import write_atomically
from scripts.benchmark.rows import Row

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "studies" / "benchmark"
"""Git-ignored."""
LIBRARIES = (
    "torch",
    "transformer_lens",
    "open_clip_torch",
    "transformers",
    "scikit-learn",
    "scikit-dimension",
    "numpy",
)
MEASURED = (
    "residual_lens",
    "scripts.benchmark.groups",
    "scripts.benchmark.made_up",
    "scripts.benchmark.models",
    "scripts.benchmark.sizes",
    "tests.reference",
)
"""Where the code lies that a row depends on."""


@dataclass
class Results:
    """Rows and skipped rows by name, saved after every one."""

    file: Path
    machine: dict[str, str]
    rows: dict[str, Row] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """Why."""

    @classmethod
    def open(cls, kind: str, folder: Path, *, fresh: bool = False) -> "Results":
        """What there is of this machine with these versions, which have a file of their own; with `fresh`, nothing."""
        here = machine()
        digest = sha256(json.dumps(here).encode()).hexdigest()[:8]
        results = cls(folder / f"{kind}-{digest}.json", here)
        if results.file.exists() and not fresh:
            stored = json.loads(results.file.read_text(encoding="utf-8"))
            results.rows = {name: row_of(row) for name, row in stored["rows"].items()}
            results.skipped = stored["skipped"]
        return results

    def add(self, row: Row) -> None:
        """Keep a row in place of an earlier one."""
        self.skipped.pop(row.name, None)
        self.rows[row.name] = row
        self._save()

    def skip(self, name: str, reason: str) -> None:
        """Keep the reason why there is no row."""
        self.rows.pop(name, None)
        self.skipped[name] = reason
        self._save()

    def has(self, name: str, rounds: int) -> bool:
        """Whether a row was measured often enough, with the sources as they are."""
        row = self.rows.get(name)
        return row is not None and len(row.ours) >= rounds and not outdated(row)

    def _save(self) -> None:
        rows = {name: asdict(row) for name, row in self.rows.items()}
        stored = {"machine": self.machine, "rows": rows, "skipped": self.skipped}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.file, json.dumps(stored, indent=1).encode())


def row_of(stored: dict) -> Row:
    """A row from JSON, which has no tuples."""
    return Row(**{**stored, "mib": tuple(stored["mib"])})


def machine() -> dict[str, str]:
    """What figures depend on besides the sources: hardware and versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "CPU": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "memory": f"{memory:.0f} GiB",
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        **{library: version(library) for library in LIBRARIES},
    }


def loaded_sources() -> list[str]:
    """Files of the code that a row depends on, as far as this process has loaded it."""
    files = {
        Path(module.__file__).relative_to(ROOT).as_posix()
        for name, module in list(sys.modules.items())
        if name.startswith(MEASURED) and getattr(module, "__file__", None)
    }
    return sorted(files)


def digest_of(sources: Iterable[str]) -> str:
    """Of what the files hold; of those that are gone, of nothing."""
    digest = sha256()
    for source in sources:
        path = ROOT / source
        digest.update(source.encode() + b"\0" + (path.read_bytes() if path.exists() else b"") + b"\0")
    return digest.hexdigest()[:16]


def outdated(row: Row) -> bool:
    """Whether the code that was measured has changed."""
    return digest_of(row.sources) != row.code


def _processor() -> str:
    """As Linux names it, with what tells models of one name apart."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    lines = cpuinfo.read_text().split("\n\n")[0].splitlines()
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = " ".join(said.get("model name", platform.machine()).split())
    return f"{name}, family {said['cpu family']}, model {said['model']}" if "cpu family" in said else name
