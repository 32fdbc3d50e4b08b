"""The main job on the shipped model: real results in the schema that the issue asks for."""

import io
import json
import logging
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from residual_lens import demo
from residual_lens.data import task_names
from residual_lens.demo import demo_tasks, run_demo
from residual_lens.errors import InputError
from residual_lens.training import LinearAdapter

TASKS = ("digits", "attributes:position")
METHODS = {"zero-shot", "coarse", "residual*", "residual", "linear"}


def run(out: Path, seed: int = 0) -> tuple[dict, str]:
    stream = io.StringIO()
    report = run_demo(out, seed=seed, tasks=TASKS, console=Console(file=stream, width=100))
    return report, stream.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, dict, str]:
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    return out, *run(out)


@pytest.mark.slow
def test_results_have_the_schema_of_the_issue(finished):
    out, report, _ = finished
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results == report
    assert set(results) == {"model", "seed", "tasks"}
    assert (results["model"], results["seed"]) == ("attribute-clip", 0)
    assert tuple(results["tasks"]) == TASKS
    for task in results["tasks"].values():
        assert set(task) == {"n_test", "chance", "methods"}
        assert isinstance(task["n_test"], int)
        assert task["n_test"] >= 100
        assert set(task["methods"]) == METHODS
        for method in task["methods"].values():
            assert set(method) == {"accuracy", "parameters", "seconds"}
            assert 0 <= method["accuracy"] <= 1
            assert method["seconds"] >= 0
    assert results["tasks"]["digits"]["chance"] == 0.1
    assert sorted(file.name for file in out.iterdir()) == ["figure.png", "results.json"]


@pytest.mark.slow
def test_parameters_are_those_of_the_shipped_models_shape(finished):
    from residual_lens import HookedViT

    cfg = HookedViT.from_pretrained("attribute-clip").cfg
    heads = cfg.n_layers * cfg.n_heads
    for task in finished[1]["tasks"].values():
        parameters = {name: method["parameters"] for name, method in task["methods"].items()}
        assert parameters["zero-shot"] == 0
        assert parameters["coarse"] == heads
        assert parameters["residual"] == heads * cfg.d_head + cfg.n_layers * cfg.d_out
        assert heads <= parameters["residual*"] < heads * cfg.d_head
        assert parameters["linear"] == cfg.d_out * (cfg.d_out + 1)


@pytest.mark.slow
def test_training_lifts_tasks_with_headroom_above_zero_shot_and_chance(finished):
    for task in finished[1]["tasks"].values():
        accuracy = {name: method["accuracy"] for name, method in task["methods"].items()}
        assert accuracy["residual"] > accuracy["zero-shot"] + 0.05
        assert accuracy["residual"] > task["chance"] + 0.2


@pytest.mark.slow
def test_the_figure_is_a_png_and_the_table_is_printed(finished):
    out, _, printed = finished
    with Image.open(out / "figure.png") as image:
        assert image.format == "PNG"
        assert image.width >= 1200
    for word in (*TASKS, *METHODS, "results.json", "figure.png"):
        assert word in printed


@pytest.mark.slow
def test_the_same_seed_gives_the_same_accuracies(finished, tmp_path):
    again, _ = run(tmp_path)
    for task in TASKS:
        for method in METHODS:
            expected = finished[1]["tasks"][task]["methods"][method]["accuracy"]
            assert again["tasks"][task]["methods"][method]["accuracy"] == expected


def test_the_demo_covers_digits_every_attribute_and_three_shifts():
    names = demo_tasks()
    assert "digits" in names
    assert {name for name in task_names() if "@" not in name} <= set(names)
    assert sum("@" in name for name in names) >= 3
    assert set(names) <= set(task_names())


@pytest.mark.slow
def test_a_method_that_stays_at_its_start_is_named_in_one_line_and_not_warned_of(tmp_path, monkeypatch, caplog):
    train = demo.train_adapter

    def linear_goes_too_far(adapter, *parts, **options):
        rate = 1e4 if isinstance(adapter, LinearAdapter) else None
        return train(adapter, *parts, **options, learning_rate=rate, max_epochs=2)

    monkeypatch.setattr(demo, "train_adapter", linear_goes_too_far)
    monkeypatch.setattr(demo, "BASIS_IMAGES_PER_TASK", 8)
    stream = io.StringIO()
    task = "attributes:shape"
    report = run_demo(tmp_path, tasks=(task,), console=Console(file=stream, width=100))
    (said,) = [line for line in stream.getvalue().splitlines() if "no epoch was better" in line]
    assert said.startswith("Left at their start, since no epoch was better: shape (")
    assert said.endswith("linear).")
    assert caplog.records == []
    methods = report["tasks"][task]["methods"]
    assert methods["linear"]["accuracy"] == methods["zero-shot"]["accuracy"]
    # Others hear of it again.
    logging.getLogger(demo.FITTING).warning("Training diverged")
    assert len(caplog.records) == 1


def test_unknown_tasks_are_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("residual_lens.demo.HookedViT", None)
    with pytest.raises(InputError, match="Unknown tasks attributes:flavour; known are digits"):
        run_demo(tmp_path / "out", tasks=("digits", "attributes:flavour"))
    assert not (tmp_path / "out").exists()
