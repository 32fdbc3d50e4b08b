"""Sweeps: every run once, failures told of, interruptions lose nothing, and what a scheduler gets is sound."""

import json
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from residual_lens import cli
from residual_lens.errors import InputError
from residual_lens.hooked.loading import PAPER_MODELS
from residual_lens.training.methods import METHODS
from residual_lens.training.runs import Resources, RunConfig
from residual_lens.training.runs import sweep as sweeping
from residual_lens.training.runs.slurm import Slurm, slurm_script
from residual_lens.training.runs.sweep import PAPER_DATA, arguments, grid, in_order, log_of, run_sweep, unfinished

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
(out / name / "result.json").write_text(json.dumps(options))
with (out / "calls").open("a") as file:
    file.write(f"end-of-{name} 0 {time.monotonic()}\\n")
'''


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Runs are processes that take a moment, and can be told to fail."""
    script = tmp_path / "run.py"
    script.write_text(RUN)
    monkeypatch.setattr(sweeping, "COMMAND", (sys.executable, "-S", str(script)))
    monkeypatch.setattr(sweeping, "POLL", 0.005)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return tmp_path / "out"


def a_grid(models=("m",), data=("d",), methods=("coarse",), seeds=(0,), base=BASE):
    return grid(models, data, methods, seeds, base)


def calls(out):
    return [line.split() for line in (out / "calls").read_text().splitlines()]


def begun(out):
    return [name for name, *_ in calls(out) if not name.startswith("end-of-")]


def test_the_grid_has_every_combination_once_with_the_other_settings():
    configs = a_grid(("a", "b"), ("x", "y"), ("linear", "residual*"), (0, 3), RunConfig("", "", "", shots=4))
    names = {(config.model, config.data, config.method, config.seed) for config in configs}
    assert len(configs) == len(names) == 16
    assert ("b", "x", "residual*", 3) in names
    assert {config.shots for config in configs} == {4}


def test_the_papers_grid_is_seven_models_on_ten_data_sets_with_all_methods():
    configs = a_grid(("paper",), ("paper",), ("all",))
    assert len(configs) == 7 * 10 * len(METHODS)
    assert {config.model for config in configs} == set(PAPER_MODELS)
    assert {config.data for config in configs} == set(PAPER_DATA)
    assert len(a_grid(("paper", "attribute-clip"))) == 8


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"models": ()}, "at least one of models, each once; got none"),
        ({"seeds": ()}, "at least one of seeds"),
        ({"seeds": (1, 1)}, "got 1, 1"),
        ({"data": ("paper", "dtd")}, "at least one of data, each once"),
        ({"methods": ("coarse", "corse")}, "got methods corse, expected all, or of zero-shot, coarse,"),
    ],
)
def test_lists_that_make_no_sweep_are_refused(lists, message):
    with pytest.raises(InputError, match=message):
        a_grid(**lists)


def test_what_makes_the_stores_of_each_pair_comes_first():
    configs = a_grid(("a", "b"), ("x", "y"), ("zero-shot", "lora", "linear", "residual"), (0, 1))
    ordered = in_order(configs)
    assert sorted(ordered, key=str) == sorted(configs, key=str)
    first = [(config.model, config.data, config.method, config.seed) for config in ordered[:4]]
    assert first == [(model, data, "residual", 0) for model in "ab" for data in "xy"]
    assert in_order(a_grid(methods=("lora", "zero-shot", "linear")))[0].method == "linear"
    assert in_order(a_grid(methods=("lora", "zero-shot")))[0].method == "zero-shot"


def test_arguments_are_understood_as_what_they_were_made_of(monkeypatch):
    config = RunConfig("m", ODD, "residual*", seed=3, units=("L1", "heads"), keep_mean=True, l1=1e-5, templates="a {}.")
    resources = Resources(stores=Path("a b"), download=True, workers=0)
    seen = []
    monkeypatch.setattr("residual_lens.training.runs.run", lambda *given, **_: seen.append(given) or pytest.skip())
    monkeypatch.setattr(sys, "argv", ["residual-lens", *arguments(config, resources, Path("o u t"))])
    with pytest.raises(pytest.skip.Exception):
        cli.main()
    assert seen == [(config, Path("o u t"), resources)]


def test_all_runs_are_made_once_and_finished_ones_are_passed_over(stand_in):
    configs = a_grid(data=("x", "y"), seeds=(0, 1))
    told = []
    assert run_sweep(configs, Resources(), stand_in, report=told.append) == []
    assert told == [log_of(config, stand_in).read_text().strip() for config in in_order(configs)]
    assert sorted(begun(stand_in)) == sorted(config.folder_name for config in configs)
    (stand_in / configs[2].folder_name / "result.json").unlink()
    assert run_sweep(configs, Resources(), stand_in) == []
    assert begun(stand_in)[4:] == [configs[2].folder_name]
    assert unfinished(configs, stand_in) == []


def test_one_that_fails_does_not_stop_the_others_and_its_log_is_named(stand_in):
    configs = a_grid(data=("broken", "x"), seeds=(0, 1))
    failures = run_sweep(configs, Resources(), stand_in)
    assert [failure.config for failure in failures] == [config for config in configs if config.data == "broken"]
    assert {(failure.status, failure.last_words) for failure in failures} == {(2, "residual-lens: no such data")}
    assert failures[0].log.read_text().splitlines()[0] == "begun m--broken--coarse--0"
    assert unfinished(configs, stand_in) == [failure.config for failure in failures]


@pytest.mark.parametrize("at_once", [1, 3])
def test_as_many_run_at_a_time_as_asked_and_share_the_cores(at_once, stand_in, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    run_sweep(a_grid(seeds=range(6)), Resources(), stand_in, at_once=at_once)
    running, most = set(), 0
    for name, threads, _ in sorted(calls(stand_in), key=lambda call: float(call[2])):
        if name.startswith("end-of-"):
            running.remove(name.removeprefix("end-of-"))
        else:
            running.add(name)
            assert int(threads) == 7 // at_once
        most = max(most, len(running))
    assert most <= at_once


def test_threads_that_are_set_stay_as_they_are(stand_in, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    run_sweep(a_grid(), Resources(), stand_in)
    assert calls(stand_in)[0][1] == "5"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_stops_all_that_run_and_starts_no_more(number, stand_in, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["residual-lens", "sweep", "--models", "m", "--data", "slow", "--methods", "coarse"]
    )
    sys.argv += ["--seeds", "0", "1", "2", "--at-once", "2", "--out", str(stand_in)]

    def interrupt():
        ready = [stand_in / f"m--slow--coarse--{seed}.ready" for seed in (0, 1)]
        while not all(path.exists() for path in ready):
            time.sleep(0.01)
        signal.raise_signal(number)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    with pytest.raises(SystemExit, match=str(128 + number)):
        cli.main()
    assert signal.getsignal(signal.SIGTERM) == before
    assert "0 of 3 runs are finished" in capsys.readouterr().err
    assert sorted(path.name for path in stand_in.glob("*.saved")) == [f"m--slow--coarse--{n}.saved" for n in (0, 1)]
    assert len(begun(stand_in)) == 2


def test_a_run_that_does_not_heed_an_interruption_is_killed(stand_in, monkeypatch):
    monkeypatch.setattr(sweeping, "GRACE", 0.05)
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); open('deaf', 'w'); time.sleep(60)"
    monkeypatch.setattr(sweeping, "COMMAND", (sys.executable, "-S", "-c", deaf))
    monkeypatch.chdir(stand_in.parent)
    started = []
    monkeypatch.setattr(
        sweeping, "_started", lambda *given, make=sweeping._started: started.append(make(*given)) or started[-1]
    )

    def interrupted(seconds):
        if Path("deaf").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(sweeping.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(a_grid(), Resources(), stand_in)
    assert started[0].returncode == -signal.SIGKILL


def test_nothing_at_a_time_is_refused(stand_in):
    with pytest.raises(InputError, match="at_once starts at 1, got 0"):
        run_sweep(a_grid(), Resources(), stand_in, at_once=0)


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
    return subprocess.run(["bash", "-c", script], env=environment, check=False, capture_output=True, text=True)  # noqa: S603, S607


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
    done = subprocess.run(["/bin/bash", "-c", script], env={}, check=False, capture_output=True, text=True)  # noqa: S603
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


@pytest.fixture
def run(monkeypatch, capsys, stand_in):
    """`residual-lens sweep` in this process: exit status, output, messages."""

    def run_command(*texts):
        monkeypatch.setattr(sys, "argv", ["residual-lens", "sweep", "--out", str(stand_in), "--models", "m", *texts])
        monkeypatch.setenv("NO_COLOR", "1")
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        return (code, *capsys.readouterr())

    return run_command


def test_the_command_lists_failures_last_and_exits_with_1(run, stand_in):
    code, out, err = run("--data", "broken", "x", "--methods", "coarse")
    assert (code, out) == (1, "begun m--x--coarse--0\n")
    assert err.splitlines() == [
        "m--broken--coarse--0 failed (2): no such data",
        f"    {stand_in}/logs/m--broken--coarse--0.log",
        f"1 of 2 runs are finished, in {stand_in}.",
    ]
    assert run("--data", "x", "--methods", "coarse") == (0, "", f"1 of 1 runs are finished, in {stand_in}.\n")


def test_print_writes_what_is_left_a_line_each_and_runs_nothing(run, stand_in):
    run("--data", "x", "--methods", "coarse")
    code, out, err = run("--data", "x", ODD, "--methods", "coarse", "linear", "--print", "--", "--shots", "4")
    assert (code, err) == (0, "4 of 4 runs are left.\n")
    lines = [shlex.split(line) for line in out.splitlines()]
    assert [line[:2] for line in lines] == [["residual-lens", "train"]] * 4
    assert all(line[-4:-2] == ["--shots", "4"] for line in lines)
    assert ODD in lines[1]
    assert len(run("--data", "x", "y", "--methods", "coarse", "--print")[1].splitlines()) == 1
    assert len(begun(stand_in)) == 1


def test_slurm_writes_a_script_and_runs_nothing(run, stand_in, tmp_path):
    script = tmp_path / "new" / "sweep.sh"
    code, out, err = run(
        "--data", "x", "--methods", "all", "--slurm", str(script), "--partition", "gpu", "--at-once", "3"
    )
    assert (code, out) == (0, "")
    assert err.endswith(f"Wrote {script}: submit it with sbatch.\n")
    assert f"--array=0-{len(METHODS) - 1}%3" in script.read_text()
    assert not stand_in.exists()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("--print", "--slurm", "a.sh"), "Got --print and --slurm"),
        (("--", "--seed", "3"), "--seed behind the dashes: a sweep sets this"),
        (("--", "--model=x"), "--model=x behind the dashes"),
        (("--", "--shots", "0"), "shots starts at 1"),
    ],
)
def test_what_a_sweep_cannot_do_is_one_line(texts, message, run, stand_in):
    code, out, err = run("--data", "x", *texts)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not stand_in.exists()


def test_an_option_that_train_does_not_have_is_refused_with_its_name(run, stand_in):
    code, _, err = run("--data", "x", "--", "--shotts", "4")
    assert code == 2
    assert "--shotts" in err
    assert not stand_in.exists()
