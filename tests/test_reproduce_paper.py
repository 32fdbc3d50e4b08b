"""All four studies of the paper from one file, run for real on the shipped model with few samples."""

import importlib
import json
import shlex
import sys
from pathlib import Path

import pytest
import tyro

from residual_lens import cli
from residual_lens.errors import InputError
from residual_lens.hooked.loading import PAPER_MODELS
from residual_lens.training.methods import METHODS
from residual_lens.training.runs import RunConfig
from residual_lens.training.runs.sweep import PAPER_DATA

SCRIPTS = Path(__file__).parents[1] / "scripts"
SMALL = """
out = "{0}/out"
stores = "{0}/stores"
device = "cpu"

[intrinsic-dimension]
models = ["attribute-clip"]
data = ["random"]
limit = 40

[head-similarity]
models = ["attribute-clip"]
data = ["random", "digits"]
limit = 40

[unit-selection]
models = ["attribute-clip"]
data = ["digits"]
limit = 40
split = "validation"
seeds = 1

[training]
models = ["attribute-clip"]
data = ["digits"]
methods = ["zero-shot", "residual"]
seeds = [0, 1]
at_once = 2
bases = "random"
bases_limit = 40

[training.options]
limit = 40
epochs = 1
"""


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("reproduce_paper")


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SMALL.format(tmp_path))
    return path


@pytest.fixture
def commands(script, monkeypatch):
    """Commands that were begun, without their interpreter; each ends well."""
    begun = []
    monkeypatch.setattr(script, "status", lambda command: begun.append(command[1:]) or 0)
    return begun


def in_this_process(command):
    """Run a command of a study or of `residual-lens` here, which spares the imports."""
    if command[1] == "-m":
        sys.argv = ["residual-lens", *command[3:]]
        try:
            cli.main()
        except SystemExit as stop:
            return stop.code
    else:
        study = importlib.import_module(Path(command[1]).stem)
        study.main(tyro.cli(study.Config, args=command[2:]))
    return 0


def runs_in_this_process(configs, resources, out, **_):
    from residual_lens.training.runs import run

    for config in configs:
        run(config, out, resources)
    return []


def values(command, option):
    """What a command gives an option."""
    rest = command[command.index(option) + 1 :]
    return rest[: next((place for place, text in enumerate(rest) if text.startswith("--")), len(rest))]


@pytest.mark.slow
def test_all_four_studies_run_on_the_shipped_model_and_a_second_time_compute_nothing(
    script, settings, tmp_path, monkeypatch
):
    monkeypatch.setattr(sys, "argv", ["reproduce_paper.py"])
    monkeypatch.setattr(script, "status", in_this_process)
    monkeypatch.setattr("residual_lens.training.runs.sweep.run_sweep", runs_in_this_process)
    script.main(script.Config(settings))
    out = tmp_path / "out"
    for made in (
        "intrinsic-dimension/figure.png",
        "head-similarity/attribute-clip/similarity.json",
        "unit-selection/attribute-clip.png",
        "training/table.md",
        "training/table.csv",
        "training/table.tex",
    ):
        assert (out / made).stat().st_size > 0, made
    results = [json.loads(path.read_text()) for path in (out / "training" / "runs").glob("*/result.json")]
    assert {(result["method"], result["seed"]) for result in results} == {
        (method, seed) for method in ("zero-shot", "residual") for seed in (0, 1)
    }
    # Dimension and similarity, and the bases of training, are of one store.
    stores = {path.name for path in (tmp_path / "stores").glob("*.h5")}
    assert {name for name in stores if "random" in name} == {"attribute-clip--random--train-40-42.h5"}
    bases = str(tmp_path / "stores" / "attribute-clip--random--train-40-42.h5")
    assert {(result["method"], result["bases"]) for result in results} == {("zero-shot", "own"), ("residual", bases)}
    numbers = {path: path.read_bytes() for path in out.rglob("*") if path.suffix in (".json", ".md", ".csv", ".tex")}
    # Seconds among them, which no second run would repeat.
    script.main(script.Config(settings))
    assert {path: path.read_bytes() for path in numbers} == numbers


