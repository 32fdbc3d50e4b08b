"""The study of ground truth: fast ablations are `ablate`'s, known heads are found, and it goes on where it stopped."""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from residual_lens.data.attribute_world import ATTRIBUTES
from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.interventions import ablate
from tests.activations.stores import encoded, image_set, pixels_of, wrapped
from tests.reference.effects import naive_outcome
from tests.tolerances import FLOAT32_TOL, assert_changed, assert_close

UNITS = ["L0H1", "L2H0", "L2H2"]
HEADS = [f"L{layer}H{head}" for layer in range(2) for head in range(4)]
COUNTS = (3, 2)
FEW = ("background", "digit")


@pytest.fixture(autouse=True)
def scripts(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))


@pytest.fixture
def effects(scripts) -> ModuleType:
    import head_effects

    return head_effects


@pytest.fixture
def selectivity(scripts) -> ModuleType:
    import selectivity

    return selectivity


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> dict[str, Any]:
    """A model, two stores of it with their pixels, and words."""
    hvit, folder = wrapped("ViT-B-16"), tmp_path_factory.mktemp("stores")
    size = hvit.cfg.image_size
    sets = {"test": image_set(11, size), "train": image_set(7, size, name="other")}
    stores = {name: encoded(hvit, images, folder / f"{name}.h5") for name, images in sets.items()}
    weights = torch.randn(5, hvit.cfg.d_out, generator=torch.Generator().manual_seed(0))
    return {
        "hvit": hvit,
        "stores": stores,
        "pixels": {name: pixels_of(hvit, images) for name, images in sets.items()},
        "weights": weights,
    }


def by_ablate(tiny: dict[str, Any], how: str, path: str) -> Tensor:
    hvit, pixels = tiny["hvit"], tiny["pixels"]
    with ablate(hvit, UNITS, how, reference=pixels["train"], path=path, seed=3), torch.no_grad():
        return torch.cat([hvit(batch) for batch in pixels["test"].split(4)]) @ tiny["weights"].mT


@pytest.mark.parametrize("how", ["mean", "resample"])
def test_direct_ablations_from_a_store_are_those_of_the_model(how, tiny, effects):
    stores = tiny["stores"]
    direct = effects.DirectAblations(stores["test"], tiny["weights"], how, reference=stores["train"], seed=3)
    # Stores hold 16 bits.
    assert_close(direct.products(UNITS), by_ablate(tiny, how, "direct"), 10 * FLOAT32_TOL)
    with torch.no_grad():
        assert_close(direct.products(()), tiny["hvit"](tiny["pixels"]["test"]) @ tiny["weights"].mT, FLOAT32_TOL)


@pytest.mark.parametrize("how", ["mean", "resample"])
def test_stream_ablations_share_one_pass_over_the_reference(how, tiny, effects):
    pixels = tiny["pixels"]
    arguments = {"reference": pixels["train"], "seed": 3, "batch_size": 4}
    stream = effects.StreamAblations(tiny["hvit"], pixels["test"], tiny["weights"], how, **arguments)
    found = stream.products(UNITS)
    assert_close(found, by_ablate(tiny, how, "stream"), FLOAT32_TOL)
    assert_close(stream.products(UNITS), found, FLOAT32_TOL)
    assert_changed(found, stream.products(()))
    assert tiny["hvit"].hooked_points() == []


def test_outcomes_are_those_of_every_image_alone(effects):
    generator = torch.Generator().manual_seed(0)
    products = torch.randn(20, sum(COUNTS), generator=generator)
    labels = {
        name: torch.randint(-1, count, (20,), generator=generator) for name, count in zip("ab", COUNTS, strict=True)
    }
    questions = effects.Questions(torch.zeros(5, 4), labels, COUNTS)
    expected = naive_outcome(products, COUNTS, list(labels.values()))
    np.testing.assert_allclose(questions.outcome(products), expected, rtol=1e-5, atol=1e-6)
    assert np.isnan(expected).any()


class Known:
    """Heads whose effects are known: attribute `a` lives in L1H0 and, less, in L0H3; `b` in L1H2; L1H1 is noise."""

    def __init__(self, labels: dict[str, Tensor]) -> None:
        n, self.calls = len(labels["a"]), []
        right = [
            torch.nn.functional.one_hot(labels[name], count).float() for name, count in zip("ab", COUNTS, strict=True)
        ]
        nothing = torch.zeros(n, sum(COUNTS))
        self.parts = dict.fromkeys(HEADS, nothing)
        self.parts["L1H0"] = torch.cat([2 * right[0], 0 * right[1]], dim=1)
        self.parts["L0H3"] = torch.cat([1 * right[0], 0 * right[1]], dim=1)
        self.parts["L1H2"] = torch.cat([0 * right[0], right[1]], dim=1)
        self.parts["L1H1"] = 1.5 * torch.randn(n, sum(COUNTS), generator=torch.Generator().manual_seed(1))

    def products(self, units) -> Tensor:
        self.calls.append(tuple(units))
        return sum((part for head, part in self.parts.items() if head not in units), torch.tensor(0.0))


