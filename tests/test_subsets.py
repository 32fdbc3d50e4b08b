"""subset_predictions gives what the classifier gives for embeddings with units left out, whatever model and rows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from residual_lens import subsets
from residual_lens.activations import Store, extraction
from residual_lens.activations.blocks import BlockFile
from residual_lens.errors import InputError, MismatchError
from residual_lens.hooked import HookedViT
from residual_lens.interventions import keep_only
from residual_lens.subsets import subset_predictions
from residual_lens.text import ZeroShotClassifier
from tests.activations.stores import encoded, image_set, pixels_of, wrapped
from tests.reference.subsets import naive_subset_accuracies, naive_subset_embeddings
from tests.tolerances import FLOAT64_TOL, assert_close

N_IMAGES, N_CLASSES, BLOCK_ROWS = 18, 5, 12
KINDS = [
    ("ViT-B-16", {}),
    ("ViT-B-16", {"center": "uniform"}),
    ("siglip-timm", {}),
    ("ViT-B-16", {"dtype": torch.bfloat16, "center": "uniform"}),
]
SUBSETS = ["all", "heads", "mlps", "L1", ["heads", "embed"], ["L0H0"], ["L1H1", "1_mlp_out", "L0H0"]]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(extraction, "BLOCK_ROWS", BLOCK_ROWS)


def store_of(hvit, path: Path, n_images: int = N_IMAGES, name: str = "a") -> Store:
    images = image_set(n_images, hvit.cfg.image_size, name=name)
    return encoded(hvit, images, path / f"{name}.h5", value_format="float32", batch_size=12)


def classifier_of(store: Store, n_classes: int = N_CLASSES) -> ZeroShotClassifier:
    """Classes that tell images of noise apart, and by units' means only as much: these would hide all else."""
    units = store.decompose(dtype=torch.float64).values
    draws = torch.randn(2, n_classes, len(store), generator=torch.Generator().manual_seed(3)).double()
    means, apart = units.mean(dim=0), units.sum(dim=1) - units.sum(dim=1).mean(dim=0)
    along_means = torch.linalg.qr(means.mT).Q
    weights = normalize(draws[0] @ (apart - apart @ along_means @ along_means.mT), dim=-1)
    weights += 0.02 * normalize(draws[1, :, : len(means)] @ means, dim=-1)
    return ZeroShotClassifier(weights.float(), tuple(f"class {index}" for index in range(n_classes)), 100.0)


def labels_of(store: Store) -> Tensor:
    """Half of them what the whole model says."""
    labels = classifier_of(store).logits(store.embeddings()).argmax(dim=-1)
    return torch.where(torch.arange(len(labels)) % 2 == 0, labels, torch.arange(len(labels)) % N_CLASSES)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A store, and one of other images by the same model."""
    folder = tmp_path_factory.mktemp("stores")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(extraction, "BLOCK_ROWS", BLOCK_ROWS)
        hvit = wrapped("ViT-B-16")
        with store_of(hvit, folder) as store, store_of(hvit, folder, 4, "b") as reference:
            yield store, reference


@pytest.fixture(scope="module")
def classifier(stores) -> ZeroShotClassifier:
    return classifier_of(stores[0])


def embedding_under_hooks(hvit: HookedViT, subset, how: str, reference: Store | None) -> Tensor:
    """Embeddings of the model's own forward pass in which other units are ablated."""
    images = pixels_of(hvit, image_set(N_IMAGES, hvit.cfg.image_size))
    with keep_only(hvit, subset, how, reference=reference), torch.no_grad():
        return hvit(images)


