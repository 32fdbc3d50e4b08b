"""Classifiers of a run: prompts by name, class means, and refusals."""

from dataclasses import replace

import pytest
import timm
import torch

from residual_lens.data.attribute_world import TEMPLATES
from residual_lens.errors import InputError, UnsupportedModelError
from residual_lens.hooked.vit import HookedViT
from residual_lens.text import templates, zero_shot_classifier
from residual_lens.training.runs import RunConfig
from residual_lens.training.runs.classifiers import (
    LOGIT_SCALE,
    class_means,
    classifier_kind,
    classifier_of,
    templates_of,
)
from tests.backbones.models import BY_NAME
from tests.reference.class_means import reference_class_means
from tests.tolerances import FLOAT32_TOL, assert_close
from tests.training.toy import masked_tokens

CONFIG = RunConfig("attribute-clip", "digits", "zero-shot")
WORDS = ("red", "green", "blue")


def never():
    raise AssertionError("class embeddings from text need no images")


@pytest.fixture(scope="module")
def clip() -> HookedViT:
    return HookedViT.from_pretrained("attribute-clip")


@pytest.fixture(scope="module")
def plain() -> HookedViT:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=2, num_heads=2)
    return HookedViT.wrap(model)


def drawn(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 24, generator=generator) * 10, torch.arange(n) % 3


@pytest.mark.parametrize("n", [3, 50])
def test_class_means_are_those_of_unit_norm_embeddings(n):
    embeddings, labels = drawn(n)
    found = class_means(embeddings, labels, WORDS, logit_scale=7.0)
    assert_close(found.weights, reference_class_means(embeddings, labels, 3).float(), FLOAT32_TOL)
    assert (found.classes, found.logit_scale) == (WORDS, 7.0)


def test_class_means_know_no_length():
    embeddings, labels = drawn(12)
    scaled = embeddings * torch.arange(1, 13)[:, None]
    weights = [class_means(each, labels, WORDS, logit_scale=1.0).weights for each in (embeddings, scaled)]
    assert_close(weights[0], weights[1], FLOAT32_TOL)


def test_class_means_need_each_class():
    embeddings, labels = drawn(12)
    with pytest.raises(InputError, match="there are none of blue"):
        class_means(embeddings[labels < 2], labels[labels < 2], WORDS, logit_scale=1.0)


def test_text_is_the_ensemble_of_prompts_at_the_models_scale(clip):
    found = classifier_of(CONFIG, clip, ("zero", "one"), never)
    expected = zero_shot_classifier(clip.encode_text, ("zero", "one"), templates=TEMPLATES["digit"])
    assert torch.equal(found.weights, expected.weights)
    assert found.logit_scale == clip.logit_scale


def test_class_means_are_taken_where_there_is_no_text_or_where_they_are_asked_for(clip, plain):
    means = replace(CONFIG, classifier="means")
    assert [classifier_kind(CONFIG, clip), classifier_kind(CONFIG, plain), classifier_kind(means, clip)] == [
        "text",
        "means",
        "means",
    ]
    for config, hvit, scale in ((CONFIG, plain, LOGIT_SCALE), (means, clip, clip.logit_scale)):
        found = classifier_of(config, hvit, WORDS, lambda: drawn(12))
        assert torch.equal(found.weights, class_means(*drawn(12), WORDS, logit_scale=1.0).weights)
        assert found.logit_scale == scale
    with pytest.raises(UnsupportedModelError, match=r"no text tower, .* use --classifier means"):
        classifier_kind(replace(CONFIG, classifier="text"), plain)


def test_a_text_tower_without_a_published_scale_classifies_all_the_same():
    blip = HookedViT.wrap(
        BY_NAME["Hugging Face: BlipForImageTextRetrieval (projection with bias)"].build(), tokenizer=masked_tokens
    )
    found = classifier_of(replace(CONFIG, templates="{}"), blip, WORDS, never)
    assert_close(found.weights, blip.encode_text(WORDS), FLOAT32_TOL)
    assert found.logit_scale == LOGIT_SCALE


def test_words_that_the_model_does_not_know_are_refused(clip):
    known = "words of the classes, which no --templates change: give --classifier means"
    for name in ("auto", "{}", "a photo of a {}."):
        with pytest.raises(InputError, match=rf"does not know 1 of .* 2 words: 'forest'\..*{known}\.$"):
            classifier_of(replace(CONFIG, templates=name), clip, ("zero", "forest"), never)
    with pytest.raises(InputError, match=r"words: '\.'\..* give --templates in words that it knows, such as '{}'"):
        classifier_of(replace(CONFIG, templates="a photo of a {}."), clip, ("zero", "one"), never)


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("auto", "digits", TEMPLATES["digit"]),
        ("auto", "attributes:colour@sketch", TEMPLATES["colour"]),
        ("auto", "eurosat", templates("imagenet")),
        ("digits", "folder:tree", TEMPLATES["digit"]),
        ("attributes:size", "folder:tree", TEMPLATES["size"]),
        ("imagenet-simple", "digits", templates("imagenet-simple")),
        ("a photo of a {}.", "digits", ("a photo of a {}.",)),
    ],
)
def test_templates_by_name(name, data, expected):
    assert templates_of(name, data) == expected


def test_unknown_templates_are_refused():
    with pytest.raises(InputError, match=r"templates are auto, imagenet.*got 'imagnet'"):
        templates_of("imagnet", "eurosat")
