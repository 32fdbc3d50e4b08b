"""A dictionary holds what its model makes of its texts, refuses what would mean nothing, and knows where it is from."""

import hashlib
import json
import logging
from importlib.metadata import version

import pytest
import torch
import wordfreq
from torch import Tensor

from residual_lens.data.attribute_world import ATTRIBUTES, TEMPLATES
from residual_lens.errors import InputError, MismatchError, UnsupportedModelError
from residual_lens.hooked.vit import HookedViT
from residual_lens.text import Dictionary, open_dictionary, zero_shot_classifier
from residual_lens.text.prompts import BATCH
from tests.text.encoder import WordEncoder
from tests.tolerances import FLOAT32_TOL, assert_close


@pytest.fixture
def encoder() -> WordEncoder:
    return WordEncoder()


@pytest.fixture(scope="module")
def shipped() -> HookedViT:
    return HookedViT.from_pretrained("attribute-clip")


def unit(vector: Tensor) -> Tensor:
    return vector / vector.square().sum().sqrt()


def test_texts_are_embedded_by_the_models_own_text_tower(shipped):
    texts = ["a red square", "the letter a", "a red square on a navy background"]
    dictionary = Dictionary.of_texts(shipped, texts, cache=None)
    assert dictionary.texts == tuple(texts)
    assert_close(dictionary.embeddings, torch.cat([shipped.encode_text([text]) for text in texts]), FLOAT32_TOL)
    assert (dictionary.embeddings.dtype, str(dictionary.embeddings.device)) == (torch.float32, "cpu")


def test_classes_are_the_ensembles_of_the_zero_shot_classifier(shipped):
    words, templates = ATTRIBUTES["colour"], TEMPLATES["colour"]
    dictionary = Dictionary.of_classes(shipped, words, templates, cache=None)
    assert_close(
        dictionary.embeddings,
        zero_shot_classifier(shipped.encode_text, words, templates=templates).weights,
        FLOAT32_TOL,
    )
    assert dictionary.provenance["templates"] == list(templates)


def test_the_attribute_world_gives_each_word_its_own_attributes_prompts(shipped):
    dictionary = Dictionary.of_attributes(shipped, cache=None)
    assert dictionary.texts == tuple(word for words in ATTRIBUTES.values() for word in words)
    for attribute in ("digit", "background"):
        chosen = dictionary.select(ATTRIBUTES[attribute])
        expected = zero_shot_classifier(shipped.encode_text, chosen.texts, templates=TEMPLATES[attribute]).weights
        assert_close(chosen.embeddings, expected, FLOAT32_TOL)


def test_frequent_words_are_wordfreqs(encoder, monkeypatch):
    monkeypatch.setattr(wordfreq, "top_n_list", lambda language, n: ["the", "of", "a", "green", "red"][:n])
    dictionary = Dictionary.of_words(encoder, 4, cache=None)
    assert dictionary.texts == ("the", "of", "a", "green")
    assert dictionary.provenance["source"] == f"wordfreq {version('wordfreq')}, top 4 of English"
    for n in (0, -1, 6):
        with pytest.raises(InputError, match=f"Asked for {n} English words; wordfreq knows 5"):
            Dictionary.of_words(encoder, n, cache=None)


def test_batches_hold_whole_groups_and_change_nothing(encoder):
    words = [f"{a} {b} {c}" for a in ("red", "green", "blue") for b in ("a", "the", "of") for c in ("thing", "photo")]
    templates = ["{}", "a {}", *(f"{'a ' * n}{{}}" for n in range(2, 30))]
    sizes = []
    encode_text = encoder.encode_text
    encoder.encode_text = lambda texts: sizes.append(len(texts)) or encode_text(texts)
    dictionary = Dictionary.of_classes(encoder, words, templates, cache=None)
    assert len(sizes) > 1
    assert all(size <= BATCH and size % len(templates) == 0 for size in sizes)
    for row, word in enumerate(words):
        mean = sum(encode_text([template.replace("{}", word)])[0] for template in templates) / len(templates)
        assert_close(dictionary.embeddings[row], unit(mean), FLOAT32_TOL)


