"""unit_scores gives what loops over all contributions give, whatever the model and the order of samples and classes."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from residual_lens.activations import Store, extraction
from residual_lens.errors import InputError, MismatchError
from residual_lens.selection import SCORES, UnitScores, layer_matched, scores, unit_scores
from residual_lens.selection.features import UnitFeatures
from residual_lens.spectral.pursuit import somp
from residual_lens.text import ZeroShotClassifier
from residual_lens.units import Units
from tests.activations.stores import encoded, image_set, wrapped
from tests.reference.selection import naive_accuracies, naive_axes, naive_correlations, naive_shares
from tests.tolerances import FLOAT32_TOL, FLOAT64_TOL, assert_close

N_IMAGES = 30
ALL = ("L1", "embed")


def store_of(hvit, path) -> Store:
    """In blocks of eight rows, the last of six."""
    images = image_set(N_IMAGES, hvit.cfg.image_size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "BLOCK_ROWS", 8)
        return encoded(hvit, images, path / "a.h5", value_format="float32")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with store_of(wrapped("ViT-B-16"), tmp_path_factory.mktemp("store")) as store:
        yield store


def vectors(store: Store, n: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(n, store.layout.d_out, generator=generator), dim=-1)


def classifier_of(weights: Tensor, classes: str = "abc") -> ZeroShotClassifier:
    return ZeroShotClassifier(weights, tuple(classes), logit_scale=100.0)


def scored(store: Store, how: str, weights: Tensor | None = None, **arguments) -> UnitScores:
    """With class embeddings, or concepts, that are random if none are given."""
    weights = vectors(store) if weights is None else weights
    return unit_scores(store, how, classifier=classifier_of(weights), concepts=weights, **arguments)


def contributions(store: Store, names: tuple[str, ...]) -> np.ndarray:
    """`[sample unit d_out]`, without heads' share of rounding in models of half precision."""
    found = [store.coordinates(name) for name in names]
    return torch.stack([x if frame is None else x @ frame for x, frame in found], dim=1).numpy()


def twins(store: Store, names: tuple[str, ...], weights: Tensor) -> dict[str, np.ndarray]:
    values, output = contributions(store, names), store.embeddings().numpy()
    vectors, labels = weights.numpy(), store.labels.numpy()
    return {
        "output": naive_correlations(values, output, naive_axes(output)),
        "task": naive_correlations(values, output, naive_axes(output, vectors)),
        "supervised": naive_accuracies(values[labels >= 0], labels[labels >= 0], vectors),
        "concepts": naive_shares(values, vectors),
    }


MODELS = {
    "own": ("ViT-B-16", {}),
    "uniform": ("avg-norm-before-pool", {"center": "uniform"}),
    "attention pooling": ("siglip-timm", {}),
    "bfloat16": ("ViT-B-16", {"dtype": torch.bfloat16}),
}


@pytest.mark.parametrize("model", MODELS)
def test_scores_are_the_twins(model, tmp_path):
    kind, arguments = MODELS[model]
    with store_of(wrapped(kind, **arguments), tmp_path) as store:
        weights = vectors(store)
        scores = {how: scored(store, how, units=ALL) for how in SCORES if how != "random"}
        names = scores["output"].units
        assert names == tuple(unit.name for unit in store.units.select(ALL))
        for how, expected in twins(store, names, weights).items():
            assert scores[how].how == how
            assert scores[how].values.dtype == torch.float64
            assert_close(scores[how].values, torch.from_numpy(expected), FLOAT64_TOL)
            # A twin that gives one number for all would hide a mix-up.
            assert len(set(expected.round(6))) > 2


