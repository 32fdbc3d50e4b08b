"""By unit and by rows, and nothing is read that was not asked for."""

import gc
import json
import os

import h5py
import numpy as np
import pytest
import torch

from residual_lens.activations import Store, extraction
from residual_lens.activations.blocks import BlockFile
from residual_lens.errors import InputError, MismatchError, StoreError
from tests.activations.stores import BATCH, encoded, image_set, wrapped
from tests.tolerances import FLOAT64_TOL, assert_close

IMAGES, BLOCK_ROWS = 22, 8


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "a.h5"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(extraction, "BLOCK_ROWS", BLOCK_ROWS)
        encoded(wrapped(), image_set(IMAGES), path, value_format="float32").close()
    return path


@pytest.fixture
def store(path):
    with Store(path) as store:
        yield store


ROWS = {
    "slice": slice(3, 19),
    "steps": slice(20, 2, -3),
    "list": [5, 5, 0, 21, 8],
    "negative": [-1, -22],
    "mask": np.arange(IMAGES) % 3 == 1,
    "tensor": torch.tensor([9, 2]),
    "range": range(7, 9),
    "none of them": [],
    "empty slice": slice(5, 5),
    "all": None,
}
UNITS = {
    "one": "L1H2",
    "heads": "heads",
    "mlps": "mlps",
    "a layer": "L0",
    "some": ["bias", "1_mlp_out", "L0H3", "embed"],
    "all": "all",
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("units", UNITS.values(), ids=UNITS)
def test_parts_are_parts_of_the_whole(store, rows, units):
    whole = store.decompose()
    chosen = [unit.name for unit in store.units.select(units)]
    by_place = slice(None) if rows is None else rows if isinstance(rows, slice) else list(rows)
    at = np.arange(IMAGES)[by_place or slice(0)]
    part = store.decompose(rows, units)
    assert part.units.names == tuple(chosen)
    expected = whole.values[torch.from_numpy(at.copy())][:, [store.units.position(name) for name in chosen]]
    torch.testing.assert_close(part.values, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(store.embeddings(rows), store.embeddings()[torch.from_numpy(at.copy())])


@pytest.fixture
def reads(monkeypatch):
    """Pieces as they are read."""
    seen = []
    read_run = BlockFile.read_run

    def spied(self, key, blocks, into):
        seen.extend((key, block) for block in blocks)
        read_run(self, key, blocks, into)

    monkeypatch.setattr(BlockFile, "read_run", spied)
    return seen


@pytest.mark.parametrize(
    ("rows", "units", "expected"),
    [
        (slice(9, 12), "L1H2", [(("heads", 6), 1)]),
        ([0, 21], ["L0H3", "embed"], [(("terms", 0), 0), (("terms", 0), 2), (("heads", 3), 0), (("heads", 3), 2)]),
        (slice(8), "bias", []),
        ([], "all", []),
    ],
)
def test_no_other_unit_and_no_other_block_is_read(store, reads, rows, units, expected):
    store.decompose(rows, units)
    assert reads == expected


def test_opening_reads_per_sample_numbers_only(path, reads):
    Store(path).close()
    assert {key for key, _ in reads} == {(f"samples/{name}", None) for name in ("status", "inverse_scale", "constants")}


def test_as_many_bytes_are_read_as_are_needed(path, monkeypatch):
    sizes = {"pread": 0, "preadv": 0}
    pread, preadv = os.pread, os.preadv

    def counted(name, done):
        sizes[name] += done
        return done

    monkeypatch.setattr(os, "pread", lambda fd, n, at: (counted("pread", n), pread(fd, n, at))[1])
    monkeypatch.setattr(os, "preadv", lambda fd, raw, at: counted("preadv", preadv(fd, raw, at)))
    with Store(path) as store:
        layout = store.layout
        assert sizes["pread"] == 4 * layout.n_blocks * (len(layout.pieces()) + 1)
        per_row = 4 * layout.n_routes + 4 * layout.n_constants + 1
        assert sizes["preadv"] == IMAGES * per_row
        store.values("L0H2", rows=[9])
        assert sizes["preadv"] == IMAGES * per_row + BLOCK_ROWS * 4 * layout.d_head


def test_a_system_that_gives_few_bytes_at_a_time_gives_them_all(store, monkeypatch):
    whole, preadv = store.decompose().values, os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, raw, at: preadv(fd, [raw[0][:100]], at))
    assert torch.equal(store.decompose().values, whole)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([22], r"places 0 to 21 here, got 22 to 22"),
        ([-23], "got -23"),
        (np.ones(3, bool), r"one value a sample, 22; got shape \[3\]"),
        (np.array([0.5]), r"a slice, a list of places or a mask, got float64 \[1\]"),
        (np.array([[1, 2]]), r"a slice, a list of places or a mask, got int64 \[1, 2\]"),
    ],
)
def test_rows_that_are_not_there_are_refused(store, rows, said):
    with pytest.raises(InputError, match=said):
        store.decompose(rows)


