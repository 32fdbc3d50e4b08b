"""The study of transfer: what is carried over to what, going on after an interruption, what it prints, refusals."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from residual_lens.errors import InputError
from tests.interventions.tiny_bases import bases_for
from tests.tolerances import FLOAT32_TOL, assert_changed, assert_close

DATA = ("digits", "attributes:size")
STARTS = ("randn, mean dropped", "ones, mean kept")


@pytest.fixture(scope="module")
def scripts() -> tuple[ModuleType, ModuleType]:
    """The study and its report, with no more starts than are carried over, and figures that are not drawn."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
        import transfer
        import transfer_report

        fewer = {start: transfer_report.STARTS[start] for start in STARTS}
        for module in (transfer, transfer_report):
            patched.setattr(module, "STARTS", fewer)
        patched.setattr(Figure, "savefig", lambda *_, **__: None)
        yield transfer, transfer_report


def config(script: ModuleType, out: Path, **changes):
    sizes = {"n_train": 24, "n_validation": 10, "n_test": 20}
    return script.Config(**({"data": DATA, "seeds": 1, "max_epochs": 1, "device": "cpu", "out": out} | sizes | changes))


@pytest.fixture(scope="module")
def out(scripts, tmp_path_factory) -> Path:
    """Where one run of the study was."""
    folder = tmp_path_factory.mktemp("transfer") / "out"
    scripts[0].main(config(scripts[0], folder))
    return folder


def results(out: Path) -> dict:
    return json.loads((out / "transfer.json").read_text(encoding="utf-8"))["results"]


def test_everything_is_carried_over_to_everything(out, scripts):
    found = results(out)
    learned = {f"λ of {data}, {start}: 0" for data in DATA for start in STARTS}
    bases = {f"bases of {bases} for {data}: 0" for bases in (*DATA, "own, turned") for data in DATA}
    assert set(found) == {"zero-shot: 0"} | learned | bases
    assert all(tuple(found[name]["accuracy"]) == DATA for name in learned)
    assert {path.name for path in out.iterdir()} == {
        "transfer.json",
        *(f"{name}.{suffix}" for name in ("scales", "bases") for suffix in ("png", "pdf")),
    }


def test_accuracies_are_those_of_lambda_in_force_on_the_other_task(out, scripts):
    """With hooks, on images of the other task, which the study never does."""
    transfer = scripts[0]
    draw = transfer.Draw(config(transfer, out), 0)
    one, other = DATA
    hvit, samples = draw.hvit(), draw.samples(other)
    residual = transfer.ResiDual.from_bases(draw.bases(transfer.ALL), seed=0, **transfer.STARTS[STARTS[0]])
    residual, _ = draw._trained(residual, one, draw.shared(one, False))
    task = transfer.load_task(other, image_size=hvit.cfg.image_size[0], seed=0, n_train=24, n_validation=10, n_test=20)
    with residual.attached(hvit), torch.no_grad():
        accuracy = samples.classifier.accuracy(hvit(hvit.normalize(task.test.images)), task.test.labels)
    found = results(out)
    assert found[f"λ of {one}, {STARTS[0]}: 0"]["accuracy"][other] == accuracy
    plain = samples.classifier.accuracy(hvit(hvit.normalize(task.test.images)).detach(), task.test.labels)
    assert found["zero-shot: 0"][other] == plain
    # With its mean, λ = 1 is the model as it is.
    assert found[f"λ of {other}, {STARTS[1]}: 0"]["start"] == plain


def test_a_finished_study_computes_nothing(out, scripts, monkeypatch):
    before = (out / "transfer.json").read_bytes()
    monkeypatch.setattr(scripts[0].HookedViT, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    scripts[0].main(config(scripts[0], out))
    assert (out / "transfer.json").read_bytes() == before


def test_turned_bases_span_the_same_with_other_directions(scripts, hvit):
    bases = bases_for(hvit, units=("L1H0", "1_mlp_out"))
    turned = scripts[0].turned(bases, seed=3)
    for name in bases:
        one, other = bases[name].components, turned[name].components
        assert_close(other @ other.mT, torch.eye(len(other)), FLOAT32_TOL)
        assert_close(other.mT @ other, one.mT @ one, FLOAT32_TOL)
        assert_changed(other, one)
    assert_close(scripts[0].turned(bases, seed=3)["L1H0"].components, turned["L1H0"].components, 0.0)
    assert_changed(scripts[0].turned(bases, seed=4)["L1H0"].components, turned["L1H0"].components)


def made_up() -> dict:
    """Two seeds: an accuracy tells by its digits what it is of."""
    found = {}
    for seed in (0, 1):
        found[f"zero-shot: {seed}"] = {"a": 0.10, "b": 0.20}
        for row, task in enumerate("ab"):
            for column, start in enumerate(STARTS):
                value = 0.3 + 0.1 * row + 0.01 * column + 0.002 * seed
                accuracy = {"a": value, "b": value + 0.4}
                found[f"λ of {task}, {start}: {seed}"] = {
                    "accuracy": accuracy,
                    "start": 0.25,
                    "start left": 0.5,
                    "best epoch": 4,
                }
        for row, bases in enumerate(("a", "b", "own, turned")):
            for column, task in enumerate("ab"):
                found[f"bases of {bases} for {task}: {seed}"] = 0.5 + 0.1 * row + 0.01 * column
    return found


def test_matrices_have_sources_in_rows_and_targets_in_columns(scripts):
    report = scripts[1]
    rows, scales, against = report.scales_matrix(made_up(), "ab", 2, STARTS[1])
    assert (rows, against) == (("zero-shot", "a", "b"), 0)
    np.testing.assert_allclose(scales[1], [[0.1, 0.2], [0.312, 0.712], [0.412, 0.812]])
    rows, bases, against = report.bases_matrix(made_up(), "ab", 2)
    assert rows == ("a", "b", "all together", "own, turned")
    np.testing.assert_allclose(bases[0], [[0.5, 0.51], [0.6, 0.61], [0.31, 0.81], [0.7, 0.71]])
    np.testing.assert_allclose(bases[0][against], [0.5, 0.61])


def test_tables(scripts, capsys):
    report = scripts[1]
    report.print_starts(made_up(), "ab", 2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4] == "| start | a | b | average | at its start | start left | epoch |"
    assert lines[-2] == "| randn, mean dropped | 30.1 ± 0.1 | 80.1 ± 0.1 | 55.1 | 25.0 | 0.50 | 4 |"
    assert lines[-1] == "| ones, mean kept | 31.1 ± 0.1 | 81.1 ± 0.1 | 56.1 | 25.0 |  | 4 |"
    report.print_matrix("T", ["x"], ["attributes:shape", "b"], np.array([[[0.5, 0.25]], [[0.7, 0.25]]]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "T. Accuracy (%), mean over seeds; their standard deviation is 7.1 on average."
    assert lines[3:] == ["| | shape | b |", "|---|--:|--:|", "| x | 60.0 | 25.0 |"]


def test_what_makes_no_study_is_refused_before_anything_runs(scripts, out, tmp_path):
    transfer = scripts[0]
    with pytest.raises(InputError, match="--data takes at least 2"):
        transfer.main(config(transfer, tmp_path, data=("digits",)))
    with pytest.raises(InputError, match="--seeds starts at 1, got 0"):
        transfer.main(config(transfer, tmp_path, seeds=0))
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="n_train was 24, is 25"):
        transfer.main(config(transfer, out, n_train=25))
