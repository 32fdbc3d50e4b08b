"""What λ does is measured as it is: accuracies and energies are the twins', texts are those that were planted."""

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from residual_lens.decomposition import Decomposition
from residual_lens.errors import InputError, MismatchError
from residual_lens.explain import explain
from residual_lens.explain.energies import energies, variances
from residual_lens.explain.pruning import doubling, fewest, pruned_accuracies
from residual_lens.explain.saying import UnitEdit, labels_of_unit, texts_along
from residual_lens.interventions import ResiDual
from residual_lens.text import Dictionary
from residual_lens.training import CachedSamples, cache_samples
from residual_lens.training.cached import coordinates
from residual_lens.units import Unit, Units
from tests.interventions.tiny_bases import bases_for, cut, scales_by_unit
from tests.reference.explanation import naive_embeddings, naive_energy, naive_pruned_accuracy
from tests.tolerances import FLOAT32_AGAINST_FLOAT64_TOL, assert_close
from tests.training.toy import toy_classifier, toy_split

FORMS = (("residual", False), ("residual", True), ("residual*", False), ("residual*", True))
N_SAMPLES = 20


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dictionary(d_out: int, n: int = 30) -> Dictionary:
    return Dictionary(tuple(f"text {place}" for place in range(n)), normalize(draw(n, d_out, seed=9), dim=1))


@pytest.fixture
def samples(hvit) -> CachedSamples:
    return cache_samples(hvit, *toy_split(hvit, N_SAMPLES, seed=1))


@pytest.fixture
def bases(hvit):
    """Of three units, with few components: the twin goes through them one by one."""
    return cut(bases_for(hvit, units=("L0H1", "L2H0", "1_mlp_out")), {"1_mlp_out": 4})


def trained(bases, variant: str = "residual", keep_mean: bool = False) -> ResiDual:
    """λ far from 1, in both directions, as if trained."""
    if variant == "residual*":
        return ResiDual.from_bases(bases, variant=variant, explained_variance=0.8, keep_mean=keep_mean, seed=3)
    residual = ResiDual.from_bases(bases, variant=variant, keep_mean=keep_mean, seed=3)
    residual.scales.data.mul_(2)
    return residual


def components_of(residual: ResiDual) -> list[tuple[str, int]]:
    config = residual.config
    return [(unit, place) for unit, n in zip(config.units, config.counts, strict=True) for place in range(n)]


@pytest.mark.parametrize(("variant", "keep_mean"), FORMS)
def test_pruned_accuracies_are_those_of_the_twin(hvit, samples, bases, variant, keep_mean):
    residual, classifier = trained(bases, variant, keep_mean), toy_classifier(hvit)
    components, cached = components_of(residual), coordinates(residual, samples)
    order = torch.randperm(len(components), generator=torch.Generator().manual_seed(5))
    kept = doubling(len(components))
    found = pruned_accuracies(cached, residual.scales.detach()[cached.index], classifier.weights, order, kept)
    expected = [
        naive_pruned_accuracy(
            samples.decomposition.values,
            samples.labels,
            hvit.units.names,
            bases,
            scales_by_unit(residual),
            classifier,
            [components[place] for place in order[:k]],
            variant=variant,
            keep_mean=keep_mean,
        )
        for k in kept
    ]
    assert found.tolist() == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize(("variant", "keep_mean"), FORMS)
def test_energies_are_those_of_the_twin_and_add_up_to_one(hvit, samples, bases, variant, keep_mean):
    residual = trained(bases, variant, keep_mean)
    found = explain(residual, samples, toy_classifier(hvit), dictionary(hvit.cfg.d_out), data="toy", n_components=99)
    components = components_of(residual)
    values, learned = samples.decomposition.values, scales_by_unit(residual)
    ones = {unit: [1.0] * len(scales) for unit, scales in learned.items()}
    described = {(one.unit, one.component): one for one in found.components}
    assert set(described) == set(components)
    for scales, when in ((ones, "before"), (learned, "after")):
        embeddings = naive_embeddings(values, hvit.units.names, bases, scales, variant=variant, keep_mean=keep_mean)
        terms = [(one, [component for component in components if component[0] == one.unit]) for one in found.units]
        terms += [(described[components[place]], [components[place]]) for place in (0, -1)]
        for one, term in terms:
            energy = getattr(one, when)
            expected = naive_energy(values, embeddings, hvit.units.names, bases, scales, term)
            assert_close(torch.tensor([energy.own, energy.cross]), torch.tensor(expected), FLOAT32_AGAINST_FLOAT64_TOL)
        rest = getattr(found, f"rest_{when}")
        assert rest.total + sum(getattr(one, when).total for one in found.units) == pytest.approx(1)
        assert (abs(rest.own) < 1e-9) == (variant == "residual*" and not keep_mean)


