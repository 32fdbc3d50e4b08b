"""Units are described by the words that they write, and labels that chance would find as well are shown as such."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from residual_lens.activations import Store, encode
from residual_lens.data import open_images
from residual_lens.data.attribute_world import ATTRIBUTES
from residual_lens.descriptions import AgainstChance, Descriptions, coherence, describe, mirrored
from residual_lens.errors import InputError, MismatchError
from residual_lens.hooked.vit import HookedViT
from residual_lens.text import Dictionary
from tests.reference.descriptions import naive_coherence, naive_mirror, naive_p, naive_somp
from tests.tolerances import FLOAT32_TOL, assert_close

N_IMAGES = 150
SHARE_TOL = 1e-5
"""Shares of variance with mirrored atoms that are rounded to float32."""
PLANTED = ("red", "at the top", "seven")


class Planted(Store):
    """A store in which some units write what a test says."""

    def plant(self, by_unit: dict[str, Tensor]) -> "Planted":
        self.by_unit = by_unit
        return self

    def coordinates(self, unit, rows=None, *, dtype=torch.float64):
        if unit in self.by_unit:
            return self.by_unit[unit][slice(None) if rows is None else rows].to(dtype), None
        return super().coordinates(unit, rows, dtype=dtype)


@pytest.fixture(scope="module")
def hvit() -> HookedViT:
    return HookedViT.from_pretrained("attribute-clip")


@pytest.fixture(scope="module")
def words(hvit) -> Dictionary:
    return Dictionary.of_attributes(hvit, cache=None)


@pytest.fixture(scope="module")
def path(hvit, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "attributes.h5"
    encode(hvit, open_images("attributes", limit=N_IMAGES), path, value_format="float32").close()
    return path


@pytest.fixture
def store(path):
    with Planted(path) as store:
        yield store.plant({})


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def subspace(rank: int, seed: int) -> Tensor:
    """Orthonormal rows."""
    return torch.linalg.qr(drawn(96, rank, seed=seed)).Q.mT


def test_a_head_that_writes_known_words_is_described_by_them(store, words):
    atoms = words.select(PLANTED).embeddings.double()
    strengths = torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64)
    store.plant({"L2H3": 5 + (drawn(N_IMAGES, 3) * strengths) @ atoms})
    described = describe(store, words, "L2H3", n_null=19)["L2H3"]
    assert set(described.texts[:3]) == set(PLANTED)
    assert described.texts[0] == "at the top"
    assert described.explained_by(3) == pytest.approx(1.0, abs=1e-9)
    assert described.explained_by(1) < 0.8
    assert described.means_something
    assert described.fit.p == 1 / 20
    assert described.fit.score > described.fit.mean + 5 * described.fit.sd


def test_a_word_under_noise_is_still_found(store, words):
    loud = drawn(N_IMAGES, 1) @ words.select(["seven"]).embeddings.double()
    store.plant({"L2H3": loud + 0.1 * drawn(N_IMAGES, 24, seed=1) @ subspace(24, 2)})
    described = describe(store, words, "L2H3", n_null=19)["L2H3"]
    assert described.texts[0] == "seven"
    assert described.means_something


@pytest.mark.parametrize("kind", ["noise", "mixture of all words"])
def test_a_head_that_says_nothing_is_shown_as_such(kind, store, words):
    directions = subspace(24, 2) if kind == "noise" else drawn(8, 81, seed=2) @ words.embeddings.double()
    store.plant({"L3H4": drawn(N_IMAGES, len(directions), seed=1) @ directions})
    described = describe(store, words, "L3H4", n_null=19)["L3H4"]
    assert len(described.texts) == 20
    assert not described.means_something


def test_of_units_that_say_nothing_one_in_twenty_passes(words):
    # By the score of the first pick, which needs no pursuit, so that units can be many.
    n_units = 400
    spread = drawn(n_units, 8, 81, seed=3) @ words.embeddings.double()
    x = torch.randn(n_units, 30, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64) @ spread

    def best(atoms: Tensor) -> Tensor:
        return (x @ atoms.double().mT).abs().sum(dim=1).amax(dim=1)

    real = best(words.embeddings)
    random = torch.stack([best(one) for one in mirrored(words.embeddings, 19, seed=0)])
    p = torch.tensor([AgainstChance.of(*one).p for one in zip(real.tolist(), random.mT.tolist(), strict=True)])
    assert 0.02 < float((p <= 0.05).double().mean()) < 0.09
    assert abs(float(p.mean()) - 0.525) < 0.06


def test_a_head_that_does_not_vary_has_no_label(store, words):
    store.plant({"L0H1": torch.full((N_IMAGES, 96), 3.7, dtype=torch.float64)})
    still = describe(store, words, "L0H1", n_null=19)["L0H1"]
    assert (still.texts, still.explained, still.explained_by(5)) == ((), (), 0.0)
    assert still.fit == still.coherence == AgainstChance(0.0, 0.0, 0.0, 1.0)
    assert not still.means_something


def test_the_shipped_models_background_head_is_labelled_with_backgrounds(store, words):
    described = describe(store, words, "L5H2", n_null=19)["L5H2"]
    assert set(described.texts[:5]) <= set(ATTRIBUTES["background"])
    assert described.means_something
    assert len(described.texts) == 20
    assert all(np.diff(described.explained) >= 0)


def test_scores_are_those_of_the_definition(store, words):
    units = ["L4H5", "4_mlp_out"]
    rows = np.arange(N_IMAGES) % 3 > 0
    some = words.select(range(0, 81, 2))
    found = describe(store, some, units, 7, rows=rows, n_null=19, seed=5)
    generator = torch.Generator().manual_seed(5)
    signs = [2.0 * torch.randint(0, 2, (96,), generator=generator) - 1 for _ in range(19)]
    # Float32, as embeddings are.
    others = [naive_mirror(some.embeddings, one).float() for one in signs]
    for unit in units:
        x = store.decompose(rows, unit, dtype=torch.float64)[unit]
        picks, explained = naive_somp(x, some.embeddings, 7)
        assert found[unit].texts == tuple(some.texts[pick] for pick in picks)
        assert found[unit].explained == pytest.approx(explained, abs=SHARE_TOL)
        runs = [naive_somp(x, other, 5) for other in others]
        fits = [run[1][-1] for run in runs]
        themes = [naive_coherence(other, run[0]) for other, run in zip(others, runs, strict=True)]
        for score, expected, random in (
            (found[unit].fit, explained[4], fits),
            (found[unit].coherence, naive_coherence(some.embeddings, picks[:5]), themes),
        ):
            assert score.score == pytest.approx(expected, abs=SHARE_TOL)
            assert score.mean == pytest.approx(np.mean(random), abs=SHARE_TOL)
            assert score.sd == pytest.approx(np.std(random, ddof=1), abs=SHARE_TOL)
            assert score.p == pytest.approx(naive_p(expected, random))


def test_mirrored_dictionaries_keep_angles_and_directions_and_move_the_words(words):
    real = words.embeddings
    found = list(mirrored(real, 3, seed=1))
    for one in found:
        assert_close(one @ one.mT, real @ real.mT, FLOAT32_TOL)
        assert_close(one.mT @ one, real.mT @ real, FLOAT32_TOL)
        assert float((one * real).sum(dim=1).abs().median()) < 0.8
        assert one.dtype == real.dtype
    assert not torch.allclose(found[0], found[1])
    assert torch.equal(found[2], list(mirrored(real, 3, seed=1))[2])
    assert not torch.allclose(found[0], next(mirrored(real, 1, seed=2)))


def test_p_counts_the_dictionary_itself_and_ties():
    assert AgainstChance.of(2.0, [1.0, 3.0, 2.0]) == AgainstChance(2.0, 2.0, 1.0, 3 / 4)
    assert AgainstChance.of(4.0, [1.0, 3.0, 2.0]).p == 1 / 4


def test_coherence_is_the_mean_cosine_of_centred_atoms(words):
    assert coherence(words.embeddings, [3, 1, 40]) == pytest.approx(naive_coherence(words.embeddings, [3, 1, 40]))
    assert (coherence(words.embeddings, [3]), coherence(words.embeddings, [])) == (0.0, 0.0)


def test_one_seed_gives_the_same_and_another_other_draws(store, words):
    first, same, other = (describe(store, words, "L5H3", 5, n_null=19, seed=seed)["L5H3"] for seed in (0, 0, 1))
    assert first == same
    assert (other.texts, other.explained, other.fit.score) == (first.texts, first.explained, first.fit.score)
    assert other.fit.mean != first.fit.mean


def test_fewer_texts_than_asked_for_where_the_dictionary_has_no_more(store, words):
    colours = words.select(ATTRIBUTES["colour"][:3])
    described = describe(store, colours, "L5H3", n_null=19)["L5H3"]
    assert sorted(described.texts) == sorted(colours.texts)
    assert described.explained_by(20) == described.explained_by(3) == described.fit.score
    only = describe(store, words.select(["red"]), "L5H3", n_null=19)["L5H3"]
    assert (only.texts, only.coherence.score) == (("red",), 0.0)


def test_provenance_tells_store_dictionary_and_settings(store, words):
    made = describe(store, words, "L5H3", 3, rows=slice(0, 50), n_null=20, seed=4).provenance
    assert made["store"]["data"] == "attributes"
    assert made["dictionary"] == words.provenance
    assert {name: made[name] for name in ("n_texts", "n_samples", "n_atoms", "n_null", "seed")} == {
        "n_texts": 81,
        "n_samples": 50,
        "n_atoms": 3,
        "n_null": 20,
        "seed": 4,
    }


def test_what_is_saved_is_loaded(store, words, tmp_path):
    described = describe(store, words, ["L5H3", "L0H0"], 5, n_null=19)
    described.save(tmp_path / "folder" / "a.json")
    loaded = Descriptions.load(tmp_path / "folder" / "a.json")
    assert loaded == described
    assert [one.unit for one in loaded] == ["L0H0", "L5H3"]
    with pytest.raises(InputError, match="There is no description of 'L1H1', only of L0H0, L5H3"):
        loaded["L1H1"]


def test_other_files_are_refused(store, words, tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(InputError, match="There is no file"):
        Descriptions.load(path)
    describe(store, words, "L5H3", 2, n_null=19).save(path)
    values = json.loads(path.read_text())
    del values["descriptions"][0]["texts"]
    for text, message in (
        (path.read_text()[:-30], "is not JSON"),
        ("[]", "holds kind=None, format=None; expected"),
        (json.dumps({**values, "format": 2}), "format=2; expected kind='residual_lens.Descriptions', format=1"),
        (json.dumps(values), "lacks fields or has others"),
        (json.dumps({**values, "descriptions": None}), "lacks fields or has others"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            Descriptions.load(path)


def test_a_dictionary_of_another_model_is_refused(store, words):
    others = replace(words, provenance={**words.provenance, "model_fingerprint": "0123456789abcdef0123"})
    with pytest.raises(MismatchError, match=r"image towers 0123456789abcdef and .* Build it with attribute-clip"):
        describe(store, others, "L5H3")
    with pytest.raises(MismatchError, match="widths 3 and 96"):
        describe(store, Dictionary(("a", "b", "c"), torch.eye(3)), "L5H3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_atoms": 0}, "n_atoms of at least 1 and n_null of at least 19, got 0 and 39"),
        ({"n_null": 18}, "n_null of at least 19, got 20 and 18"),
        ({"units": "L9H9"}, "no unit 'L9H9'"),
        ({"units": "bias"}, "'bias' is what no unit writes"),
        ({"units": ()}, "No units were named"),
        ({"rows": [0]}, "at least two samples, got 1"),
        ({"rows": [N_IMAGES]}, f"places 0 to {N_IMAGES - 1}"),
    ],
)
def test_what_cannot_be_described_is_refused_before_any_work(arguments, message, store, words, monkeypatch):
    def never(*_, **__):
        raise AssertionError("values were read")

    monkeypatch.setattr(Planted, "coordinates", never)
    with pytest.raises(InputError, match=message):
        describe(store, words, **arguments)


def test_progress_is_shown_when_asked_for(store, words, capfd):
    describe(store, words, "L0H0", 2, n_null=19, progress=True)
    assert "describing: 100%" in capfd.readouterr().err
    describe(store, words, "L0H0", 2, n_null=19)
    assert capfd.readouterr().err == ""


def test_a_dictionary_of_few_texts_spans_the_same_whatever_its_mirror_image(store, words):
    few = words.select(ATTRIBUTES["size"])
    for description in describe(store, few, "L5"):
        assert description.fit.p == 1
        assert not description.means_something


def test_all_is_all_but_bias_in_a_list_too(store, words):
    assert [d.unit for d in describe(store, words, ["L5H0", "all"], 2, n_null=19)] == [
        unit for unit in store.units.names if unit != "bias"
    ]
