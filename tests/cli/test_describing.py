"""`residual-lens describe`: a table on the terminal, the same as JSON, and refusals in one line."""

from functools import partial

import pytest

from residual_lens.activations import Store, encode
from residual_lens.data import open_images
from residual_lens.descriptions import Descriptions, describe
from residual_lens.hooked.vit import HookedViT
from residual_lens.text import Dictionary


@pytest.fixture
def describing(run):
    """`residual-lens describe` with some arguments."""
    return partial(run, "describe")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Path of a store of the shipped model."""
    path = tmp_path_factory.mktemp("store") / "digits.h5"
    encode(HookedViT.from_pretrained("attribute-clip"), open_images("digits", limit=60), path).close()
    return path


def test_it_prints_and_saves_what_the_library_gives(describing, store, tmp_path):
    out, markdown = tmp_path / "out" / "a.json", tmp_path / "a.md"
    code, printed, err = describing(
        *("--store", store, "--dictionary", "attributes", "--out", out, "--units", "L5H3", "2_mlp_out"),
        *("--n-atoms", 6, "--n-null", 19, "--seed", 3, "--markdown", markdown),
    )
    assert (code, err) == (0, "")
    found = Descriptions.load(out)
    hvit = HookedViT.from_pretrained("attribute-clip")
    with Store(store) as opened:
        atoms = Dictionary.of_attributes(hvit, cache=None)
        assert found == describe(opened, atoms, ["L5H3", "2_mlp_out"], 6, n_null=19, seed=3)
    rows = [line for line in printed.splitlines() if line.startswith((" L5H3", " 2_mlp_out"))]
    assert len(rows) == 2
    assert all(", ".join(one.texts[:5]) in row for one, row in zip(found, sorted(rows), strict=True))
    assert "attribute-clip on digits/train (60 samples), in 81 texts of attribute world" in printed
    assert markdown.read_text(encoding="utf-8").count("\n| ") == 3
    assert len(list((tmp_path / "home" / ".cache" / "residual_lens" / "dictionaries").iterdir())) == 1


def test_files_of_texts_and_saved_dictionaries_are_taken(describing, store, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("the digit seven\nthe digit zero\n\n")
    common = ("--store", store, "--units", "L5H3", "--n-null", 19)
    code, printed, _ = describing(
        *common, "--dictionary", texts, "--out", tmp_path / "a.json", "--cache", tmp_path / "cache"
    )
    assert code == 0
    assert "2 texts of file texts.txt" in printed
    assert len(list((tmp_path / "cache").iterdir())) == 1
    saved = tmp_path / "texts.safetensors"
    Dictionary.from_file(HookedViT.from_pretrained("attribute-clip"), texts, cache=None).save(saved)
    # No model is needed, not even one that exists.
    assert describing(*common, "--dictionary", saved, "--out", tmp_path / "b.json", "--model", "none")[0] == 0
    assert Descriptions.load(tmp_path / "a.json") == Descriptions.load(tmp_path / "b.json")


def test_another_model_is_refused(describing, store, tmp_path, monkeypatch):
    load = HookedViT.from_pretrained

    def retrained(name, **options):
        hvit = load("attribute-clip", **options)
        next(hvit.source.visual.parameters()).data.mul_(1.01)
        return hvit

    monkeypatch.setattr(HookedViT, "from_pretrained", retrained)
    out = tmp_path / "a.json"
    code, printed, err = describing(
        "--store", store, "--dictionary", "attributes", "--out", out, "--model", "retrained"
    )
    assert (code, printed) == (2, "")
    assert "digits.h5 was made with attribute-clip, this is" in err
    assert err.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--dictionary", "nothing.txt"),
            "There is no dictionary or file 'nothing.txt': give 'attributes', 'imagenet'",
        ),
        (("--dictionary", "words:50"), "attribute-clip does not know "),
        (("--dictionary", "attributes", "--units", "L9"), "There is no unit 'L9'"),
        (("--dictionary", "attributes", "--n-null", "5"), "n_null of at least 19"),
        (("--dictionary", "attributes", "--model", "clip-z"), "Unknown model 'clip-z'"),
    ],
)
def test_what_cannot_be_done_is_one_line(describing, store, tmp_path, arguments, message):
    code, printed, err = describing("--store", store, *arguments, "--out", tmp_path / "a.json")
    assert (code, printed) == (2, "")
    assert err.startswith("residual-lens: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "a.json").exists()


def test_help_has_examples(describing):
    code, out, _ = describing("--help")
    assert code == 0
    assert "residual-lens describe --store digits.h5 --dictionary attributes" in out


def test_inputs_are_not_written_over_and_bad_names_are_told_of_at_once(describing, store, tmp_path):
    before = store.read_bytes()
    code, _, err = describing("--store", store, "--dictionary", "attributes", "--out", store)
    assert code == 2
    assert "one of the inputs" in err
    assert store.read_bytes() == before
    code, _, err = describing("--store", store, "--dictionary", "attributes", "--out", tmp_path)
    assert code == 2
    assert "is a folder" in err
    assert "--out" in err
    code, _, err = describing(
        "--store", store, "--dictionary", "none.txt", "--units", "L99", "--out", tmp_path / "a.json"
    )
    assert code == 2
    assert "no unit 'L99'" in err