TRUE = {"a": {"L1H0": 0.9, "L0H3": 0.5}, "b": {"L1H2": 0.9}}
WRONG = {"a": {"L1H2": 0.9, "L0H0": 0.3}, "b": {"L0H1": 0.9}}


@pytest.fixture
def known(effects, selectivity) -> tuple[Known, dict[str, Any]]:
    from resampling import resamples

    generator = torch.Generator().manual_seed(0)
    labels = {name: torch.randint(count, (400,), generator=generator) for name, count in zip("ab", COUNTS, strict=True)}
    truth = Known(labels)
    scores = {
        name: {attribute: {head: best.get(head, 0.0) for head in HEADS} for attribute, best in by_attribute.items()}
        for name, by_attribute in {"true": TRUE, "wrong": WRONG}.items()
    }
    outcomes = effects.Outcomes(lambda: truth, lambda: effects.Questions(torch.zeros(5, 4), labels, COUNTS))
    found = selectivity.measured(outcomes, scores, tops=(1, 2), n_random=8, counts=resamples(400, 100, 0), seed=0)
    return truth, json.loads(json.dumps(found))


def test_the_heads_of_an_attribute_take_it_and_nothing_else(known):
    row = known[1]["chosen"]["true"]["2"]["a"]
    assert row["units"] == ["L1H0", "L0H3"]
    contrast = [value for value, *_ in row["drop"]["contrast"]]
    assert contrast[0] == pytest.approx(100, abs=12), "all but the noise"
    assert contrast[1] == pytest.approx(0, abs=1e-4)
    assert row["drop"]["accuracy"][0][0] > 25
    assert row["drop"]["accuracy"][1] == [0, 0, 0]
    assert row["p"][0] < 1e-6
    assert row["p"][1] == 1
    value, low, high = row["selectivity"]["contrast"]
    assert value == pytest.approx(contrast[0] - contrast[1])
    assert low < value < high


def test_a_wrong_choice_is_seen_to_be_one(known):
    wrong = known[1]["means"]["wrong"]["1"]
    assert wrong["selectivity"]["contrast"][0] < 0 < known[1]["means"]["true"]["1"]["selectivity"]["contrast"][1]
    assert known[1]["foretold"]["wrong"]["b"]["contrast"]["p"] > 0.05


def test_drops_are_differences_of_accuracies(known):
    _, found = known
    share = found["before"]["contrast"][0]
    assert found["heads"]["L1H0"]["contrast"][0] == pytest.approx(200 / share, rel=1e-4)
    assert found["heads"]["L0H0"]["accuracy"] == [0, 0]
    assert found["heads"]["L0H0"]["contrast"] == pytest.approx([0, 0], abs=1e-3)


def test_random_draws_are_of_the_layers_that_were_chosen(known, selectivity):
    truth, found = known
    row = found["chosen"]["true"]["1"]["b"]
    assert len(row["random"]["drop"]["accuracy"]) == 8
    # Of layer 1, only L1H2 holds b.
    assert {round(value) for value in row["random"]["drop"]["contrast"]} > {0}
    pairs = {units for units in truth.calls if len(units) == 2}
    chosen = {("L0H0", "L1H2"), ("L0H3", "L1H0"), ("L0H0", "L0H1"), ("L0H0", "L1H2")}
    assert {tuple(sorted(unit[:2] for unit in units)) for units in pairs - chosen} <= {("L0", "L1"), ("L0", "L0")}


def test_a_true_score_foretells_single_heads(known):
    foretold = known[1]["foretold"]["true"]
    assert min(foretold["b"]["contrast"]["rho"]) > 0.3
    assert foretold["mean"]["contrast"]["rho"][0] == pytest.approx(
        np.mean([foretold[name]["contrast"]["rho"][0] for name in "ab"])
    )
    assert known[1]["repeatable"]["a"]["contrast"] > 0.5


def test_every_set_of_heads_is_ablated_once(known):
    assert len(known[0].calls) == len(set(known[0].calls))


def test_ties_go_in_the_order_of_the_model(selectivity):
    assert selectivity.top({"L0H0": 0.1, "L0H1": 0.3, "L0H2": 0.3}, 2) == ("L0H1", "L0H2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture
def study(scripts, monkeypatch) -> ModuleType:
    """The script with few attributes, figures that are not drawn, and in the stream what costs nothing."""
    import ground_truth
    import scene_world
    import selectivity as analysis

    monkeypatch.setattr(scene_world, "ATTRIBUTES", {name: ATTRIBUTES[name] for name in FEW})
    monkeypatch.setattr(ground_truth, "WAYS", ("mean",))
    monkeypatch.setattr(analysis, "N_PERMUTATIONS", 20)
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)
    monkeypatch.setattr(ground_truth, "StreamAblations", Cheap)
    Cheap.calls.clear()
    return ground_truth