@torch.no_grad()
def test_a_unit_that_does_not_vary_scores_zero(tmp_path):
    hvit = wrapped("ViT-B-16")
    block = hvit.source.transformer.resblocks[1]
    block.attn.out_proj.weight[:, :8] = 0.0
    block.attn.out_proj.bias.zero_()
    block.mlp.c_proj.weight.zero_()
    block.mlp.c_proj.bias.zero_()
    with store_of(hvit, tmp_path) as store:
        # The class that a unit of zeros would be taken for.
        lowest = int(vectors(store).unique(dim=0, return_inverse=True)[1].argmin())
        labels = torch.full((N_IMAGES,), lowest)
        for how in ("output", "task", "supervised", "concepts"):
            scores = scored(store, how, units=["L1", "L0H0"], labels=labels)
            by_unit = dict(zip(scores.units, scores.values.tolist(), strict=True))
            assert (by_unit["L1H0"], by_unit["1_mlp_out"]) == (0.0, 0.0)
            assert scores.values.isfinite().all()
            assert by_unit["L1H1"] != 0
        # Copies of one image: nothing varies at all.
        for how in ("output", "task", "supervised", "concepts"):
            assert not scored(store, how, units=ALL, rows=[4, 4, 4] if how != "supervised" else [3, 3, 3]).values.any()


@pytest.mark.parametrize("how", ["output", "task", "supervised", "concepts"])
def test_the_order_of_samples_and_classes_does_not_matter(how, store):
    weights, labels = vectors(store), store.labels
    scores = scored(store, how, weights, units=ALL, rows=range(5, 25)).values
    rows = torch.from_numpy(np.random.default_rng(0).permutation(np.arange(5, 25)))
    order = torch.tensor([2, 0, 1])
    permuted = torch.where(labels >= 0, order.argsort()[labels], -1)
    assert torch.equal(scored(store, how, weights[order], units=ALL, rows=rows, labels=permuted).values, scores)
    mask = (torch.arange(N_IMAGES) >= 5) & (torch.arange(N_IMAGES) < 25)
    assert torch.equal(scored(store, how, weights, units=ALL, rows=mask).values, scores)
    assert not torch.equal(scored(store, how, weights, units=ALL).values, scores)


@pytest.mark.parametrize("how", ["task", "supervised", "concepts"])
def test_classes_and_concepts_may_be_repeated(how, store):
    weights = vectors(store)
    scores = scored(store, how, weights).values
    repeated = weights[[0, 1, 1, 2, 0]]
    # Some samples are labelled by the copy of their class.
    labels = torch.where((store.labels == 1) & (torch.arange(N_IMAGES) % 2 == 0), 4, store.labels)
    labels = torch.where(labels == 2, 3, torch.where(labels == 4, 2, labels))
    found = unit_scores(
        store, how, classifier=classifier_of(repeated, "abcde"), concepts=repeated, labels=labels
    ).values
    assert torch.equal(found, scores)


def test_what_concepts_add_up_to_is_no_dimension_more(store):
    weights = vectors(store)
    more = torch.cat([weights, normalize(weights[:1] + weights[1:2], dim=-1)])
    shares, with_sum = (unit_scores(store, "concepts", concepts=each).values for each in (weights, more))
    assert_close(with_sum, shares, FLOAT32_TOL)
    classifiers = classifier_of(weights), classifier_of(more, "abcd")
    tasks = [unit_scores(store, "task", classifier=each).values for each in classifiers]
    assert_close(tasks[1], tasks[0], FLOAT32_TOL)


def test_a_span_of_one_class_is_one_coordinate(store):
    weights = vectors(store, 1)
    values = contributions(store, tuple(head.name for head in store.heads()))
    along, output = values @ weights[0].double().numpy(), store.embeddings().numpy() @ weights[0].numpy()
    expected = [np.corrcoef(along[:, unit], output)[0, 1] for unit in range(values.shape[1])]
    found = unit_scores(store, "task", classifier=classifier_of(weights, "a")).values
    assert_close(found, torch.tensor(expected), 1e-6)
    accuracies = unit_scores(store, "supervised", classifier=classifier_of(weights, "a"), labels=torch.zeros(30).long())
    assert torch.equal(accuracies.values, torch.ones(len(expected)).double())


def test_two_samples_are_enough(store):
    names = tuple(unit.name for unit in store.units.select(ALL))
    values, output = contributions(store, names)[:2], store.embeddings().numpy()[:2]
    # A line is left: units go along with the output, or against it.
    expected = np.sign((values[1] - values[0]) @ (output[1] - output[0]))
    assert_close(scored(store, "output", units=ALL, rows=[0, 1]).values, torch.from_numpy(expected), FLOAT64_TOL)
    # Within the span of three classes the output varies along one axis of three.
    task = scored(store, "task", units=ALL, rows=[0, 1]).values
    assert_close(task.abs(), torch.full((len(names),), 1 / 3, dtype=torch.float64), FLOAT64_TOL)


