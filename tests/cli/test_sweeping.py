"""`residual-lens sweep`: failures last, what is printed or written for a scheduler, refusals in one line."""

import shlex
from functools import partial

import pytest

from residual_lens.training.methods import METHODS
from tests.training.runs.stand_in import ODD, begun, put_in_place


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """The folder of a sweep whose runs are stand-ins."""
    return put_in_place(monkeypatch, tmp_path)


@pytest.fixture
def sweep(run, stand_in):
    """`residual-lens sweep` of a model with some arguments."""
    return partial(run, "sweep", "--out", stand_in, "--models", "m")


def test_the_command_lists_failures_last_and_exits_with_1(sweep, stand_in):
    code, out, err = sweep("--data", "broken", "x", "--methods", "coarse")
    assert code == 1
    assert out.startswith("m, x, coarse, seed 0: test 50.00% of 1, ")
    assert out.count("\n") == 1
    assert err.splitlines() == [
        "m--broken--coarse--0 failed (2): no such data",
        f"    {stand_in}/logs/m--broken--coarse--0.log",
        f"1 of 2 runs are finished, in {stand_in}.",
    ]
    assert sweep("--data", "x", "--methods", "coarse") == (0, "", f"1 of 1 runs are finished, in {stand_in}.\n")


def test_print_writes_what_is_left_a_line_each_and_runs_nothing(sweep, stand_in):
    sweep("--data", "x", "--methods", "coarse")
    code, out, err = sweep("--data", "x", ODD, "--methods", "coarse", "linear", "--print", "--", "--shots", "4")
    assert (code, err) == (0, "4 of 4 runs are left.\n")
    lines = [shlex.split(line) for line in out.splitlines()]
    assert [line[:2] for line in lines] == [["residual-lens", "train"]] * 4
    assert all(line[-4:-2] == ["--shots", "4"] for line in lines)
    assert ODD in lines[1]
    assert len(sweep("--data", "x", "y", "--methods", "coarse", "--print")[1].splitlines()) == 1
    assert len(begun(stand_in)) == 1


def test_slurm_writes_a_script_and_runs_nothing(sweep, stand_in, tmp_path):
    script = tmp_path / "new" / "sweep.sh"
    code, out, err = sweep(
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
def test_what_a_sweep_cannot_do_is_one_line(texts, message, sweep, stand_in):
    code, out, err = sweep("--data", "x", *texts)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not stand_in.exists()


def test_an_option_that_train_does_not_have_is_refused_with_its_name(sweep, stand_in):
    code, _, err = sweep("--data", "x", "--", "--shotts", "4")
    assert code == 2
    assert "--shotts" in err
    assert not stand_in.exists()
