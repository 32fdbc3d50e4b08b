"""The fused cross-entropy against torch's own operations, value and gradient."""

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from residual_lens.text import ZeroShotClassifier
from tests.tolerances import FLOAT32_TOL, FLOAT64_TOL, assert_close

N_CLASSES, D_OUT = 7, 12


def classifier_of(scale: float = 100.0, dtype: torch.dtype = torch.float32) -> ZeroShotClassifier:
    weights = torch.randn(N_CLASSES, D_OUT, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return ZeroShotClassifier(normalize(weights, dim=-1).to(dtype), tuple("abcdefg"), scale)


def embeddings(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(9, D_OUT, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


LABELS = torch.arange(9) % N_CLASSES


def both(
    classifier: ZeroShotClassifier, embedding: torch.Tensor, labels: torch.Tensor = LABELS
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Loss and gradient: fused, and by torch."""
    results = []
    for fused in (True, False):
        leaf = embedding.clone().requires_grad_()
        if fused:
            loss = classifier.cross_entropy(leaf, labels)
        else:
            loss = cross_entropy(classifier.logits(leaf), labels.long(), reduction="sum")
        (loss / 3).backward()
        results.append((loss.detach(), leaf.grad))
    return results


@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("length", [1e-3, 1.0, 1e4])
def test_value_and_gradient_are_torchs(scale: float, length: float) -> None:
    (loss, gradient), (expected_loss, expected) = both(
        classifier_of(scale, torch.float64), length * embeddings(torch.float64)
    )
    assert_close(loss, expected_loss, FLOAT64_TOL)
    assert_close(gradient, expected, FLOAT64_TOL)


def test_gradient_is_that_of_differences() -> None:
    classifier = classifier_of(3.0, torch.float64)
    leaf = embeddings(torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda embedding: classifier.cross_entropy(embedding, LABELS), (leaf,))


def test_an_embedding_on_a_class_and_one_of_no_length() -> None:
    classifier = classifier_of()
    embedding = torch.stack([classifier.weights[2], -classifier.weights[2], torch.zeros(D_OUT)])
    (loss, gradient), (expected_loss, expected) = both(classifier, embedding, torch.tensor([2, 2, 0]))
    assert_close(loss, expected_loss, FLOAT32_TOL)
    assert_close(gradient[:2], expected[:2], FLOAT32_TOL)
    # Divided by the smallest length that counts: huge, but a number.
    assert_close(gradient[2], expected[2], FLOAT32_TOL)


def test_labels_of_any_integers() -> None:
    (loss, gradient), (expected_loss, expected) = both(classifier_of(), embeddings(), LABELS.to(torch.int32))
    assert_close(loss, expected_loss, FLOAT32_TOL)
    assert_close(gradient, expected, FLOAT32_TOL)


def test_nan_stays_nan() -> None:
    embedding = embeddings()
    embedding[3, 0] = torch.nan
    assert classifier_of().cross_entropy(embedding, LABELS).isnan()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    embedding = embeddings().to(dtype).requires_grad_()
    loss = classifier_of().cross_entropy(embedding, LABELS)
    loss.backward()
    assert loss.dtype == torch.float32
    assert embedding.grad is not None
    assert embedding.grad.dtype == dtype
    assert_close(loss.detach(), classifier_of().cross_entropy(embedding.detach().float(), LABELS), FLOAT32_TOL)


def test_autocast_does_not_round() -> None:
    expected = both(classifier_of(), embeddings())[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, gradient = both(classifier_of(), embeddings())[0]
    assert_close(loss, expected[0], FLOAT32_TOL)
    assert_close(gradient, expected[1], FLOAT32_TOL)
