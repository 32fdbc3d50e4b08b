"""The studies' scripts: files and tables, going on after an interruption, nothing done twice, mix-ups refused."""

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
import tyro
from matplotlib.figure import Figure
from PIL import Image

from residual_lens.bases import Bases
from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from tests.activations.stores import wrapped
from tests.reference.similarity import naive_spectral_cosine

DATA = ("digits", "random")
LIMIT = 40
MEASURED = ("linear", "two_nn", "two_nn_error")
WORK = {"dimension": ("unit_dimensions",), "similarity": ("fit_bases", "compared")}
"""What takes time in a script."""


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """Models as they are loaded, tiny ones."""
    seen = []

    def load(name: str, *, device: str) -> HookedViT:
        seen.append(name)
        return wrapped("ViT-B-16", model_name=name).to(device)

    monkeypatch.setattr(HookedViT, "from_pretrained", load)
    return seen


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """A folder of stores that is filled as tests ask for them."""
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(autouse=True)
def stores(shared, tmp_path) -> None:
    (tmp_path / "stores").symlink_to(shared)


@pytest.fixture
def real_figures() -> None:
    """For tests that want them drawn."""


@pytest.fixture(autouse=True)
def figures(request, monkeypatch) -> None:
    """Drawing takes longer than all else here."""
    if "real_figures" not in request.fixturenames:
        monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)


@pytest.fixture
def scripts(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))


@pytest.fixture
def dimension(scripts, loads) -> ModuleType:
    import intrinsic_dimension

    return intrinsic_dimension


@pytest.fixture
def similarity(scripts, loads) -> ModuleType:
    import head_similarity

    return head_similarity


