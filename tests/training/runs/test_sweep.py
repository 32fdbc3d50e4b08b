"""Sweeps: every run once, failures told of, interruptions lose nothing, and what a scheduler gets is sound."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from residual_lens import cli
from residual_lens.errors import InputError
from residual_lens.hooked.loading import PAPER_MODELS
from residual_lens.training.methods import METHODS
from residual_lens.training.runs import Resources, RunConfig, RunResult
from residual_lens.training.runs import sweep as sweeping
from residual_lens.training.runs.folder import save_config
from residual_lens.training.runs.sweep import (
    PAPER_DATA,
    arguments,
    finished_runs,
    in_order,
    log_of,
    run_sweep,
    unfinished,
)
from tests.training.runs.stand_in import BASE, ODD, a_grid, begun, calls, put_in_place


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """The folder of a sweep whose runs are stand-ins."""
    return put_in_place(monkeypatch, tmp_path)


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


def test_a_method_gets_the_settings_that_it_reads():
    base = RunConfig("", "", "", limit=20, l1=0.1, learning_rate=0.5, rank=4)
    configs = a_grid(methods=("zero-shot", "coarse", "linear", "lora"), base=base)
    assert {config.method: config.options for config in configs} == {
        "zero-shot": {"limit": 20},
        "coarse": {"limit": 20, "l1": 0.1, "learning_rate": 0.5},
        "linear": {"limit": 20, "learning_rate": 0.5},
        "lora": {"limit": 20, "learning_rate": 0.5, "rank": 4},
    }
    with pytest.raises(InputError, match="got l1, which none of these methods has a use for"):
        a_grid(methods=("zero-shot", "linear"), base=RunConfig("", "", "", l1=0.1, epochs=3))


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"models": ()}, "at least one of models, each once; got none"),
        ({"seeds": ()}, "at least one of seeds"),
        ({"seeds": (1, 1)}, "got 1, 1"),
        ({"data": ("paper", "dtd")}, "at least one of data, each once"),
        ({"methods": ("coarse", "corse")}, "got methods corse, expected all, .*Did you mean coarse"),
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
    assert told == [RunResult.load(stand_in / config.folder_name).line for config in in_order(configs)]
    assert log_of(configs[0], stand_in).read_text().startswith(f"begun {configs[0].folder_name}\n")
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


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell that starts tests in the background has them, and what they start, ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
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


def test_one_run_in_two_folders_is_refused_with_both(tmp_path):
    for place in ("a", "copy"):
        folder = tmp_path / place / BASE.folder_name
        save_config(folder, BASE)
        found = {"path": "direct", "variant": None, "classifier": "text", "n_classes": 2, "n_train": 2}
        found |= dict.fromkeys(("n_validation", "n_test", "parameters"), 1)
        found |= {
            "learning_rate": 0.8,
            "seconds": 1.0,
            "epochs": 1,
            "best_epoch": 1,
            "validation_accuracy": 0.5,
            "test_accuracy": 0.5,
        }
        RunResult(config=BASE, **found).save(folder)
    (one,) = finished_runs([tmp_path / "a"])
    assert (one["options"], "rank" in one["useless"], "l1" in one["useless"]) == ({}, True, False)
    with pytest.raises(InputError, match=r"coarse of m on d with seed 0 came twice, from .*/a/m--.* and .*/copy/m--"):
        finished_runs([tmp_path])