def test_the_change_is_that_of_energy_and_factors_are_those_of_size(hvit, samples, bases):
    residual = trained(bases)
    found = explain(residual, samples, toy_classifier(hvit), dictionary(hvit.cfg.d_out), data="toy", n_components=5)
    expected = {}
    for unit, scales in scales_by_unit(residual).items():
        basis = bases[unit]
        y = (samples.decomposition[unit] - basis.mean).double() @ basis.components[: len(scales)].double().mT
        factors = torch.tensor(scales).double()
        one = next(one for one in found.units if one.unit == unit)
        assert one.scales == pytest.approx(scales)
        assert one.factor == pytest.approx(float(((y * factors).square().mean() / y.square().mean()).sqrt()), rel=1e-5)
        spread = (y - y.mean(dim=0)).square().mean(dim=0)
        expected |= {(unit, k): float((factors[k] - 1) ** 2 * spread[k]) for k in range(len(scales))}
    total = sum(expected.values())
    ranked = sorted(expected, key=lambda component: -expected[component])
    assert [(one.unit, one.component) for one in found.components] == ranked[:5]
    assert [one.change for one in found.components] == pytest.approx(
        [expected[c] / total for c in ranked[:5]], rel=1e-4
    )
    assert sum(one.change for one in found.units) == pytest.approx(1)


def test_the_curves_start_at_one_end_at_what_was_learned_and_use_the_orders_they_name(hvit, samples, bases):
    residual, classifier = trained(bases), toy_classifier(hvit)
    found = explain(residual, samples, classifier, dictionary(hvit.cfg.d_out), data="toy")
    cached = coordinates(residual, samples)
    factors = residual.scales.detach()[cached.index]
    n = len(factors)
    assert found.kept == doubling(n)
    assert [curve.order for curve in found.curves] == ["change of energy", "|λ − 1|", "random"]
    with residual.attached(hvit):
        embedding = hvit.recompose(samples.decomposition)
    assert found.learned == classifier.accuracy(embedding.detach(), samples.labels)
    assert found.zero_shot == classifier.accuracy(samples.decomposition.total(), samples.labels)
    for curve in found.curves:
        assert (curve.accuracy[0], curve.accuracy[-1]) == pytest.approx((found.unscaled, found.learned))
        assert all(
            low <= middle <= high for low, middle, high in zip(curve.low, curve.accuracy, curve.high, strict=True)
        )
    by_change, by_distance = ((factors - 1).double().square() * variances(cached)), (factors - 1).abs()
    for curve, key in zip(found.curves, (by_change, by_distance), strict=False):
        order = key.argsort(descending=True)
        assert curve.accuracy == tuple(
            pruned_accuracies(cached, factors, classifier.weights, order, found.kept).tolist()
        )
        assert curve.low == curve.high == curve.accuracy
    every = pruned_accuracies(cached, factors, classifier.weights, by_change.argsort(descending=True), range(n + 1))
    assert (found.reached, found.held) == fewest(every, 0.95)


def test_lambda_of_one_changes_nothing(hvit, samples, bases):
    residual = ResiDual.from_bases(bases, scales="ones", keep_mean=True)
    found = explain(residual, samples, toy_classifier(hvit), dictionary(hvit.cfg.d_out), data="toy")
    assert found.zero_shot == found.unscaled == found.learned
    assert (found.reached, found.held) == (None, None)
    for one in (*found.units, *found.components):
        assert one.before == one.after
        assert one.change == 0
    assert all(one.factor == pytest.approx(1) and one.says_before == one.says_after for one in found.units)


@pytest.mark.parametrize(
    ("accuracy", "share", "expected"),
    [
        ([0.5, 0.6, 0.7, 0.8], 1.0, (3, 3)),
        ([0.5, 0.9, 0.6, 0.9, 0.9], 0.9, (1, 3)),
        ([0.5, 1.0, 1.0], 0.95, (1, 1)),
        # 0.95 of a gain of 20 samples in 100 is 19 of them, whatever rounding makes of it.
        ([0.1, 0.29, 0.3], 0.95, (1, 1)),
        ([0.5, 0.9, 0.5], 0.95, (None, None)),
        ([0.5, 0.9, 0.4], 0.95, (None, None)),
        ([0.5], 0.95, (None, None)),
    ],
)
def test_fewest(accuracy, share, expected):
    assert fewest(torch.tensor(accuracy, dtype=torch.float64), share) == expected


@pytest.mark.parametrize(("n", "expected"), [(0, (0,)), (1, (0, 1)), (2, (0, 1, 2)), (8, (0, 1, 2, 4, 8))])
def test_doubling(n, expected):
    assert doubling(n) == expected


