"""The study of unit selection: choices, numbers that are the twin's, going on after an interruption, refusals."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import tyro
from matplotlib.figure import Figure

from residual_lens import HookedViT, Store, zero_shot_classifier
from residual_lens.data.attribute_world import ATTRIBUTES
from residual_lens.data.attribute_world.captions import TEMPLATES
from residual_lens.errors import InputError
from residual_lens.selection import unit_scores
from residual_lens.spectral import somp
from residual_lens.text import Dictionary
from residual_lens.units import Units
from tests.reference.subsets import naive_subset_accuracies

LIMIT, SEEDS = 24, 2


@pytest.fixture(scope="module")
def script() -> ModuleType:
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
        import unit_selection

        yield unit_selection


@pytest.fixture(autouse=True, scope="module")
def surroundings(tmp_path_factory) -> Iterator[None]:
    """Dictionaries are kept in another home, and figures are not drawn: that takes longer than all else here."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HOME", str(tmp_path_factory.getbasetemp()))
        patched.setattr(Figure, "savefig", lambda *_, **__: None)
        yield


def config(script: ModuleType, folder: Path, **arguments):
    settings = {"data": ("digits",), "limit": LIMIT, "seeds": SEEDS, "stores": folder / "stores", "device": "cpu"}
    return script.Config(**(settings | {"out": folder / "out"} | arguments))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where one run of the study was."""
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def finished(script, folder) -> Path:
    script.main(config(script, folder))
    return folder / "out"


def results(out: Path) -> dict:
    return json.loads((out / "attribute-clip--digits.json").read_text(encoding="utf-8"))["results"]


@pytest.fixture(scope="module")
def opened(finished, folder):
    """Training and test store of the digits, classifier and dictionary."""
    hvit = HookedViT.from_pretrained("attribute-clip")
    classifier = zero_shot_classifier(hvit.encode_text, ATTRIBUTES["digit"], templates=TEMPLATES["digit"])
    names = (folder / "stores" / f"attribute-clip--digits--{split}-{LIMIT}-42.h5" for split in ("train", "test"))
    with Store(next(names)) as train, Store(next(names)) as test:
        yield train, test, classifier, Dictionary.of_attributes(hvit, cache=None)


def test_files_and_settings(finished):
    names = {f"attribute-clip{name}.{suffix}" for name in ("", "--layers") for suffix in ("png", "pdf")}
    assert {path.name for path in finished.iterdir()} == {*names, "attribute-clip--digits.json"}
    settings = json.loads((finished / "attribute-clip--digits.json").read_text(encoding="utf-8"))["settings"]
    asked = {"model": "attribute-clip", "data": "digits", "split": "train", "test_split": "test", "limit": LIMIT}
    assert settings == asked | {"seed": 42, "templates": [], "dictionary": None, "seeds": SEEDS}
    assert results(finished)["about"]["classes"] == list(ATTRIBUTES["digit"])


def test_the_mean_of_the_training_split_is_taken_off_all_units(script, finished, opened):
    train, test, classifier, _ = opened
    moved = test.embeddings().double() - train.embeddings().double().mean(dim=0)
    assert results(finished)["centred"] == round(classifier.accuracy(moved, test.labels) * len(test))
    # A mean that points far away from one class: without it every image is of that class.
    far = SimpleNamespace(embeddings=lambda: -100 * classifier.weights[3].expand(2, -1))
    assert script.correct_less_mean(test, classifier, far) == int((test.labels == 3).sum()) > 0


@pytest.mark.parametrize("how", ["zero", "mean"])
def test_correct_answers_are_those_of_the_twin(how, finished, opened):
    train, test, classifier, _ = opened
    found = results(finished)
    heads = {f"{order}, {n}": list(found[order])[:n] for order in ("task", "random 1") for n in (1, 4, 36)}
    rest = [unit.name for unit in test.units if unit.kind in ("embed", "mlp", "bias")]
    subsets = heads | {f"{name}, others": [*kept, *rest] for name, kept in heads.items()}
    subsets |= {"all": list(test.units.names), "others": rest}
    reference = train if how == "mean" else None
    expected = naive_subset_accuracies(test, classifier, test.labels, list(subsets.values()), reference)
    assert {name: found[how][name] / len(test) for name in subsets} == dict(zip(subsets, expected, strict=True))
    assert len(set(expected)) > 5


def test_rankings_are_those_of_the_training_split(finished, opened):
    train, _, classifier, _ = opened
    found = results(finished)
    for how in ("supervised", "concepts"):
        scores = unit_scores(train, how, classifier=classifier, concepts=classifier.weights)
        assert tuple(found[how]) == scores.ranking()
        assert list(found[how].values()) == sorted(scores.values.tolist(), reverse=True)
    assert len({tuple(found[how]) for how in ("supervised", "task", "output", "concepts")}) == 4
    assert tuple(found["random 1"]) == unit_scores(train, "random", seed=1).ranking()


def test_the_best_tenth_is_described_by_somp_together_and_head_by_head(finished, opened):
    train, _, _, dictionary = opened
    found = results(finished)
    kept = list(found["supervised"])[:4]
    described = found["described"]["supervised"]
    assert list(described["heads"]) == kept
    together = somp(train.decompose(units=kept).values.sum(dim=1), dictionary.embeddings, 5)
    alone = somp(train.decompose(units=kept[1]).values[:, 0], dictionary.embeddings, 5)
    for texts, expected in ((described["together"], together), (described["heads"][kept[1]], alone)):
        assert list(texts) == [dictionary.texts[atom] for atom in expected.indices.tolist()]
        assert list(texts.values()) == pytest.approx(expected.explained_variance.tolist(), rel=1e-4)


def test_tables_show_every_data_set_and_score_and_averages(script, finished, capsys):
    found, other = results(finished), results(finished)
    other["mean"]["output, 4"] = found["mean"]["output, 4"] + 6
    script.print_tables("tiny", {"digits": found, "others": other})
    lines = capsys.readouterr().out.splitlines()
    accuracies = [f"{100 * found['zero'][f'task, {n}'] / LIMIT:.1f}" for n in (1, 2, 4, 9, 18, 27, 36)]
    assert f"| digits | task | {' | '.join(accuracies)} |" in lines
    cells = [f"{100 * hits / LIMIT:.1f}" for hits in (found["zero"]["all"], found["centred"])]
    cells += [
        " / ".join(f"{100 * found[how][name] / LIMIT:.1f}" for how in ("zero", "mean"))
        for name in ("task, 36", "others", "MLPs")
    ]
    assert f"| digits | {LIMIT} | {' | '.join(cells)} |" in lines
    assert sum(line.startswith("| others | ") for line in lines) == 2 * 5 + 1 + 4
    averages = [line for line in lines if line.startswith("| average | output | ")]
    assert averages[1].split(" | ")[4] == f"{100 * (found['mean']['output, 4'] + 3) / LIMIT:.1f}"


def test_a_finished_study_loads_no_model_and_computes_nothing(script, finished, folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in finished.glob("*.json")}
    for name in ("unit_scores", "subset_predictions", "somp"):
        monkeypatch.setattr(script, name, lambda *_, **__: pytest.fail("computed again"))
    monkeypatch.setattr(HookedViT, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    (finished / "attribute-clip.png").unlink()
    script.main(config(script, folder))
    assert (finished / "attribute-clip.png").exists()
    assert {path.name: path.read_bytes() for path in finished.glob("*.json")} == before


def test_a_run_that_was_stopped_goes_on_where_it_was(script, finished, folder, tmp_path, monkeypatch):
    again, found = config(script, folder, out=tmp_path / "out"), results(finished)
    calls = []
    # What was found before, so that this takes no time.
    answers = {
        "scored": lambda _, order, __: found[order],
        "correct": lambda *arguments: found[arguments[3]],
        "described": lambda _, ranking, __: next(
            found["described"][score] for score in script.SCORES if list(found[score]) == ranking
        ),
    }

    def stopping_at(call: int) -> None:
        calls.clear()
        for name, answer in answers.items():

            def counted(*arguments, name=name, answer=answer):
                if len(calls) == call:
                    raise KeyboardInterrupt
                calls.append(name)
                return answer(*arguments)

            monkeypatch.setattr(script, name, counted)

    # After 4 + SEEDS rankings and one of two ways to drop units.
    stopping_at(4 + SEEDS + 1)
    with pytest.raises(KeyboardInterrupt):
        script.main(again)
    stopping_at(100)
    script.main(again)
    assert calls == ["correct", *["described"] * 4]
    assert results(tmp_path / "out") == found


@pytest.mark.parametrize(
    "change", [{"limit": 30}, {"seeds": 3}, {"test_split": "validation"}, {"dictionary": "words:9"}]
)
def test_other_settings_in_the_same_folder_are_refused(change, script, finished, folder, monkeypatch):
    monkeypatch.setattr(HookedViT, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(InputError, match=rf"other settings: {next(iter(change))} was .*Give another --out"):
        script.main(config(script, folder, **change))


def test_data_without_classes_are_refused_before_anything_is_encoded(script, tmp_path):
    with pytest.raises(InputError, match="attributes: no classes, which zero-shot classification needs"):
        script.main(config(script, tmp_path, data=("digits", "attributes")))
    assert not (tmp_path / "stores").exists()


@pytest.mark.parametrize("arguments", [{"data": ()}, {"models": ("a", "a")}])
def test_lists_that_make_no_study_are_refused(arguments, script, tmp_path):
    with pytest.raises(InputError, match="each once"):
        script.main(config(script, tmp_path, **arguments))


def test_choices_are_what_they_are_called(script):
    units = Units.of_vit(n_layers=3, n_heads=2)
    kept = script.choices(units, {"task": ["L2H1", "L0H0", "L1H0", "L1H1", "L0H1", "L2H0"]})
    assert kept["all"] == list(units.names)
    assert kept["MLPs"] == ["0_mlp_out", "1_mlp_out", "2_mlp_out"]
    assert set(kept["others"]) == {"embed", "bias", *kept["MLPs"]}
    assert kept["task, 2"] == ["L2H1", "L0H0"]
    assert set(kept["task, 2, others"]) == {*kept["task, 2"], *kept["others"]}
    assert set(kept["task, 6, others"]) == set(units.names)
    assert kept["heads of a layer, 1"] == ["L1H0", "L1H1"]
    assert kept["all of a layer, 1"] == ["L1H0", "L1H1", "1_mlp_out"]
    assert kept["heads up to it, 1"] == ["L0H0", "L0H1", "L1H0", "L1H1"]
    assert set(kept["all up to it, 1"]) == {"embed", "bias", *kept["heads up to it, 1"], "0_mlp_out", "1_mlp_out"}
    assert set(kept["all up to it, 2"]) == set(units.names)
    without = Units.of_vit(n_layers=1, n_heads=1, bias=False)
    assert set(script.choices(without, {})["all up to it, 0"]) == set(without.names)


@pytest.mark.parametrize(
    ("n_heads", "expected"),
    [(36, [1, 2, 4, 9, 18, 27, 36]), (144, [1, 2, 8, 15, 36, 72, 108, 144]), (1, [1])],
)
def test_shares_of_heads_are_rounded_up(n_heads, expected, script):
    assert list(script.sizes(n_heads)) == expected


def test_prompts_suit_the_data_unless_others_are_given(script):
    assert (
        script.templates_of("digits", ()) == script.templates_of("attributes:digit@clutter", ()) == TEMPLATES["digit"]
    )
    assert script.templates_of("attributes:shape", ()) == TEMPLATES["shape"]
    assert script.templates_of("cifar10", ()) == ("a photo of a {}.",)
    assert script.templates_of("digits", ("a {}", "the {}")) == ("a {}", "the {}")
    assert len(script.templates_of("digits", ("imagenet",))) == 80


def test_bands_are_wilsons_intervals_and_percentiles_of_seeds(script):
    import unit_selection_report

    # With z = 1.96: (p + z²/2n ± z sqrt(p (1 − p) / n + z²/4n²)) / (1 + z²/n), for p = 1/2 and 1, n = 10.
    band = unit_selection_report.with_interval([5, 10], 10)
    assert band.accuracy == [0.5, 1.0]
    assert band.low == pytest.approx([0.2366, 0.7225], abs=1e-4)
    assert band.high == pytest.approx([0.7634, 1.0], abs=1e-4)
    seeds = unit_selection_report.over_seeds([[value / 100, 0.5] for value in range(101)])
    assert seeds.accuracy == pytest.approx([0.5, 0.5])
    assert (seeds.low, seeds.high) == (pytest.approx([0.05, 0.5]), pytest.approx([0.95, 0.5]))


def test_help_names_every_option(script, capsys):
    with pytest.raises(SystemExit, match="0"):
        tyro.cli(script.Config, args=["--help"])
    printed = capsys.readouterr().out
    options = ["--models", "--data", "--templates", "--dictionary", "--seeds", "--test-split", "--stores", "--out"]
    assert [option for option in options if option not in printed] == []
