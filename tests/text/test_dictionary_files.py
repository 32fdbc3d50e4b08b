"""Dictionaries on disk: saved and loaded whole, embedded once, and nothing damaged is ever used."""

import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from residual_lens.errors import InputError
from residual_lens.text import Dictionary
from tests.text.encoder import WordEncoder

TEXTS = ["red", "green thing", "a blue thing"]


@pytest.fixture
def dictionary() -> Dictionary:
    return Dictionary.of_texts(WordEncoder(), TEXTS, cache=None)


def same(a: Dictionary, b: Dictionary) -> bool:
    return a.texts == b.texts and torch.equal(a.embeddings, b.embeddings) and a.provenance == b.provenance


def test_what_is_saved_is_loaded(dictionary, tmp_path):
    path = tmp_path / "folder" / "words.safetensors"
    dictionary.save(path)
    assert same(Dictionary.load(path), dictionary)
    # Any reader of safetensors finds the embeddings.
    assert torch.equal(load_file(path)["embeddings"], dictionary.embeddings)
    chosen = dictionary.select([2, 0])
    chosen.save(path)
    assert same(Dictionary.load(path), chosen)
    assert [file.name for file in path.parent.iterdir()] == ["words.safetensors"]


def test_provenance_that_json_cannot_hold_is_refused(dictionary, tmp_path):
    for value in (torch.zeros(1), float("nan")):
        with pytest.raises(InputError, match="cannot be written as JSON"):
            Dictionary(dictionary.texts, dictionary.embeddings, {"a": value}).save(tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_every_changed_byte_is_noticed(dictionary, tmp_path):
    path = tmp_path / "a.safetensors"
    dictionary.save(path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(InputError, match=r"a\.safetensors"):
            Dictionary.load(path)
    for length in (0, 5, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"a\.safetensors is no safetensors file, cut short or changed"):
            Dictionary.load(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(InputError, match="There is no file"):
        Dictionary.load(path)
    save_file({"embeddings": torch.eye(3)}, path)
    with pytest.raises(
        InputError, match=r"no residual_lens\.Dictionary of format 1, .* but format None and embeddings"
    ):
        Dictionary.load(path)


def test_the_same_dictionary_is_embedded_once(tmp_path):
    first, second = WordEncoder(), WordEncoder()
    once = Dictionary.of_texts(first, TEXTS, cache=tmp_path / "cache")
    again = Dictionary.of_texts(second, TEXTS, cache=tmp_path / "cache")
    assert same(once, again)
    assert (first.encoded, second.encoded) == (TEXTS, [])
    # Another source of the same texts shares the embeddings, not the provenance.
    (tmp_path / "words.txt").write_text("\n".join(TEXTS))
    of_file = Dictionary.from_file(second, tmp_path / "words.txt", cache=tmp_path / "cache")
    assert torch.equal(of_file.embeddings, once.embeddings)
    assert of_file.provenance["source"] == "file words.txt"
    assert second.encoded == []


@pytest.mark.parametrize(
    "build",
    [
        lambda encoder, cache: Dictionary.of_texts(encoder, TEXTS[::-1], cache=cache),
        lambda encoder, cache: Dictionary.of_texts(encoder, TEXTS[:2], cache=cache),
        lambda encoder, cache: Dictionary.of_classes(encoder, TEXTS, ["the {}"], cache=cache),
        lambda encoder, cache: Dictionary.of_texts(WordEncoder("others"), TEXTS, cache=cache),
    ],
)
def test_others_are_embedded_anew(build, tmp_path):
    Dictionary.of_texts(WordEncoder(), TEXTS, cache=tmp_path)
    build(WordEncoder(), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_users_cache_is_the_default(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    Dictionary.of_texts(WordEncoder(), TEXTS)
    assert len(list((tmp_path / ".cache" / "residual_lens" / "dictionaries").glob("*.safetensors"))) == 1


@pytest.mark.parametrize("damage", ["cut", "changed", "foreign", "other"])
def test_a_damaged_or_foreign_file_in_the_cache_is_written_anew(damage, tmp_path, caplog):
    once = Dictionary.of_texts(WordEncoder(), TEXTS, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    if damage == "other":
        once.select([2, 1, 0]).save(path)
    else:
        path.write_bytes(
            {"cut": whole[:-8], "changed": whole[:-1] + bytes([whole[-1] ^ 1]), "foreign": b"mine"}[damage]
        )
    encoder = WordEncoder()
    with caplog.at_level(logging.WARNING):
        again = Dictionary.of_texts(encoder, TEXTS, cache=tmp_path)
    assert same(again, once)
    assert encoder.encoded == TEXTS
    assert path.read_bytes() == whole
    assert str(path) in caplog.text
    assert "written anew" in caplog.text


def test_a_cache_that_cannot_be_written_is_logged_and_costs_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    dictionary = Dictionary.of_texts(WordEncoder(), TEXTS, cache=tmp_path / "file")
    assert len(dictionary) == 3
    assert "could not be kept for the next time" in caplog.text