@pytest.mark.parametrize(("kind", "arguments"), KINDS)
def test_accuracies_are_the_classifiers_own_on_what_is_left(kind, arguments, tmp_path):
    hvit = wrapped(kind, **arguments)
    with store_of(hvit, tmp_path) as store, store_of(hvit, tmp_path, 4, "b") as reference:
        classifier, labels = classifier_of(store), labels_of(store)
        products = torch.cat(list(subsets.class_products(store, classifier, store.units)), dim=1)
        expected = (store.decompose(dtype=torch.float64).values @ classifier.weights.double().mT).transpose(0, 1)
        assert_close(products, expected, FLOAT64_TOL)
        by_how = {}
        for how, means in (("zero", None), ("mean", reference)):
            predicted = by_how[how] = subset_predictions(store, classifier, SUBSETS, how, reference=means)
            found = (predicted == labels).double().mean(dim=1).tolist()
            kept = [[unit.name for unit in store.units.select(subset)] for subset in SUBSETS]
            assert found == naive_subset_accuracies(store, classifier, labels, kept, means)
            if hvit.dtype == torch.float32:
                hooked = embedding_under_hooks(hvit, SUBSETS[4], how, means)
                assert torch.equal(predicted[4], classifier.logits(hooked).argmax(dim=-1))
            # Equal answers would show nothing.
            assert len({tuple(row) for row in predicted.tolist()}) > len(SUBSETS) // 2
        assert not torch.equal(by_how["zero"], by_how["mean"])


def test_all_units_are_the_model_itself(stores, classifier):
    store, reference = stores
    expected = classifier.logits(store.embeddings()).argmax(dim=-1)
    assert torch.equal(subset_predictions(store, classifier, ["all"])[0], expected)
    # Nothing is dropped, so that means do not matter.
    assert torch.equal(subset_predictions(store, classifier, ["all"], "mean", reference=reference)[0], expected)


def test_means_are_those_of_the_reference_and_not_of_the_samples(stores, classifier):
    store, reference = stores
    of_others = subset_predictions(store, classifier, SUBSETS, "mean", reference=reference)
    of_its_own = subset_predictions(store, classifier, SUBSETS, "mean", reference=store)
    assert not torch.equal(of_others, of_its_own)


@pytest.mark.parametrize(
    "rows",
    [
        slice(3, 18, 4),
        np.arange(N_IMAGES) % 3 == 1,
        torch.randperm(N_IMAGES, generator=torch.Generator().manual_seed(0))[:9],
        [5, 5, 0, -1, 13, 5],
    ],
    ids=["slice", "mask", "shuffled", "repeated"],
)
def test_rows_choose_samples_and_predictions_are_in_their_order(rows, stores, classifier):
    store, _ = stores
    everything = subset_predictions(store, classifier, SUBSETS)
    chosen = everything[:, np.arange(N_IMAGES)[rows]]
    assert torch.equal(subset_predictions(store, classifier, SUBSETS, rows=rows), chosen)


@pytest.mark.parametrize("most", [1, 7 * 21 * N_CLASSES])
def test_pieces_of_any_size_give_the_same(most, stores, classifier, monkeypatch):
    store, reference = stores
    expected = subset_predictions(store, classifier, SUBSETS, "mean", reference=reference)
    monkeypatch.setattr(subsets, "MOST_NUMBERS", most)
    assert torch.equal(subset_predictions(store, classifier, SUBSETS, "mean", reference=reference), expected)


def test_products_in_memory_are_bounded(stores, classifier, monkeypatch):
    store, _ = stores
    rows, head_features = [], Store.head_features

    def spied(self, at, *arguments, **named):
        rows.append(len(at))
        return head_features(self, at, *arguments, **named)

    monkeypatch.setattr(Store, "head_features", spied)
    monkeypatch.setattr(subsets, "MOST_NUMBERS", 26 * N_CLASSES)
    subset_predictions(store, classifier, [["L0H0", "L1H1"], ["L0H0"]])
    assert sum(rows) == 2 * N_IMAGES
    # Products of two units, and logits of two subsets.
    assert max(rows) == 26 // (2 + 2)


