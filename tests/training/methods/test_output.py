"""Adapters of the whole embedding are the formulas that their names say."""

import pytest
import torch

from residual_lens.bases import Basis
from residual_lens.errors import InputError, MismatchError
from residual_lens.hooked import HookedViT
from residual_lens.text import ZeroShotClassifier
from residual_lens.training.methods import LinearProbe, SpectralOutput, ZeroShot, embedding_basis
from tests.interventions.tiny_bases import hooks_in_force
from tests.reference.methods import components_rescaled, logistic_logits
from tests.reference.pca import naive_pca
from tests.tolerances import FLOAT32_AGAINST_FLOAT64_TOL, FLOAT32_TOL, assert_changed, assert_close
from tests.training.toy import toy_classifier


@pytest.fixture
def embeddings(generator):
    """Means far from zero, axes that are no principal components."""
    return torch.randn(60, 20, generator=generator) @ torch.randn(20, 20, generator=generator) + 3


@pytest.mark.parametrize("keep_mean", [False, True])
@torch.no_grad()
def test_spectral_output_scales_the_embeddings_principal_components(hvit, images, embeddings, generator, keep_mean):
    basis, scales = embedding_basis(embeddings), torch.randn(20, generator=generator)
    output = SpectralOutput(basis, keep_mean=keep_mean)
    output.scales.copy_(scales)
    before = hvit(images)
    with output.attached(hvit):
        edited = hvit(images)
    expected = components_rescaled(before, basis.mean, basis.components, scales.tolist(), keep_mean=keep_mean)
    assert_close(edited, expected, FLOAT32_AGAINST_FLOAT64_TOL)
    assert hooks_in_force(hvit) == 0


@torch.no_grad()
def test_released_bug_components_are_scaled_and_not_coordinates(embeddings):
    basis = embedding_basis(embeddings)
    output = SpectralOutput(basis, scales="ones", keep_mean=True)
    output.scales[0] = 0
    moved = embeddings - output.mapped(embeddings)
    along = (embeddings - basis.mean) @ basis.components[0]
    assert_close(moved, along[:, None] * basis.components[0], FLOAT32_TOL)
    # Scaling coordinates would leave all but the first as they were.
    assert_changed(moved[:, 1:], torch.zeros_like(moved[:, 1:]))


def test_the_basis_of_embeddings_is_their_pca(embeddings):
    basis, twin = embedding_basis(embeddings), naive_pca(embeddings[:, None])[0]
    assert_close(basis.mean, twin.mean, FLOAT32_AGAINST_FLOAT64_TOL)
    assert_close(basis.variances, twin.variances, FLOAT32_AGAINST_FLOAT64_TOL)
    assert_close(basis.components.abs(), twin.components.abs(), FLOAT32_AGAINST_FLOAT64_TOL)


@torch.no_grad()
def test_ones_with_the_mean_kept_are_the_model_itself_and_randn_is_seeded(embeddings):
    basis = embedding_basis(embeddings)
    identity = SpectralOutput(basis, scales="ones", keep_mean=True)
    assert_close(identity.mapped(embeddings), embeddings, FLOAT32_TOL)
    drawn = [SpectralOutput(basis, seed=seed).scales for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("embeddings", [torch.zeros(1, 4), torch.full((5, 4), torch.nan)], ids=["one", "NaN"])
def test_a_basis_of_too_few_or_broken_embeddings_is_refused(embeddings):
    with pytest.raises(InputError, match=r"at least 2 samples|NaN"):
        embedding_basis(embeddings)


@torch.no_grad()
def test_the_probe_is_logistic_regression_and_starts_as_the_zero_shot_classifier(hvit, images, generator):
    classifier = toy_classifier(hvit)
    probe, embedding = LinearProbe(classifier), hvit(images)
    with probe.attached(hvit):
        assert torch.equal(hvit(images), embedding)
    assert_close(probe.logits(embedding, classifier), classifier.logits(embedding), FLOAT32_TOL)
    weight, bias = torch.randn(3, 20, generator=generator), torch.randn(3, generator=generator)
    probe.load_state_dict({"weight": weight, "bias": bias})
    expected = logistic_logits(embedding, weight, bias, classifier.logit_scale)
    assert_close(probe.logits(embedding, classifier), expected, FLOAT32_AGAINST_FLOAT64_TOL)


def test_gradients_of_the_probe_are_those_of_logistic_regression(generator):
    """`dL/dW = Σ (softmax − onehot) s ê`, averaged over the batch."""
    classifier = ZeroShotClassifier(torch.randn(3, 5, generator=generator), ("a", "b", "c"), 2.0)
    probe = LinearProbe(classifier)
    embedding, labels = torch.randn(7, 5, generator=generator), torch.arange(7) % 3
    torch.nn.functional.cross_entropy(probe.logits(embedding, classifier), labels).backward()
    units = embedding / embedding.norm(dim=-1, keepdim=True)
    probabilities = (2.0 * units @ classifier.weights.T).softmax(dim=-1)
    error = 2.0 * (probabilities - torch.eye(3)[labels]) / 7
    assert_close(probe.weight.grad, error.T @ units, FLOAT32_TOL)
    assert_close(probe.bias.grad, error.sum(dim=0), FLOAT32_TOL)


def test_the_probe_does_not_share_memory_with_the_classifier(hvit):
    classifier = toy_classifier(hvit)
    before = classifier.weights.clone()
    with torch.no_grad():
        LinearProbe(classifier).weight.zero_()
    assert torch.equal(classifier.weights, before)


@torch.no_grad()
def test_zero_shot_is_the_model_on_both_paths(hvit, images):
    for path in ("direct", "stream"):
        with ZeroShot().attached(hvit, path):
            edited = hvit(images)
        assert torch.equal(edited, hvit(images))


def output_of(d_out: int) -> SpectralOutput:
    basis = Basis(torch.zeros(d_out), torch.eye(d_out), torch.ones(d_out), float(d_out))
    return SpectralOutput(basis)


def test_other_models_and_paths_are_refused(hvit: HookedViT):
    classifier = ZeroShotClassifier(torch.eye(16), tuple("abcdefghijklmnop"), 1.0)
    for adapter in (output_of(16), LinearProbe(classifier)):
        with pytest.raises(InputError, match="has no stream path: use path='direct'"):
            adapter.attached(hvit, "stream").__enter__()
        with pytest.raises(MismatchError, match="embeddings of 16 dimensions, VisionTransformer has 20"):
            adapter.attached(hvit).__enter__()
