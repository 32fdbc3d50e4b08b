"""Saved bases come back as they were, and whatever is damaged is refused with the file's name."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
import torch

from residual_lens.bases import Bases, Basis, saving
from residual_lens.errors import InputError

PROVENANCE = {"data": "Ziffern – digits", "split": {"name": "train", "seed": 42}, "classes": ["null", "eins"]}


def basis(components: int, seed: int, d_out: int = 12) -> Basis:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(components, d_out, generator=generator)
    return Basis(rows.sum(dim=0), rows, torch.rand(components, generator=generator), 1 / 3 + seed)


@pytest.fixture
def bases() -> Bases:
    """Ragged, in an order that is not the alphabet's."""
    sizes = {"L10H0": 9, "L2H0": 9, "L2H1": 4, "2_mlp_out": 12, "embed": 12, "L3H0": 0}
    by_unit = {name: basis(size, seed) for seed, (name, size) in enumerate(sizes.items())}
    return Bases(by_unit, 8, "uniform", 0.1 + 0.2, 1234, "tïny", "ab" * 32, PROVENANCE)


@pytest.fixture
def file(bases, tmp_path) -> Path:
    bases.save(tmp_path / "bases.h5")
    return tmp_path / "bases.h5"


def test_everything_comes_back_to_the_last_bit(bases, file):
    loaded = Bases.load(str(file))
    assert list(loaded) == list(bases)
    for name in ("d_head", "center", "scale", "n_samples", "model_name", "fingerprint", "provenance"):
        assert getattr(loaded, name) == getattr(bases, name)
    for name, expected in bases.items():
        assert loaded[name].total_variance == expected.total_variance
        for key in ("mean", "components", "variances"):
            found = getattr(loaded[name], key)
            assert found.dtype == torch.float32
            assert torch.equal(found, getattr(expected, key))


def test_saving_what_was_loaded_gives_the_same_bytes(file, tmp_path):
    Bases.load(file).save(tmp_path / "again.h5")
    assert (tmp_path / "again.h5").read_bytes() == file.read_bytes()


def test_plain_h5py_reads_it(bases, file):
    with h5py.File(file) as found:
        assert sorted(found) == ["0x12", "12x12", "4x12", "9x12", "about"]
        group = found["9x12"]
        assert list(group["units"].asstr()) == ["L10H0", "L2H0"]
        assert group["components"].shape == (2, 9, 12)
        assert (group["mean"][1] == bases["L2H0"].mean.numpy()).all()
        assert json.loads(found["about"][()])["n_samples"] == 1234


def test_saving_again_replaces_the_file_and_leaves_no_other(bases, file):
    replace(bases, n_samples=5).save(file)
    assert Bases.load(file).n_samples == 5
    assert [each.name for each in file.parent.iterdir()] == ["bases.h5"]


def test_every_changed_byte_is_noticed(file):
    data = file.read_bytes()
    places = {*range(saving.HEADER_BYTES + 64), *range(saving.HEADER_BYTES, len(data), 41), len(data) - 1}
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        file.write_bytes(changed)
        with pytest.raises(InputError, match=r"bases\.h5"):
            Bases.load(file)


@pytest.mark.parametrize("keep", [0, 100, 512, 513, -1])
def test_a_file_cut_short_is_refused(file, keep):
    data = file.read_bytes()
    file.write_bytes(data[:keep])
    with pytest.raises(InputError, match=r"bases\.h5 (is cut short|does not begin)"):
        Bases.load(file)


def test_bytes_added_at_the_end_are_noticed(file):
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(InputError, match="cut short or was added to"):
        Bases.load(file)


@pytest.mark.parametrize(("key", "value"), [("kind", "residual_lens.Store"), ("format", 2)])
def test_another_kind_or_a_newer_format_is_refused(file, key, value):
    data = file.read_bytes()
    header = json.loads(data[:512].rstrip(b"\0")) | {key: value}
    file.write_bytes(json.dumps(header).encode().ljust(512, b"\0") + data[512:])
    with pytest.raises(
        InputError, match=rf"bases\.h5 holds .*{key}={value!r}.*reads kind='residual_lens.Bases', format=1"
    ):
        Bases.load(file)


def test_other_files_are_refused(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = [1.0]
    (tmp_path / "list.h5").write_bytes(b"[1]".ljust(600, b"\0"))
    for name in ("other.h5", "list.h5"):
        with pytest.raises(InputError, match=f"{name} does not begin as Bases.save begins a file"):
            Bases.load(tmp_path / name)
    with pytest.raises(InputError, match=r"There is no file .*nowhere\.h5"):
        Bases.load(tmp_path / "nowhere.h5")


def test_the_header_vouches_for_the_rest(file):
    data = file.read_bytes()
    header = json.loads(data[:512].rstrip(b"\0"))
    assert header["sha256"] == hashlib.sha256(data[512:]).hexdigest()


@pytest.mark.parametrize("bad", [{"x": object()}, {"x": float("nan")}])
def test_provenance_that_json_cannot_hold_is_refused_before_anything_is_written(bases, file, bad):
    before = file.read_bytes()
    with pytest.raises(InputError, match="cannot be written as JSON"):
        replace(bases, provenance=bad).save(file)
    assert file.read_bytes() == before


def test_the_repr_says_what_they_cover(bases):
    assert repr(bases) == "Bases(6 units L10H0 … L3H0 of tïny, center='uniform', 1,234 samples)"
    one = replace(bases, by_unit={"L2H0": bases["L2H0"]})
    assert repr(one) == "Bases(1 unit L2H0 of tïny, center='uniform', 1,234 samples)"
