"""`residual-lens train`: help, one line for a result, errors in one line."""

from functools import partial

import pytest

from residual_lens.training.fitting.callbacks import EachEpoch
from residual_lens.training.runs import RunConfig, RunResult, run_folder


@pytest.fixture
def train(run):
    """`residual-lens train` with some arguments."""
    return partial(run, "train")


ZERO_SHOT = ("--model", "attribute-clip", "--data", "digits", "--method", "zero-shot", "--limit=40", "--device=cpu")


def test_help_shows_examples_and_every_option_with_its_default(train):
    code, out, _ = train("--help")
    assert code == 0
    assert "\n    residual-lens train --model clip-l --data eurosat --method residual\n" in out
    for word in ("--shots", "--find-learning-rate", "--bases", "--num-nodes", "(default: runs)", "(default: own)"):
        assert word in out


def test_a_run_prints_its_result_and_folder_and_prints_them_again_without_running(train, tmp_path):
    code, out, err = train(*ZERO_SHOT)
    assert (code, err) == (0, "")
    assert out.startswith("attribute-clip, digits, zero-shot, seed 0, limit 40: test ")
    folder = run_folder(RunConfig("attribute-clip", "digits", "zero-shot", limit=40), tmp_path / "runs")
    assert out == f"{RunResult.load(folder).line}\nIn {folder.relative_to(tmp_path)}\n"
    assert train(*ZERO_SHOT) == (0, out, "")
    assert len(list((tmp_path / "stores").glob("*.h5"))) == 2


def test_every_setting_reaches_the_run(train, monkeypatch, tmp_path):
    from residual_lens.training.runs import running

    calls = []

    class Line:
        line = "said"

    monkeypatch.setattr(running, "run", lambda *given, **options: calls.append(given) or Line())
    options = "--seed 3 --shots 4 --units L1 L2 --keep-mean --l1 0.5 --bases a.h5 --out o --devices 2 --download"
    code, out, _ = train("--model", "m", "--data", "d", "--method", "residual*", *options.split())
    config, folder, resources = calls[0]
    place = run_folder(config, "o")
    # What can be explained says how.
    assert (code, out) == (0, f"said\nIn {place}; what its λ do: residual-lens explain {place}\n")
    named = {
        "seed": 3,
        "shots": 4,
        "units": ["L1", "L2"],
        "keep_mean": True,
        "l1": 0.5,
        "bases": "a.h5",
    }
    assert config.options | {"seed": config.seed} == named
    assert (str(folder), resources.devices, resources.download) == ("o", 2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "residuals"), "Unknown method 'residuals'"),
        (("--data", "digitz"), "got data set 'digitz'"),
        (("--model", "attribute-clap"), "Unknown model 'attribute-clap'"),
        (("--shots", "0"), "shots starts at 1, got 0."),
    ],
)
def test_user_errors_are_one_line_with_exit_code_2(train, arguments, message):
    code, out, err = train(*ZERO_SHOT, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("method", "stopped_in", "kept"),
    [
        ("coarse", "on_train_epoch_start", "no epoch was whole yet"),
        ("residual-stream", "on_train_epoch_start", "no epoch was whole yet"),
        ("residual-stream", "on_train_end", "all whole epochs are kept, in {folder}"),
    ],
)
def test_an_interruption_says_what_is_kept_and_that_the_same_command_goes_on(
    train, monkeypatch, tmp_path, method, stopped_in, kept
):
    def stopped(*given):
        raise KeyboardInterrupt

    arguments = ("--model", "attribute-clip", "--data", "digits", "--method", method, "--limit", 20, "--epochs", 1)
    with monkeypatch.context() as patched:
        patched.setattr(EachEpoch, stopped_in, stopped)
        code, out, err = train(*arguments, "--device", "cpu")
    (folder,) = tmp_path.glob("runs/attribute-clip--*")
    assert (code, out) == (130, "")
    assert err == f"Interrupted: {kept.format(folder=folder.relative_to(tmp_path))}; the same command goes on.\n"
    assert train(*arguments, "--device", "cpu")[0] == 0
    assert RunResult.load(folder).epochs == 1


def test_an_interruption_before_the_run_has_a_folder_says_so_too(train, monkeypatch, tmp_path):
    from residual_lens.training.runs import running

    def stopped(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "open_splits", stopped)
    assert train(*ZERO_SHOT) == (130, "", "Interrupted: no epoch was whole yet; the same command goes on.\n")
    assert list(tmp_path.iterdir()) == []