def test_concepts_that_span_everything_explain_everything(store):
    assert_close(scored(store, "concepts", 7 * vectors(store, 40)).values, torch.ones(9), FLOAT64_TOL)


def test_concepts_explain_what_a_pursuit_explains_that_has_picked_them_all(store):
    weights = vectors(store, 5)
    found = scored(store, "concepts", 4 * weights, units=ALL)
    for name, share in zip(found.units, found.values, strict=True):
        x, frame = store.coordinates(name)
        explained = somp(x, normalize(weights.double(), dim=-1), 5, frame=frame).explained_variance
        assert_close(share, explained[-1], FLOAT64_TOL)
        assert explained[-2] < 0.99 * explained[-1]


def test_labels_choose_samples(store):
    labels = torch.full((N_IMAGES,), -1)
    labels[[3, 12, 20]] = torch.tensor([0, 2, 1])
    names = tuple(head.name for head in store.heads())
    values = contributions(store, names)[[3, 12, 20]]
    expected = naive_accuracies(values, np.array([0, 2, 1]), vectors(store).numpy())
    assert torch.equal(scored(store, "supervised", labels=labels).values, torch.from_numpy(expected))


def test_a_unit_that_varies_in_its_first_block_alone_varies():
    x = torch.eye(2, dtype=torch.float64)[[0, 1, 0, 0]]
    blocks = [np.array([0, 1]), np.array([2, 3])]
    found = scores._accuracies(torch.eye(2), torch.tensor([0, 1, 0, 1]), blocks, [UnitFeatures(lambda at: x[at])])
    assert found.tolist() == [0.75]


def test_no_more_than_a_block_of_one_unit_is_read_at_a_time(store, monkeypatch):
    sizes = Counter()
    for name in ("head_features", "decompose", "embeddings"):
        original = getattr(Store, name)

        def counting(self, rows=None, *args, name=name, original=original, **kwargs):
            found = original(self, rows, *args, **kwargs)
            values = getattr(found, "values", found) if name == "decompose" else found
            sizes[name] = max(sizes[name], len(values) * (values.shape[1] if values.ndim == 3 else 1))
            return found

        monkeypatch.setattr(Store, name, counting)
    for how in SCORES:
        scored(store, how, units=ALL)
    assert set(sizes.values()) == {8}
    assert len(sizes) == 3


def test_random_scores_are_seeded_and_belong_to_the_unit(store):
    drawn = unit_scores(store, "random", "all", seed=1)
    assert "bias" not in drawn.units
    assert len(set(drawn.values.tolist())) == len(drawn.units)
    assert torch.equal(unit_scores(store, "random", "all", seed=1).values, drawn.values)
    assert not torch.equal(unit_scores(store, "random", "all", seed=2).values, drawn.values)
    alone = unit_scores(store, "random", ["L1H1", "1_mlp_out"], seed=1)
    assert alone.values.tolist() == [drawn.values[drawn.units.index(name)].item() for name in alone.units]


def test_a_ranking_is_best_first_and_stable():
    scores = UnitScores(("a", "b", "c", "d"), torch.tensor([0.1, 0.5, 0.1, -2.0]).double(), "output")
    assert scores.ranking() == ("b", "a", "c", "d")
    assert scores.top(2) == ("b", "a")
    assert scores.top(4) == scores.ranking()
    tied = UnitScores(tuple(map(str, range(200))), torch.arange(200).double() % 2, "output")
    assert tied.ranking() == (*map(str, range(1, 200, 2)), *map(str, range(0, 200, 2)))
    for k in (0, 5):
        with pytest.raises(InputError, match=f"4 scored units.*got {k}"):
            scores.top(k)