def test_texts_lie_along_a_direction_and_against_it():
    words = dictionary(8)
    directions = torch.stack([words.embeddings[4], -words.embeddings[7]])
    found = texts_along(directions, words, 3)
    assert found[0][0][0] == "text 4"
    assert found[1][1][0] == "text 7"
    products = words.embeddings @ directions[0]
    assert found[0][0] == tuple(words.texts[at] for at in products.argsort(descending=True)[:3])
    assert found[0][1] == tuple(words.texts[at] for at in products.argsort()[:3])
    assert [len(end) for end in texts_along(directions, words.select([1, 2]), 3)[0]] == [2, 2]


@pytest.mark.parametrize("rest_passes", [True, False])
def test_a_unit_says_what_the_edit_leaves_of_it(rest_passes):
    """It writes loudly along one text, softly along two others; λ silences the first, amplifies the second."""
    words = Dictionary(("loud", "soft", "beyond", "other"), torch.eye(6)[:4])
    written = draw(50, 3, seed=4) * torch.tensor([9.0, 1.0, 2.0])
    contributions = written @ torch.eye(6)[:3] + draw(6, seed=5)
    samples = CachedSamples(Decomposition(contributions[:, None], Units([Unit.named("L0H0")])), torch.zeros(50).long())
    edit = UnitEdit("L0H0", written[:, :2], torch.eye(6)[:2], torch.tensor([0.0, 5.0]), rest_passes)
    before, after = labels_of_unit(samples, edit, words, 1)
    assert (before.texts, after.texts) == (("loud",), ("soft",))
    energy = written.double().var(dim=0)
    assert before.explained == pytest.approx(float(energy[0] / energy.sum()), rel=0.05)
    left = 25 * energy[1] / (25 * energy[1] + energy[2] * rest_passes)
    assert after.explained == pytest.approx(float(left), rel=0.05)
    # The second text is what passes beyond the components, or nothing where it is dropped.
    assert labels_of_unit(samples, edit, words, 2)[1].texts == (("soft", "beyond") if rest_passes else ("soft",))


def test_variances_and_energies_go_block_by_block(samples, bases, monkeypatch):
    cached = coordinates(trained(bases), samples)
    factors = torch.linspace(-1, 2, len(cached.index)).double()
    whole = energies(cached, factors), variances(cached)
    monkeypatch.setattr("residual_lens.explain.energies.ROWS", 7)
    parts = energies(cached, factors), variances(cached)
    for name in ("own", "inner", "rest", "total"):
        assert_close(getattr(parts[0], name), getattr(whole[0], name), 1e-12)
    assert_close(parts[1], whole[1], 1e-12)
    assert_close(whole[1], cached.values.double().var(dim=0, correction=0), 1e-12)


def test_blocks_of_samples_do_not_change_the_curve(hvit, samples, bases, monkeypatch):
    cached, classifier = coordinates(trained(bases), samples), toy_classifier(hvit)
    factors, order = torch.linspace(-3, 4, len(cached.index)), torch.arange(len(cached.index)).flip(0)
    whole = pruned_accuracies(cached, factors, classifier.weights, order, doubling(len(order)))
    monkeypatch.setattr("residual_lens.explain.pruning.MOST_NUMBERS", 3 * len(order))
    parts = pruned_accuracies(cached, factors, classifier.weights, order, doubling(len(order)))
    assert parts.tolist() == whole.tolist()


def test_without_a_dictionary_there_are_numbers_and_no_texts(hvit, samples, bases, tmp_path):
    found = explain(trained(bases), samples, toy_classifier(hvit), None, data="toy", about={"seed": 3})
    assert {one.says_after.texts for one in found.units} == {()}
    assert {one.positive for one in found.components} == {()}
    found.save(tmp_path / "a" / "explanation.json")
    saved = json.loads((tmp_path / "a" / "explanation.json").read_text(encoding="utf-8"))
    assert saved["kind"] == "residual_lens.Explanation"
    assert saved["about"] == {
        "model": hvit.cfg.model_name,
        "data": "toy",
        "variant": "residual",
        "dictionary": None,
        "seed": 3,
    }
    assert saved["units"][0]["before"] == {"own": found.units[0].before.own, "cross": found.units[0].before.cross}


def test_bad_input_is_refused(hvit, samples, bases):
    residual, classifier, words = trained(bases), toy_classifier(hvit), dictionary(hvit.cfg.d_out)
    with pytest.raises(InputError, match="at least 1 component and 1 text, got n_components=0 and n_texts=5"):
        explain(residual, samples, classifier, words, data="toy", n_components=0)
    with pytest.raises(InputError, match="n_texts=0"):
        explain(residual, samples, classifier, words, data="toy", n_texts=0)
    with pytest.raises(MismatchError, match="widths 7 and 20"):
        explain(residual, samples, classifier, dictionary(7), data="toy")
    with pytest.raises(InputError, match="Labels run from 0 to 9"):
        explain(
            residual,
            replace(samples, labels=samples.labels.clamp_min(0) + 7 * (samples.labels == 2)),
            classifier,
            words,
            data="toy",
        )