def test_provenance_says_which_model_which_texts_and_which_version(encoder):
    dictionary = Dictionary.of_texts(encoder, ["red"], cache=None)
    made = dictionary.provenance
    assert {name: made[name] for name in ("model", "model_fingerprint", "text_fingerprint", "source", "version")} == {
        "model": "words",
        "model_fingerprint": "image tower",
        "text_fingerprint": "text",
        "source": "texts",
        "version": version("residual_lens"),
    }
    digests = {
        Dictionary.of_texts(one, texts, cache=None).provenance["prompts_sha256"]
        for one, texts in [
            (encoder, ["red"]),
            (encoder, ["green"]),
            (encoder, ["red", "green"]),
            (encoder, ["green", "red"]),
            (WordEncoder("others"), ["red"]),
        ]
    }
    assert len(digests) == 5
    grouped = Dictionary.of_classes(encoder, ["red"], ["{}", "{} thing"], cache=None)
    flat = Dictionary.of_texts(encoder, ["red", "red thing"], cache=None)
    assert grouped.provenance["prompts_sha256"] != flat.provenance["prompts_sha256"]


def test_words_that_the_model_does_not_know_are_named(encoder):
    with pytest.raises(InputError, match=r"words does not know 2 of these texts' 4 words: 'zebra', '!'\. Such texts"):
        Dictionary.of_texts(encoder, ["red zebra", "a zebra!"], cache=None)
    assert encoder.encoded == []


def test_the_shipped_model_refuses_frequent_words_instead_of_one_meaning_for_all(shipped):
    with pytest.raises(InputError, match=r"attribute-clip does not know [\d,]+ of these texts' \d+ words: 'to', 'and'"):
        Dictionary.of_words(shipped, 300, cache=None)


def test_repeated_texts_and_such_as_read_the_same_are_left_out_and_logged(encoder, caplog):
    dictionary = Dictionary.of_texts(
        encoder, ["red", "Red", "blue", "red", "a a a a a red", "a a a a a blue"], cache=None
    )
    assert dictionary.texts == ("red", "blue", "a a a a a red")
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "texts: 1 repeated texts were left out: 'red'.",
        "words reads 2 texts as earlier ones, and they were left out: 'Red', 'a a a a a blue'.",
    ]