def test_the_papers_settings_are_the_default(script, commands):
    script.main(script.Config())
    dimension, *similarity = [
        command for command in commands if command[0] in scripts("intrinsic_dimension", "head_similarity")
    ]
    assert values(dimension, "--models") == list(PAPER_MODELS)
    assert values(dimension, "--limit") == ["80000"]
    assert [values(command, "--model") for command in similarity] == [[model] for model in PAPER_MODELS]
    assert {len(values(command, "--data")) for command in similarity} == {14}
    (selection,) = [command for command in commands if command[0] in scripts("unit_selection")]
    assert values(selection, "--seeds") == ["10"]
    assert values(selection, "--data") == list(PAPER_DATA)
    sweeps = [command for command in commands if command[2] == "sweep"]
    assert [values(command, "--models") for command in sweeps] == [[model] for model in PAPER_MODELS]
    for model, command in zip(PAPER_MODELS, sweeps, strict=True):
        assert values(command, "--data") == list(PAPER_DATA)
        given = {name: values(command, f"--{name}") for name in ("epochs", "patience", "batch-size", "bases")}
        assert given == {
            "epochs": ["30"],
            "patience": ["5"],
            "batch-size": ["64"],
            "bases": [f"studies/stores/{model}--imagenet--train-80000-42.h5"],
        }
    encodes = [command for command in commands if command[2] == "encode"]
    assert [values(command, "--out") for command in encodes] == [values(command, "--bases") for command in sweeps]


def scripts(*names):
    return [str(SCRIPTS / f"{name}.py") for name in names]


def test_every_option_of_the_papers_settings_is_one_that_its_command_has(script, commands, monkeypatch):
    script.main(script.Config(models=("clip-l",)))
    assert len(commands) == 6
    for command in commands[:3]:
        study = importlib.import_module(Path(command[0]).stem)
        assert str(tyro.cli(study.Config, args=command[1:]).stores) == "studies/stores"
    swept: list[RunConfig] = []
    sweep = "residual_lens.training.runs.sweep.run_sweep"
    monkeypatch.setattr(sweep, lambda configs, *_, **__: swept.extend(configs) or [])
    monkeypatch.setattr(sys, "argv", ["residual-lens", *commands[4][2:]])
    cli.main()
    assert len(swept) == 10 * 7 * 3
    # Its own settings are the paper's: what the file repeats changes nothing.
    assert {tuple(config.options) for config in swept if METHODS[config.method].needs_bases} == {("bases",)}
    assert not any(config.options for config in swept if not METHODS[config.method].needs_bases)


def test_a_dry_run_prints_commands_that_a_shell_reads_and_runs_none(script, settings, commands, capsys):
    script.main(script.Config(settings))
    capsys.readouterr()
    begun = list(commands)
    script.main(script.Config(settings, dry_run=True))
    assert commands == begun
    assert [shlex.split(line)[1:] for line in capsys.readouterr().out.splitlines()] == begun
    assert len(begun) == 6


def test_models_and_data_can_be_fewer(script, commands):
    script.main(script.Config(models=("clip-b", "vit-l"), data=("dtd", "svhn")))
    kinds = [Path(command[0]).stem if command[0] != "-m" else command[2] for command in commands]
    assert kinds == ["head_similarity", "head_similarity", "unit_selection", *["encode", "sweep"] * 2, "table"]
    assert values(commands[2], "--models") == ["clip-b"]
    assert values(commands[2], "--data") == ["dtd", "svhn"]


def test_what_fails_does_not_stop_the_others_and_is_named(script, settings, monkeypatch):
    begun = []
    monkeypatch.setattr(script, "status", lambda command: begun.append(command) or int("encode" in command))
    with pytest.raises(SystemExit, match=r"1 of 6 commands failed:\n.* encode --model attribute-clip"):
        script.main(script.Config(settings))
    assert len(begun) == 6


def test_the_status_is_that_of_the_command(script):
    assert script.status([sys.executable, "-S", "-c", "raise SystemExit(3)"]) == 3


@pytest.mark.parametrize(
    ("change", "asked", "message"),
    [
        (("[training", "[trainin"), {}, "trainin: not in .*small.toml, whose sections may be intrinsic-dimension"),
        (("", ""), {"models": ("clip-b",)}, "clip-b: not in"),
        (("stores =", "# stores ="), {}, "lacks the setting 'stores'"),
        (("bases_limit = 40", ""), {}, "lacks the setting 'bases_limit'"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_runs(change, asked, message, script, settings, commands):
    settings.write_text(settings.read_text().replace(*change))
    with pytest.raises(InputError, match=message):
        script.main(script.Config(settings, **asked))
    assert commands == []