def test_what_is_kept_is_read_once_whatever_the_order_of_rows_and_nothing_else(stores, classifier, monkeypatch):
    store, _ = stores
    seen = []
    read_run = BlockFile.read_run

    def spied(self, key, blocks, into):
        seen.extend((key, block) for block in blocks)
        read_run(self, key, blocks, into)

    monkeypatch.setattr(BlockFile, "read_run", spied)
    rows = torch.randperm(N_IMAGES, generator=torch.Generator().manual_seed(0))
    subset_predictions(store, classifier, [["L0H1", "0_mlp_out"], ["L0H1"]], rows=rows)
    values = [(key, block) for key, block in seen if key[0] in ("heads", "terms")]
    assert sorted(values) == [(key, block) for key in (("heads", 1), ("terms", 1)) for block in (0, 1)]


def test_classes_that_are_equal_are_told_by_the_first(stores, classifier):
    (store, _), one = stores, classifier
    twice = ZeroShotClassifier(one.weights.repeat(2, 1), (*one.classes, *"abcde"), 1.0)
    predicted = subset_predictions(store, twice, SUBSETS)
    assert torch.equal(predicted, subset_predictions(store, one, SUBSETS))


@torch.no_grad()
def test_units_that_write_nothing_leave_the_first_class(tmp_path):
    hvit = wrapped("ViT-B-16")
    attention = hvit.source.transformer.resblocks[1].attn
    attention.out_proj.weight[:, :8] = 0.0
    attention.out_proj.bias.zero_()
    with store_of(hvit, tmp_path) as store:
        assert naive_subset_embeddings(store, [["L1H0"]])[0].abs().max() == 0
        assert subset_predictions(store, classifier_of(store), ["L1H0"]).tolist() == [[0] * N_IMAGES]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subsets": []}, "at least one subset, each of at least one unit"),
        ({"subsets": ["heads", []]}, "at least one subset, each of at least one unit"),
        ({"subsets": ["L9H9"]}, "no unit 'L9H9'"),
        ({"rows": []}, r"No rows of .*a\.h5 were chosen"),
        ({"rows": [N_IMAGES]}, f"places 0 to {N_IMAGES - 1}"),
        ({"how": "half"}, "one of zero, mean, got 'half'"),
        ({"how": "mean"}, "how='mean' with no reference"),
        ({"how": "zero", "reference": "itself"}, "how='zero' with a reference"),
    ],
)
def test_what_makes_no_choice_is_refused_before_any_values_are_read(
    arguments, message, stores, classifier, monkeypatch
):
    store, reference = stores
    if "reference" in arguments:
        arguments = arguments | {"reference": reference}
    monkeypatch.setattr(Store, "head_features", lambda *_, **__: pytest.fail("values were read"))
    monkeypatch.setattr(Store, "decompose", lambda *_, **__: pytest.fail("values were read"))
    with pytest.raises(InputError, match=message):
        subset_predictions(store, classifier, **({"subsets": SUBSETS} | arguments))


def test_classifiers_of_another_width_or_not_finite_are_refused(stores, classifier):
    store, _ = stores
    wide = ZeroShotClassifier(torch.eye(21), tuple("abcdefghijklmnopqrstu"), 1.0)
    with pytest.raises(MismatchError, match="contributions of 20 dimensions, the classifier takes 21"):
        subset_predictions(store, wide, SUBSETS)
    broken = ZeroShotClassifier(torch.full((2, 20), torch.nan), ("a", "b"), 1.0)
    with pytest.raises(InputError, match="must be finite"):
        subset_predictions(store, broken, SUBSETS)


def test_a_reference_of_another_model_is_refused(stores, classifier, tmp_path):
    store, _ = stores
    with (
        store_of(wrapped("ViT-B-16", center="uniform"), tmp_path) as other,
        pytest.raises(MismatchError, match=r"center is own and uniform\. Encode both with the same model"),
    ):
        subset_predictions(store, classifier, SUBSETS, "mean", reference=other)


def test_progress_is_shown_when_asked_for(stores, classifier, capfd):
    store, _ = stores
    subset_predictions(store, classifier, SUBSETS, progress=True)
    assert "predicting: 100%" in capfd.readouterr().err
    subset_predictions(store, classifier, SUBSETS)
    assert capfd.readouterr().err == ""