def config(script: ModuleType, folder: Path, **arguments):
    settings = {"data": DATA, "limit": LIMIT, "stores": folder / "stores", "batch_size": 16, "device": "cpu"}
    return script.Config(**(settings | {"out": folder / "out"} | arguments))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def contents(folder: Path) -> dict[str, bytes]:
    """Everything but the figures, which say when they were made."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".json", ".h5")}


def assert_figures(folder: Path) -> None:
    with Image.open(folder / "figure.png") as image:
        assert image.width > 800
    assert (folder / "figure.pdf").read_bytes().startswith(b"%PDF")


def spied(monkeypatch, script: ModuleType, name: str, *, stop_at: int | None = None) -> list[tuple]:
    """Calls of a function of a script; from one on they are interrupted."""
    calls = []
    function = getattr(script, name)

    def call(*arguments, **named):
        if stop_at is not None and len(calls) >= stop_at:
            raise KeyboardInterrupt
        calls.append((arguments, named))
        return function(*arguments, **named)

    monkeypatch.setattr(script, name, call)
    return calls


@pytest.mark.usefixtures("real_figures")
def test_dimensions_of_models_and_data_become_files_and_a_table(dimension, loads, tmp_path, capsys):
    dimension.main(config(dimension, tmp_path, models=("one", "other"), stores=tmp_path / "new"))
    names = {f"{model}--{data}" for model in ("one", "other") for data in DATA}
    assert names_in(tmp_path / "out") == {*(f"{name}.json" for name in names), "figure.png", "figure.pdf"}
    assert names_in(tmp_path / "new") == {f"{name}--train-40-42.h5" for name in names}
    assert loads == ["one", "other"]
    assert_figures(tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "one--random.json").read_text(encoding="utf-8"))
    expected = {"model": "one", "data": "random", "share": 0.99, "split": "train", "limit": LIMIT, "seed": 42}
    assert kept["settings"] == expected
    head = kept["results"]["L2"][1]
    assert (head["unit"], head["n_samples"]) == ("L2H1", LIMIT)
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert table[0] == "| data | samples | layer 0 | layer 1 | layer 2 |"
    linear, two_nn, error = (sum(each[key] for each in kept["results"]["L0"]) / 3 for key in MEASURED)
    assert table[3].startswith(f"| random | 40 | {linear:.1f} / {two_nn:.1f} ± {error:.1f} | ")


@pytest.mark.usefixtures("real_figures")
def test_similarities_of_data_become_files_and_a_table(similarity, loads, tmp_path, capsys):
    similarity.main(config(similarity, tmp_path))
    bases = {
        f"attribute-clip--{data}{half}.bases.h5" for data in DATA for half in ("", "--first--half", "--second--half")
    }
    assert names_in(tmp_path / "out") == {*bases, "similarity.json", "figure.png", "figure.pdf"}
    assert loads == ["attribute-clip"]
    assert_figures(tmp_path / "out")
    results = json.loads((tmp_path / "out" / "similarity.json").read_text(encoding="utf-8"))["results"]
    assert list(results) == ["digits: halves", "random: halves", "digits | random", "digits | random: floor"]
    one, other = (Bases.load(tmp_path / "out" / f"attribute-clip--{data}.bases.h5") for data in DATA)
    for name, found in results["digits | random"].items():
        x, y = one[name], other[name]
        expected = naive_spectral_cosine(x.components, y.components, x.variances, y.variances)
        assert found == pytest.approx(expected, rel=1e-6)
    means = {name: sum(by_head.values()) / len(by_head) for name, by_head in results.items()}
    assert means["digits | random: floor"] < means["digits | random"] < means["digits: halves"] < 1
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert table[0] == "| | digits | random |"
    assert table[2] == f"| digits | {means['digits: halves']:.2f} | {means['digits | random']:.2f} |"
    assert table[3] == f"| random | {means['digits | random: floor']:.2f} | {means['random: halves']:.2f} |"


def test_halves_share_no_sample_and_leave_none_out(similarity, tmp_path, monkeypatch):
    fits = spied(monkeypatch, similarity, "fit_bases")
    similarity.main(config(similarity, tmp_path))
    rows = [named["rows"] for _, named in fits]
    for first, second in ((rows[0], rows[1]), (rows[2], rows[3])):
        assert torch.cat([first, second]).sort().values.tolist() == list(range(LIMIT))
        # Classes of `random` take turns, so that every other sample would be half of the classes.
        assert len(set((first % 2).tolist())) == 2
    assert rows[4:] == [None, None]


def test_directions_turned_at_random_stay_within_what_a_head_writes(similarity, tmp_path, monkeypatch):
    similarity.main(config(similarity, tmp_path))
    one, other = (Bases.load(tmp_path / "out" / f"attribute-clip--{data}.bases.h5") for data in DATA)
    compared = spied(monkeypatch, similarity, "compared")
    similarity.floor(one, other, 42)
    (_, turned), _ = compared[0]
    for name, basis in turned.items():
        before, after = (b.components.double() for b in (other[name], basis))
        torch.testing.assert_close(after.mT @ after, before.mT @ before, rtol=0, atol=1e-5)
        assert (after - before).norm() > 1


@pytest.mark.parametrize("study", ["dimension", "similarity"])
def test_a_finished_study_computes_nothing_and_loads_no_model(study, request, tmp_path, loads, monkeypatch, capsys):
    script = request.getfixturevalue(study)
    script.main(config(script, tmp_path))
    printed, before = capsys.readouterr().out, contents(tmp_path / "out")
    (tmp_path / "out" / "figure.png").unlink()
    loads.clear()
    calls = [spied(monkeypatch, script, name) for name in WORK[study]]
    script.main(config(script, tmp_path))
    assert loads == []
    assert not any(calls)
    assert contents(tmp_path / "out") == before
    assert capsys.readouterr().out == printed
    assert (tmp_path / "out" / "figure.png").exists()


@pytest.mark.parametrize(("study", "work"), [(study, name) for study, names in WORK.items() for name in names])
def test_a_study_that_was_interrupted_goes_on_and_ends_the_same(study, work, request, tmp_path, monkeypatch):
    script = request.getfixturevalue(study)
    with monkeypatch.context() as undisturbed:
        calls = spied(undisturbed, script, work)
        script.main(config(script, tmp_path, out=tmp_path / "whole"))
        total = len(calls)
    done = total - 2
    with monkeypatch.context() as interrupted:
        spied(interrupted, script, work, stop_at=done)
        with pytest.raises(KeyboardInterrupt):
            script.main(config(script, tmp_path, out=tmp_path / "parts"))
    calls = spied(monkeypatch, script, work)
    script.main(config(script, tmp_path, out=tmp_path / "parts"))
    assert len(calls) == total - done
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_one_layer_that_is_missing_is_all_that_is_measured(dimension, tmp_path, monkeypatch):
    dimension.main(config(dimension, tmp_path))
    path = tmp_path / "out" / "attribute-clip--random.json"
    kept = json.loads(path.read_text(encoding="utf-8"))
    layer = kept["results"].pop("L1")
    path.write_text(json.dumps(kept), encoding="utf-8")
    calls = spied(monkeypatch, dimension, "unit_dimensions")
    dimension.main(config(dimension, tmp_path))
    assert [units for (_, units), _ in calls] == [["L1H0", "L1H1", "L1H2"]]
    assert json.loads(path.read_text(encoding="utf-8"))["results"]["L1"] == layer


def test_data_sets_that_are_added_leave_the_others_as_they_are(similarity, tmp_path, monkeypatch):
    similarity.main(config(similarity, tmp_path))
    calls = spied(monkeypatch, similarity, "fit_bases")
    similarity.main(config(similarity, tmp_path, data=("random", "attributes", "digits")))
    assert len(calls) == 3


def test_studies_share_stores(dimension, similarity, tmp_path, loads):
    dimension.main(config(dimension, tmp_path, out=tmp_path / "a", stores=tmp_path / "new"))
    before = contents(tmp_path / "new")
    similarity.main(config(similarity, tmp_path, out=tmp_path / "b", stores=tmp_path / "new"))
    assert contents(tmp_path / "new") == before


@pytest.mark.parametrize("study", ["dimension", "similarity"])
@pytest.mark.parametrize("change", [{"limit": 30}, {"seed": 1}, {"split": "test"}])
def test_other_settings_in_the_same_folder_are_refused_at_once(study, change, request, tmp_path, loads, monkeypatch):
    script = request.getfixturevalue(study)
    with monkeypatch.context() as interrupted:
        interrupted.setattr(script.Stores, "open", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            script.main(config(script, tmp_path))
    ((name, value),) = change.items()
    with pytest.raises(InputError, match=f"other settings: {name} was .*, is {value!r}. Give another --out"):
        script.main(config(script, tmp_path, **change))
    assert loads == []


def test_data_that_are_not_there_are_refused_before_anything_is_encoded(dimension, tmp_path):
    with pytest.raises(InputError, match="got data set 'nowhere'"):
        dimension.main(config(dimension, tmp_path, data=("random", "nowhere"), stores=tmp_path / "new"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("study", "arguments", "message"),
    [
        ("dimension", {"data": ()}, "--data takes at least 1, each once; got none"),
        ("dimension", {"models": ("a", "a")}, "--models takes at least 1, each once; got a, a"),
        ("similarity", {"data": ("digits",)}, "--data takes at least 2, each once; got digits"),
        ("similarity", {"data": ("digits", "digits")}, "each once"),
    ],
)
def test_lists_that_make_no_study_are_refused(study, arguments, message, request, tmp_path):
    script = request.getfixturevalue(study)
    with pytest.raises(InputError, match=message):
        script.main(config(script, tmp_path, **arguments))
    assert not (tmp_path / "out").exists()


def test_a_limit_is_at_most(dimension, tmp_path):
    dimension.main(config(dimension, tmp_path, data=("digits",), split="test", limit=200))
    kept = json.loads((tmp_path / "out" / "attribute-clip--digits.json").read_text(encoding="utf-8"))
    assert kept["results"]["L0"][0]["n_samples"] == 180


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"settings": {}'])
def test_files_that_no_study_wrote_are_refused(text, similarity, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "similarity.json").write_text(text)
    with pytest.raises(InputError, match=r"similarity\.json is not what a study wrote"):
        similarity.main(config(similarity, tmp_path))


@pytest.mark.parametrize("study", ["dimension", "similarity"])
def test_help_names_every_option(study, request, capsys):
    script = request.getfixturevalue(study)
    with pytest.raises(SystemExit, match="0"):
        tyro.cli(script.Config, args=["--help"])
    printed = capsys.readouterr().out
    options = ["--data", "--split", "--limit", "--seed", "--root", "--stores", "--out", "--device", "--batch-size"]
    assert [option for option in options if option not in printed] == []