def test_units_that_are_not_there_are_refused(store):
    with pytest.raises(InputError, match=r"There is no unit 'L9H0'\. .*Did you mean"):
        store.decompose(units="L9H0")
    with pytest.raises(InputError, match="No units were named"):
        store.decompose(units=[])
    with pytest.raises(InputError, match="Expected heads, got 0_mlp_out"):
        store.head_features(units=["L0H0", "0_mlp_out"])


def test_who_the_samples_are(store):
    images = image_set(IMAGES)
    assert store.sample_ids == tuple(images.sample_id(row) for row in range(IMAGES))
    assert store.skipped_ids == ()
    assert store.labels.tolist() == images.labels.tolist()
    assert len(store) == IMAGES
    assert "22 samples of noise/train" in repr(store)


def test_blocks_go_through_all_samples(store):
    assert [places.tolist() for places in store.blocks()] == [[*range(8)], [*range(8, 16)], [*range(16, 22)]]
    assert [places.tolist() for places in store.blocks([7, 9, 8, 21])] == [[7], [9, 8], [21]]
    assert not list(store.blocks([]))


def test_where_it_came_from_is_in_the_file(store):
    made = store.provenance
    hvit = wrapped()
    assert made.model_fingerprint == hvit.fingerprint()
    assert made.preprocessing == json.loads(json.dumps(hvit.preprocessing.to_dict()))
    assert (made.data, made.split, made.classes, made.n_samples) == ("noise", "train", ("a", "b", "c"), IMAGES)
    assert made.data_fingerprint == image_set(IMAGES).fingerprint()
    assert set(made.versions) == {"residual_lens", "torch"}


@torch.no_grad()
def test_another_model_is_refused_with_what_differs(store):
    store.require_model(wrapped())
    other = wrapped()
    next(other.source.parameters())[0] += 1
    with pytest.raises(MismatchError, match=r"a\.h5 was made with .*: model_fingerprint is \w+, not \w+\. Use"):
        store.require_model(other)
    with pytest.raises(MismatchError, match="center is own, not uniform"):
        store.require_model(wrapped(center="uniform"))
    with pytest.raises(MismatchError, match=r"model_dtype is torch\.float32, not torch\.bfloat16"):
        store.require_model(wrapped(dtype=torch.bfloat16))


def test_plain_hdf5_reads_it(path, store):
    with h5py.File(path) as file:
        heads = file["heads/values"]
        assert heads.shape == (8, IMAGES, 8)
        assert np.array_equal(heads[5], store.values("L1H1").numpy())
        assert file["samples/id"][3].decode() == store.sample_ids[3]


def test_a_closed_store_says_so(path):
    store = Store(path)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="was closed: open it again"):
        store.decompose()


def test_several_readers_at_once(path, tmp_path):
    with Store(path) as one, Store(path) as two:
        writing = encoded(wrapped(), image_set(BATCH), tmp_path / "b.h5")
        assert torch.equal(one.decompose().values, two.decompose().values)
        writing.close()
    gc.collect()


@pytest.mark.parametrize("unit", ["L1H2", "0_mlp_out", "embed"])
def test_coordinates_are_isometric_to_contributions(store, unit):
    coordinates, frame = store.coordinates(unit, ROWS["steps"])
    parts = store.decompose(ROWS["steps"], unit, dtype=torch.float64).values[:, 0]
    if frame is None:
        assert unit != "L1H2"
    else:
        assert_close(frame @ frame.mT, torch.eye(len(frame), dtype=torch.float64), FLOAT64_TOL)
    assert_close(coordinates if frame is None else coordinates @ frame, parts, FLOAT64_TOL)