def test_a_file_gives_one_text_a_line(encoder, tmp_path, caplog):
    path = tmp_path / "words.txt"
    data = "\ufeffred thing\r\n\r\n  the blue thing \n\ngreen\nred thing".encode()
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        dictionary = Dictionary.from_file(encoder, path, cache=None)
    assert dictionary.texts == ("red thing", "the blue thing", "green")
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: 2 blank lines were left out.",
        f"{path}: 1 repeated texts were left out: 'red thing'.",
    ]
    assert dictionary.provenance["source"] == "file words.txt"
    assert dictionary.provenance["source_sha256"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "There is no file .*words.txt: give a text file"),
        (b"", "holds no text"),
        (b" \n\t\n", "holds no text"),
        ("red\nrötlich\n".encode("latin-1"), "is not UTF-8: line 2 holds the byte 0xf6"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(encoder, tmp_path, data, message):
    path = tmp_path / "words.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        Dictionary.from_file(encoder, path, cache=None)


@pytest.mark.parametrize("texts", ["red", [], ["red", " "], ["red", ""]])
def test_what_is_no_list_of_texts_is_refused(encoder, texts):
    with pytest.raises(InputError, match="expected a list of texts, none of them blank, got"):
        Dictionary.of_texts(encoder, texts, cache=None)


def test_a_model_without_text_tower_is_refused(hvit):
    with pytest.raises(UnsupportedModelError, match="has no text tower"):
        Dictionary.of_texts(hvit, ["red"], cache=None)


def test_atoms_are_chosen_by_text_or_by_place(encoder):
    dictionary = Dictionary.of_texts(encoder, ["red", "green", "blue"], cache=None)
    for which in (["blue", "red"], [2, 0], [-1, -3]):
        chosen = dictionary.select(which)
        assert chosen.texts == ("blue", "red")
        assert torch.equal(chosen.embeddings, dictionary.embeddings[[2, 0]])
        assert chosen.provenance == {**dictionary.provenance, "selected_from": 3}
    for which, message in (
        (["rde"], "has no text 'rde'. Close ones: 'red'"),
        ([3], "has places 0 to 2, got 3"),
        ([0, -3], "list of different texts or places"),
        ([], "list of different texts or places"),
        ("red", "list of different texts or places, got 'red'"),
    ):
        with pytest.raises(InputError, match=message):
            dictionary.select(which)


def test_what_is_no_dictionary_is_refused():
    eye = torch.eye(3)
    for texts, embeddings, message in (
        (("a", "b"), eye, r"2 texts, 2 different ones, and embeddings \[3, 3\]"),
        (("a", "b", "a"), eye, "3 texts, 2 different ones"),
        ((), eye[:0], "0 texts"),
        (("a", "b", "c"), 2 * eye, "that of 'a' has 2"),
        (("a", "b", "c"), eye.index_fill(0, torch.tensor([1]), torch.nan), "that of 'b' has nan"),
        (("a", "b", "c"), eye * (torch.arange(3) != 2)[:, None], "that of 'c' has 0"),
    ):
        with pytest.raises(InputError, match=message):
            Dictionary(texts, embeddings)


def test_another_models_space_is_refused(encoder):
    dictionary = Dictionary.of_texts(encoder, ["red"], cache=None)
    dictionary.require_space(6, "words", "image tower")
    with pytest.raises(MismatchError, match=r"is in another space than other's image embedding: widths 6 and 8, "):
        dictionary.require_space(8, "other", "image tower")
    with pytest.raises(MismatchError, match="image towers image tower and another tower"):
        dictionary.require_space(6, "words", "another tower")
    by_hand = Dictionary(("red",), dictionary.embeddings)
    by_hand.require_space(6, "words", "another tower")
    with pytest.raises(MismatchError, match="widths 6 and 8"):
        by_hand.require_space(8, "words", "another tower")


def test_dictionaries_open_by_name(encoder, shipped, tmp_path, monkeypatch):
    monkeypatch.setattr(wordfreq, "top_n_list", lambda language, n: ["the", "of", "a"][:n])
    assert open_dictionary(encoder, "words:2", cache=None).texts == ("the", "of")
    assert len(open_dictionary(shipped, "attributes", cache=None)) == 81
    (tmp_path / "words.txt").write_text("red\n")
    assert open_dictionary(encoder, str(tmp_path / "words.txt"), cache=None).texts == ("red",)
    for name, message in (
        ("words:many", "say how many words"),
        ("words:", "say how many words"),
        ("attribute", "There is no dictionary or file 'attribute': give 'attributes'"),
    ):
        with pytest.raises(InputError, match=message):
            open_dictionary(encoder, name, cache=None)


def test_imagenet_is_its_classes_in_clips_templates(encoder, monkeypatch):
    from residual_lens.text import opening

    monkeypatch.setattr(opening, "imagenet_classes", lambda: ("red thing", "green thing", "red thing"))
    monkeypatch.setattr(opening, "templates", lambda name: {"imagenet": ("a photo of a {}.", "the {}.")}[name])
    dictionary = open_dictionary(encoder, "imagenet", cache=None)
    assert dictionary.texts == ("red thing", "green thing")
    assert set(encoder.encoded) == {
        f"{start} {name}." for start in ("a photo of a", "the") for name in ("red thing", "green thing")
    }
    assert json.dumps(dict(dictionary.provenance))