def test_a_layer_matched_draw_has_as_many_of_each_kind_from_every_layer():
    of = Units.of_vit(n_layers=3, n_heads=8)
    units = ["L2H3", "L0H1", "L0H5", "L0H5", "1_mlp_out", "embed"]
    kinds = lambda names: Counter((of[name].layer, of[name].kind) for name in names)  # noqa: E731
    draws = {layer_matched(units, of, seed=seed) for seed in range(40)}
    assert all(kinds(draw) == {(0, "head"): 2, (2, "head"): 1, (1, "mlp"): 1, (None, "embed"): 1} for draw in draws)
    assert all(draw == tuple(name for name in of.names if name in draw) for draw in draws)
    assert len(draws) > 30
    # Every head of the layer is drawn at some time, those that are matched included.
    assert {name for draw in draws for name in draw if name.startswith("L0")} == {f"L0H{head}" for head in range(8)}
    assert layer_matched(units, of, seed=3) == layer_matched(units, of, seed=3)
    assert set(layer_matched(["heads"], of, seed=0)) == {unit.name for unit in of.select("heads")}
    with pytest.raises(InputError, match="no unit 'L7H0'"):
        layer_matched(["L7H0"], of, seed=0)
    with pytest.raises(InputError, match="No units were named"):
        layer_matched([], of, seed=0)


NAN = torch.full((3, 20), torch.nan)
BAD = {
    "score": (InputError, "called 'best'.*output, task, supervised, concepts, random", {"how": "best"}),
    "unit": (InputError, "no unit 'L9H9'", {"units": "L9H9"}),
    "bias": (InputError, "'bias' is what no unit writes", {"units": "bias"}),
    "no units": (InputError, "No units were named", {"units": ()}),
    "row": (InputError, f"places 0 to {N_IMAGES - 1}", {"rows": [N_IMAGES]}),
    "one sample": (InputError, r"at least two samples, got 1 of .*a\.h5", {"rows": [1]}),
    "no classifier": (InputError, "'task' is made of class embeddings: give classifier=", {"how": "task"}),
    "no classifier to be right": (InputError, "give classifier=", {"how": "supervised"}),
    "no concepts": (InputError, "'concepts' is made of concepts: give concepts=", {"how": "concepts"}),
    "other d_out": (
        MismatchError,
        "class embeddings have 5 dimensions, the store's contributions 20",
        {"how": "task", "classifier": classifier_of(torch.eye(5)[:3])},
    ),
    "NaN concepts": (InputError, r"concepts are \[3, 20\] numbers.*not finite", {"how": "concepts", "concepts": NAN}),
    "zero concepts": (InputError, "all zero", {"how": "concepts", "concepts": torch.zeros(2, 20)}),
    "empty concepts": (InputError, "all zero", {"how": "concepts", "concepts": torch.zeros(0, 20)}),
    "other classes": (
        MismatchError,
        "count 3 classes a, b, c …, the classifier has 2, a, b",
        {"how": "supervised", "classifier": classifier_of(torch.eye(20)[:2], "ab")},
    ),
    "classes in another order": (
        MismatchError,
        "give its classes in that order",
        {"how": "supervised", "classifier": classifier_of(torch.eye(20)[:3], "bac")},
    ),
    "number of labels": (
        MismatchError,
        f"29 labels for {N_IMAGES} samples",
        {"how": "supervised", "classifier": classifier_of(torch.eye(20)[:3]), "labels": torch.zeros(29).long()},
    ),
    "labels of no class": (
        InputError,
        "run from 0 to 3, but there are 3 classes",
        {"how": "supervised", "classifier": classifier_of(torch.eye(20)[:3]), "labels": torch.arange(30) % 4},
    ),
    "labels below none": (
        InputError,
        "run from -2 to 0",
        {"how": "supervised", "classifier": classifier_of(torch.eye(20)[:3]), "labels": -2 * (torch.arange(30) % 2)},
    ),
    "no labels": (
        InputError,
        "None of these samples has a label",
        {"how": "supervised", "classifier": classifier_of(torch.eye(20)[:3]), "rows": [4, 9]},
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_scored_is_refused_before_any_work(case, store, monkeypatch):
    def never(*_, **__):
        raise AssertionError("values were read")

    for name in ("head_features", "decompose", "embeddings"):
        monkeypatch.setattr(Store, name, never)
    error, message, arguments = BAD[case]
    with pytest.raises(error, match=message):
        unit_scores(store, **({"how": "output"} | arguments))


def test_progress_is_shown_when_asked_for(store, capfd):
    scored(store, "task", progress=True)
    assert "task scores: 100%" in capfd.readouterr().err
    scored(store, "task")
    assert capfd.readouterr().err == ""