class Cheap:
    """Random products for every set of heads."""

    calls: ClassVar[list[tuple[str, ...]]] = []
    stop_at: ClassVar[int | None] = None

    def __init__(self, hvit, pixels, weights, how, **_) -> None:
        self.shape = len(pixels), len(weights)

    def products(self, units) -> Tensor:
        if Cheap.stop_at is not None and len(Cheap.calls) >= Cheap.stop_at:
            raise KeyboardInterrupt
        Cheap.calls.append(tuple(units))
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(len("".join(units))))


def config(study: ModuleType, folder: Path, **changes):
    few = {"n_train": 110, "n_test": 120, "n_stream": 100, "tops": (1,), "shown": 1, "n_random": 2}
    paths = {"out": folder / "out", "stores": folder / "stores", "device": "cpu", "n_resamples": 20}
    return study.Config(**{**few, **paths, **changes})


def test_the_study_goes_on_where_it_stopped_and_then_computes_nothing(study, folder, monkeypatch, capsys):
    with monkeypatch.context() as interrupted:
        interrupted.setattr(Cheap, "stop_at", 5)
        with pytest.raises(KeyboardInterrupt):
            study.main(config(study, folder))
    first = list(Cheap.calls)
    assert len(first) == 5
    study.main(config(study, folder))
    assert len(Cheap.calls) == len(set(Cheap.calls)), "nothing that was done before is done again"
    assert {()} | {(f"L{layer}H{head}",) for layer in range(6) for head in range(6)} == set(Cheap.calls)
    printed, before = capsys.readouterr().out, (folder / "out" / "ground_truth.json").read_bytes()
    results = json.loads(before)["results"]
    assert list(results) == ["scores", "direct, mean", "stream, mean"]
    assert {path.name for path in (folder / "out").glob("*.png")} == {
        f"{name}.png" for name in ("effects", "contrasts", "selectivity", "foretold")
    }
    assert set(results["scores"]) == set(study.SCORES)
    assert all(list(by_attribute) == list(FEW) for by_attribute in results["scores"].values())
    # The one head that holds most of an attribute is found by every score that knows the attribute.
    for how in set(study.SCORES) - {"output"}:
        of_background = results["scores"][how]["background"]
        assert max(of_background, key=of_background.__getitem__) == "L5H2"
    assert sum(line.startswith("| direct, mean | ") for line in printed.splitlines()) == 2 * len(study.SCORES)
    assert sum(line.startswith("| concepts | ") for line in printed.splitlines()) == 1

    calls = len(Cheap.calls)
    with monkeypatch.context() as finished:
        finished.setattr(HookedViT, "from_pretrained", lambda *_, **__: pytest.fail("the model is not needed"))
        study.main(config(study, folder))
    assert len(Cheap.calls) == calls
    assert (folder / "out" / "ground_truth.json").read_bytes() == before
    assert capsys.readouterr().out == printed


def test_outcomes_of_other_scenes_are_not_read(study, folder):
    ours = config(study, folder)
    changed = {"n_train": 111, "n_test": 121, "n_stream": 101, "glyph_share": 0.5, "seed": 1, "model": "other"}
    others = {replace(ours, **{name: value}).outcomes() for name, value in changed.items()}
    assert len(others - {ours.outcomes()}) == len(changed)


def test_scores_are_made_on_training_scenes_and_effects_on_others(study, folder):
    ours = study.Study(config(study, folder))
    assert not torch.equal(ours.train.scenes.tint[:100], ours.test.scenes.tint[:100])
    assert torch.equal(ours.streamed.scenes.tint, ours.test.scenes.tint[:100])
    other = study.Study(replace(ours.config, seed=1))
    assert not torch.equal(ours.test.scenes.tint, other.test.scenes.tint)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_train": 99}, "--n-train 99"),
        ({"n_stream": 121}, "at most those of the test"),
        ({"tops": ()}, "Heads start at 1"),
        ({"shown": 2}, "--shown is one of --tops"),
        ({"tops": (0, 1), "shown": 1}, "Heads start at 1"),
        ({"n_random": 1}, "Draws start at 2"),
    ],
)
def test_what_makes_no_study_is_refused_before_anything_is_done(changes, message, study, tmp_path):
    with pytest.raises(InputError, match=message):
        study.main(config(study, tmp_path, **changes))
    assert not (tmp_path / "out").exists()
