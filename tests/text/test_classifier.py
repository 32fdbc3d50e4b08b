"""Zero-shot classifiers are the prompt ensemble written out, and refuse what is no task."""

import pytest
import torch
from torch import Tensor

from residual_lens.errors import InputError
from residual_lens.text import ZeroShotClassifier, zero_shot_classifier
from tests.tolerances import FLOAT32_TOL, assert_close

CLASSES = ("red", "green", "blue")
TEMPLATES = ("a {} thing", "{}", "something {}, maybe")


def embed(texts: list[str]) -> Tensor:
    """A unit-norm embedding that depends on the whole text and nothing else."""
    rows = []
    for text in texts:
        seed = sum(position * ord(letter) for position, letter in enumerate(text, start=1))
        row = torch.randn(6, generator=torch.Generator().manual_seed(seed))
        rows.append(row / row.norm())
    return torch.stack(rows)


def unit(vector: Tensor) -> Tensor:
    return vector / vector.square().sum().sqrt()


def test_class_embeddings_are_the_normalised_mean_over_templates():
    classifier = zero_shot_classifier(embed, CLASSES, templates=TEMPLATES, logit_scale=20.0)
    for row, name in enumerate(CLASSES):
        texts = [f"a {name} thing", name, f"something {name}, maybe"]
        mean = sum(embed([text])[0] for text in texts) / 3
        assert_close(classifier.weights[row], unit(mean), FLOAT32_TOL)
    assert classifier.classes == CLASSES
    assert classifier.logit_scale == 20.0
    assert not classifier.weights.requires_grad


def test_logits_are_scaled_cosines(generator):
    classifier = zero_shot_classifier(embed, CLASSES, templates=TEMPLATES, logit_scale=20.0)
    embedding = 7 * torch.randn(4, 6, generator=generator)
    expected = [[20 * float(unit(e) @ w) for w in classifier.weights] for e in embedding]
    assert_close(classifier.logits(embedding), torch.tensor(expected), FLOAT32_TOL)
    assert_close(classifier.logits(1000 * embedding), classifier.logits(embedding), FLOAT32_TOL)


def test_logits_are_differentiable_and_take_the_embeddings_dtype(generator):
    classifier = zero_shot_classifier(embed, CLASSES)
    embedding = torch.randn(2, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    assert classifier.logits(embedding).dtype == torch.float64
    assert torch.autograd.gradcheck(classifier.logits, embedding)


def test_accuracy_is_the_share_of_largest_logits():
    classifier = ZeroShotClassifier(torch.eye(3), CLASSES, logit_scale=1.0)
    embedding = torch.tensor([[9.0, 1, 0], [0, 0.1, 0], [0, 1, 2], [3, 2, 1]])
    assert classifier.accuracy(embedding, torch.tensor([0, 1, 1, 2])) == 0.5
    assert classifier.accuracy(embedding, torch.tensor([0, 1, 2, 0])) == 1.0
    with pytest.raises(InputError, match="split is empty"):
        classifier.accuracy(embedding[:0], torch.tensor([], dtype=torch.int64))


def test_names_with_braces_and_percent_signs_are_taken_as_they_are():
    seen = []
    zero_shot_classifier(lambda texts: seen.extend(texts) or embed(texts), ["{0}", "100% {x}"], templates=["<{}>"])
    assert seen == ["<{0}>", "<100% {x}>"]


@pytest.mark.parametrize(
    ("classes", "templates", "message"),
    [
        (["red"], ["{}"], "at least two different names, got .'red'."),
        ([], ["{}"], "at least two different names"),
        (["red", "blue", "red"], ["{}"], "at least two different names"),
        ("red", ["{}"], "at least two different names, got 'red'"),
        (["red", "blue"], [], "templates must be a list of texts"),
        (["red", "blue"], ["a photo"], "one '{}' each, got .'a photo'."),
        (["red", "blue"], ["{}", "{} and {}"], "one '{}' each"),
        (["red", "blue"], "{}", "templates must be a list of texts"),
    ],
)
def test_what_is_no_task_is_refused_before_any_text_is_embedded(classes, templates, message):
    def never(texts):
        raise AssertionError("embedded")

    with pytest.raises(InputError, match=message):
        zero_shot_classifier(never, classes, templates=templates)
