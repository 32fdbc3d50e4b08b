"""A sweep's runs as processes that take a moment, and can be told to fail."""

import sys
from pathlib import Path

import pytest

from residual_lens.training.runs import RunConfig
from residual_lens.training.runs import sweep as sweeping
from residual_lens.training.runs.sweep import grid

BASE = RunConfig("m", "d", "coarse")
ODD = 'folder:/data/it\'s "odd" $HOME `x` ; *\\ (é)'

RUN = '''
"""Stands for `residual-lens`: writes what it was told, and ends as its data set says."""
import json, os, sys, time
from pathlib import Path

options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
data, out = options["--data"], Path(options["--out"])
name = f"{options['--model']}--{data}--{options['--method']}--{options['--seed']}"
with (out / "calls").open("a") as file:
    file.write(f"{name} {os.environ['OMP_NUM_THREADS']} {time.monotonic()}\\n")
print("begun", name, flush=True)
if data == "broken":
    print("residual-lens: no such data", flush=True)
    sys.exit(2)
if data == "slow":
    try:
        (out / f"{name}.ready").touch()
        time.sleep(60)
    except KeyboardInterrupt:
        (out / f"{name}.saved").touch()
        sys.exit(130)
(out / name).mkdir(parents=True, exist_ok=True)
config = {name: options[f"--{name}"] for name in ("model", "data", "method")} | {"seed": int(options["--seed"])}
found = dict.fromkeys(("n_classes", "n_train", "n_validation", "n_test", "parameters", "epochs", "best_epoch"), 1)
found |= dict.fromkeys(("learning_rate", "seconds", "validation_accuracy", "test_accuracy"), 0.5)
found |= {"path": "direct", "variant": None, "classifier": "text"}
(out / name / "config.json").write_text(json.dumps(config))
(out / name / "result.json").write_text(json.dumps(config | found))
print("in", out / name, flush=True)
with (out / "calls").open("a") as file:
    file.write(f"end-of-{name} 0 {time.monotonic()}\\n")
'''


def put_in_place(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """From here on sweeps start stand-ins; gives the folder for their folders."""
    script = folder / "run.py"
    script.write_text(RUN)
    monkeypatch.setattr(sweeping, "COMMAND", (sys.executable, "-S", str(script)))
    monkeypatch.setattr(sweeping, "POLL", 0.005)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return folder / "out"


def a_grid(models=("m",), data=("d",), methods=("coarse",), seeds=(0,), base=BASE):
    return grid(models, data, methods, seeds, base)


def calls(out):
    return [line.split() for line in (out / "calls").read_text().splitlines()]


def begun(out):
    return [name for name, *_ in calls(out) if not name.startswith("end-of-")]
