"""Each measure is what the analysis of its own gives, under a key of its own, with words for people."""

from dataclasses import replace

import pytest
import torch

from residual_lens.atlas.effects import ablation_effects
from residual_lens.atlas.learned import LearnedRun
from residual_lens.atlas.measures import all_measures, learned_measure
from residual_lens.bases import fit_bases
from residual_lens.descriptions import describe
from residual_lens.dimensions import unit_dimensions
from residual_lens.interventions import ResiDual
from residual_lens.interventions.adapter import Origin
from residual_lens.selection import unit_scores
from residual_lens.spectral import spectral_cosine
from residual_lens.training.runs import RunConfig
from tests.activations.stores import wrapped
from tests.atlas.labelled import dictionary, labelled, store_of
from tests.atlas.runs import edited, finished, trained

UNITS = ["L0H0", "L0H2", "0_mlp_out", "L2H1"]


@pytest.fixture(scope="module")
def hvit():
    return wrapped("ViT-B-16")


@pytest.fixture(scope="module")
def run(hvit, tmp_path_factory):
    """Of digits, on units without the last one."""
    folder = tmp_path_factory.mktemp("run")
    with store_of(hvit, folder, 12, "digits") as train:
        residual = trained(ResiDual.from_bases(fit_bases(train, units=UNITS[:3])))
    finished(residual, folder / "run", RunConfig("tiny", "digits", "residual"))
    return LearnedRun.load(folder / "run", Origin.of_model(hvit))


@pytest.fixture(scope="module")
def found(hvit, run, tmp_path_factory):
    """Two stores, their tasks, and all measures by key."""
    folder = tmp_path_factory.mktemp("stores")
    with store_of(hvit, folder, 40) as store, store_of(hvit, folder, 25, "digits") as other:
        bases = fit_bases(store, units=UNITS)
        tasks = (labelled(store), replace(labelled(other), name="digits"))
        effects = [ablation_effects(task) for task in tasks]
        descriptions = describe(store, dictionary(20), UNITS, 6, n_null=19)
        measured = all_measures([store, other], bases, tasks, effects, descriptions, run)
        yield store, other, tasks, effects, descriptions, {one.measure.key: one for one in measured}


def test_every_measure_has_a_key_of_its_own_and_says_what_it_is(found):
    *_, by_key = found
    of_tasks = [f"{family}:{place}" for place in (0, 1) for family in ("contrast", "accuracy", "alone", "task")]
    dimensions = ["two_nn", "linear", "ratio", "participation", "first_share"]
    assert list(by_key) == [*of_tasks, "output", "texts", "chance", "cosine:1", *dimensions, "energy"]
    assert len({one.measure.name for one in by_key.values()}) == len(by_key)
    assert {one.measure.group for one in by_key.values()} == {"dimension", "relation", "effect", "training"}
    for one in by_key.values():
        assert len(one.measure.explanation) > 30
        assert set(one.values) >= set(UNITS) or one.measure.key == "energy"
    assert by_key["cosine:1"].measure.name == "Spectral cosine with digits"


def test_dimensions_are_those_of_unit_dimensions(found):
    store, *_, by_key = found
    for one in unit_dimensions(store, UNITS):
        assert by_key["two_nn"].values[one.unit] == one.two_nn
        assert by_key["linear"].values[one.unit] == one.linear
        assert by_key["ratio"].values[one.unit] == one.linear / one.two_nn
        assert by_key["participation"].values[one.unit] == one.participation_ratio
        assert by_key["first_share"].values[one.unit] == one.first_share


def test_relations_are_those_of_unit_scores(found):
    store, _, tasks, _, _, by_key = found
    output = unit_scores(store, "output", UNITS)
    assert by_key["output"].values == dict(zip(output.units, output.values.tolist(), strict=True))
    for place, task in enumerate(tasks):
        for family, how in (("task", "task"), ("alone", "supervised")):
            scores = unit_scores(task.store, how, UNITS, classifier=task.classifier, rows=task.rows)
            assert [by_key[f"{family}:{place}"].values[unit] for unit in scores.units] == scores.values.tolist()


def test_effects_are_those_of_ablation(found):
    *_, effects, _, by_key = found
    for place, of_task in enumerate(effects):
        for at, unit in enumerate(of_task.units):
            lost = float(of_task.accuracy - of_task.accuracies_without[at])
            assert by_key[f"accuracy:{place}"].values[unit] == lost
            assert by_key[f"contrast:{place}"].values[unit] == pytest.approx(
                float(of_task.shares_lost[at]), nan_ok=True
            )


def test_texts_are_passed_on(found):
    *_, descriptions, by_key = found
    assert by_key["texts"].values == {one.unit: one.explained[4] for one in descriptions}
    assert by_key["chance"].values == {one.unit: one.fit.p for one in descriptions}


def test_what_lambda_change_is_of_the_data_of_the_run(hvit, run, found):
    store, other, *_, by_key = found

    def share_by_unit(samples):
        """How much the run's edit moves each sample's contributions about their mean."""
        parts, energy = samples.decompose().values, {}
        for unit in UNITS[:3]:
            before = parts[:, samples.units.names.index(unit)]
            moved = torch.stack([edited(run.residual, hvit, unit, one) - one for one in before]).double()
            energy[unit] = float((moved - moved.mean(dim=0)).square().sum())
        return {unit: value / sum(energy.values()) for unit, value in energy.items()}

    measure, values = by_key["energy"].measure, by_key["energy"].values
    assert values == pytest.approx(share_by_unit(other), rel=1e-4)
    assert values != pytest.approx(share_by_unit(store), rel=1e-2)
    assert "on digits/train" in measure.explanation
    assert "λ = 1 changes nothing" in measure.explanation
    # Without the run's own data, of the first store's.
    plain = learned_measure(run, [store], fit_bases(store, units=UNITS))
    assert plain.values == pytest.approx(share_by_unit(store), rel=1e-4)
    assert "on a/train" in plain.measure.explanation


def test_of_several_stores_of_the_data_the_test_split_counts(run, found, monkeypatch):
    store, other, *_ = found
    assert run.store_of_data([store, other]) is other
    monkeypatch.setattr(store, "provenance", replace(store.provenance, data="digits", split="test"))
    assert run.store_of_data([other, store]) is store
    monkeypatch.setattr(store, "provenance", replace(store.provenance, split="validation"))
    assert run.store_of_data([other, store]) is other


def test_spectral_cosine_is_unit_by_unit(found):
    store, other, *_, by_key = found
    one, two = (fit_bases(each, units=UNITS) for each in (store, other))
    for unit in UNITS:
        (x, xw), (y, yw) = ((each[unit].components.double(), each[unit].variances.double()) for each in (one, two))
        expected = spectral_cosine(x[None], y[None], x_weights=xw[None], y_weights=yw[None])[0]
        assert by_key["cosine:1"].values[unit] == pytest.approx(float(expected))
    assert torch.tensor(list(by_key["cosine:1"].values.values())).max() < 0.999
