"""A sweep as a job array: the script that bash and sbatch are given."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from residual_lens.errors import InputError
from residual_lens.training.runs import Resources, RunConfig
from residual_lens.training.runs import sweep as sweeping
from residual_lens.training.runs.slurm import Slurm, slurm_script
from residual_lens.training.runs.sweep import arguments
from tests.training.runs.stand_in import ODD, a_grid


def parsed(script, task, tmp_path):
    """What one task of a script would run, by bash itself: arguments and logs, a run a line."""
    fake = tmp_path / "bin" / "residual-lens"
    fake.parent.mkdir(exist_ok=True)
    fake.write_text(
        f'#!/bin/bash\n{shlex.quote(sys.executable)} -S -c "import json, sys; print(json.dumps(sys.argv[1:]))" "$@"\n'
        'echo "$@" >>"$CALLS"\n[[ "$*" != *fail* ]]\n'
    )
    fake.chmod(0o755)
    environment = {
        "PATH": f"{fake.parent}:/usr/bin:/bin",
        "SLURM_ARRAY_TASK_ID": str(task),
        "CALLS": str(tmp_path / "c"),
    }
    return subprocess.run(["bash", "-c", script], env=environment, check=False, capture_output=True, text=True)  # noqa: S603, S607 - our own command


def test_a_slurm_script_runs_what_the_sweep_would_whatever_the_names(tmp_path, monkeypatch):
    (tmp_path / "it's here").mkdir()
    monkeypatch.chdir(tmp_path / "it's here")
    configs = a_grid(
        data=(ODD, "-x", "y"), methods=("residual*", "coarse"), base=RunConfig("", "", "", templates="a {}'s")
    )
    out = Path('my "runs"')
    script = slurm_script(configs, Resources(), out, Slurm(partition="gpu", memory="64G", tasks=4))
    checked = subprocess.run(["bash", "-n"], input=script, check=False, capture_output=True, text=True)  # noqa: S607
    assert (checked.returncode, checked.stderr) == (0, "")
    for task in range(4):
        done = parsed(script, task, tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for config in configs:
        log = sweeping.log_of(config, out).read_text().splitlines()
        assert [json.loads(line) for line in log] == [arguments(config, Resources(), out)]


def test_a_slurm_task_goes_on_after_a_failure_and_fails_in_the_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = slurm_script(a_grid(data=("fail", "x")), Resources(), Path("runs"), Slurm(tasks=1))
    assert parsed(script, 0, tmp_path).returncode == 1
    assert len((tmp_path / "c").read_text().splitlines()) == 2


def test_a_slurm_script_asks_for_what_it_was_told():
    configs = a_grid(seeds=range(5))
    script = slurm_script(
        configs, Resources(), Path("runs"), Slurm("gpu", "1-00:00:00", 2, 4, "64G", tasks=3, at_once=2)
    )
    for line in ("array=0-2%2", "partition=gpu", "time=1-00:00:00", "gpus=2", "cpus-per-task=4", "mem=64G"):
        assert f"\n#SBATCH --{line}\n" in script
    least = slurm_script(configs, Resources(), Path("runs"), Slurm(gpus=0))
    assert "\n#SBATCH --array=0-4\n" in least
    assert not any(f"--{name}=" in least for name in ("partition", "gpus", "mem"))
    assert script.startswith("#!/bin/bash\n#SBATCH")


def test_a_script_that_is_not_submitted_says_so(tmp_path):
    script = slurm_script(a_grid(), Resources(), Path("runs"), Slurm())
    done = subprocess.run(["/bin/bash", "-c", script], env={}, check=False, capture_output=True, text=True)  # noqa: S603 - our own command
    assert done.returncode != 0
    assert "submit this script with" in done.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"partition": "a b"}, "partition is letters, digits"),
        ({"time": "1:00\n#SBATCH"}, "time is letters"),
        ({"memory": ""}, "memory is letters"),
        ({"tasks": 0}, "tasks starts at 1, got 0"),
        ({"at_once": 0}, "at_once starts at 1"),
        ({"gpus": -1}, "gpus starts at 0"),
    ],
)
def test_what_slurm_would_not_take_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Slurm(**settings)


def test_line_breaks_and_finished_sweeps_make_no_script():
    with pytest.raises(InputError, match="A line break in"):
        slurm_script(a_grid(data=("a\nb",)), Resources(), Path("runs"), Slurm())
    with pytest.raises(InputError, match="no run left"):
        slurm_script([], Resources(), Path("runs"), Slurm())
