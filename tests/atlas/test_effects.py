"""What goes with a unit is what the twin and the model's own forward pass under `ablate` lose."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from residual_lens import subsets
from residual_lens.activations import extraction
from residual_lens.atlas.effects import ablation_effects
from residual_lens.errors import InputError
from residual_lens.interventions import ablate
from residual_lens.text import ZeroShotClassifier
from tests.activations.stores import image_set, pixels_of, wrapped
from tests.atlas.labelled import labelled, store_of
from tests.reference.atlas import naive_effects
from tests.tolerances import FLOAT32_TOL, FLOAT64_TOL, assert_close

DIFFERENCE_TOL = 1e-7
"""Of float64 sums in another order, where little is left of large terms."""
KINDS = [
    ("ViT-B-16", {}),
    ("ViT-B-16", {"center": "uniform"}),
    ("siglip-timm", {}),
    ("avg-norm-before-pool", {"dtype": torch.bfloat16}),
]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Several blocks, and several pieces of each."""
    monkeypatch.setattr(extraction, "BLOCK_ROWS", 12)
    monkeypatch.setattr(subsets, "MOST_NUMBERS", 200)


@pytest.mark.parametrize(("kind", "arguments"), KINDS)
def test_effects_are_those_of_the_twin(kind, arguments, tmp_path):
    with store_of(wrapped(kind, **arguments), tmp_path) as store:
        task = labelled(store)
        found = ablation_effects(task)
        hits, contrasts = naive_effects(store, task.classifier.weights, task.labels.tolist(), task.rows.tolist())
    assert found.units == store.units.names
    assert found.counts.tolist() == [len(of_class) for of_class in hits[""]]
    assert found.hits.tolist() == [sum(right) / len(right) for right in hits[""]]
    whole = torch.tensor([sum(values) / len(values) for values in contrasts[""]], dtype=torch.float64)
    assert_close(found.contrast, whole, FLOAT64_TOL)
    n = len(task.rows)
    assert found.accuracy == pytest.approx(sum(map(sum, hits[""])) / n)
    for place, unit in enumerate(found.units):
        assert found.hits_without[place].tolist() == [sum(right) / len(right) for right in hits[unit]]
        assert float(found.accuracies_without[place]) == pytest.approx(sum(map(sum, hits[unit])) / n)
        without = torch.tensor([sum(values) / len(values) for values in contrasts[unit]], dtype=torch.float64)
        assert float((found.lost[place] - (whole - without)).abs().max()) <= DIFFERENCE_TOL * float(whole.abs().max())
        totals = sum(map(sum, contrasts[unit])), sum(map(sum, contrasts[""]))
        share = 1 - totals[0] / totals[1] if totals[1] > 0 else torch.nan
        assert float(found.shares_lost[place]) == pytest.approx(share, nan_ok=True)
        gone = np.concatenate(contrasts[""]) - np.concatenate(contrasts[unit])
        error = np.std(gone, ddof=1) / np.sqrt(n) / (totals[1] / n) if totals[1] > 0 else np.nan
        assert float(found.errors_of_shares_lost[place]) == pytest.approx(error, nan_ok=True)


def test_effects_are_those_of_ablation_in_the_forward_pass(tmp_path):
    hvit = wrapped("ViT-B-16")
    with store_of(hvit, tmp_path) as store, torch.no_grad():
        task = labelled(store)
        found = ablation_effects(task)
        pixels = pixels_of(hvit, image_set(len(store), hvit.cfg.image_size))[task.rows]
        before = task.classifier.accuracy(hvit(pixels), task.labels)
        assert found.accuracy == before
        moved = 0
        for place, unit in enumerate(found.units):
            with ablate(hvit, unit, "mean", reference=store):
                embeddings = hvit(pixels)
            after = task.classifier.accuracy(embeddings, task.labels)
            assert float(found.accuracies_without[place]) == pytest.approx(after)
            moved += after != before
            own = (embeddings @ task.classifier.weights.mT)[torch.arange(len(pixels)), task.labels]
            others = (embeddings @ task.classifier.weights.mT).sum(dim=1) - own
            contrast = (own - others / 2).double().mean()
            expected = found._mean(found.contrast) - found._mean(found.lost)[place]
            assert_close(contrast, expected, 20 * FLOAT32_TOL)
        assert moved > 3, "units must matter, or the test shows nothing"


def test_shares_of_the_contrast_add_up_to_it_where_classes_are_balanced(tmp_path):
    with store_of(wrapped("ViT-B-16"), tmp_path, 30) as store:
        task = labelled(store)
        rows = [row for label in range(3) for row in (store.labels == label).nonzero().flatten()[:6].tolist()]
        task = replace(task, rows=np.sort(rows))
        found = ablation_effects(task)
        # Where the right class is behind on average, there is no contrast to lose.
        turned = replace(task.classifier, weights=-task.classifier.weights)
        behind = ablation_effects(replace(task, classifier=turned))
    assert found.counts.tolist() == [6, 6, 6]
    assert found._mean(found.contrast) > 0
    assert float(found.shares_lost.sum()) == pytest.approx(1, abs=1e-9)
    assert behind.shares_lost.isnan().all()
    assert behind.errors_of_shares_lost.isnan().all()
    assert torch.equal(behind.shares_lost_by_class.isnan(), (behind.contrast <= 0).expand(len(found.units), -1))


def test_a_class_without_images_has_no_number(tmp_path):
    with store_of(wrapped("ViT-B-16"), tmp_path) as store:
        task = labelled(store)
        found = ablation_effects(replace(task, rows=task.rows[task.labels.numpy() != 1]))
    assert found.counts[1] == 0
    assert found.hits.isnan().tolist() == [False, True, False]
    assert found.shares_lost_by_class[:, 1].isnan().all()
    assert found.accuracies_without.isfinite().all()
    assert found._mean(found.lost).isfinite().all()


def test_class_embeddings_that_are_not_finite_are_refused(tmp_path):
    with store_of(wrapped("ViT-B-16"), tmp_path) as store:
        task = labelled(store)
        broken = ZeroShotClassifier(task.classifier.weights * torch.nan, task.classifier.classes, 1.0)
        with pytest.raises(InputError, match=r"Class embeddings of noise must be finite"):
            ablation_effects(replace(task, classifier=broken))
