"""Images that cannot be read stop a run with their name, or are left out, counted and named."""

import logging

import pytest
import torch

from residual_lens.activations import Store, encode, extraction
from residual_lens.data.images import CorruptImageError
from residual_lens.errors import MismatchError
from tests.activations.stores import contributions, encoded, image_set, relative_by_sample, source_of, wrapped

IMAGES, BLOCK_ROWS = 22, 8


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(extraction, "BLOCK_ROWS", BLOCK_ROWS)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_first_one_stops_the_run_and_mending_it_lets_it_go_on(tmp_path, caplog, workers):
    path, images = tmp_path / "a.h5", image_set(IMAGES, bad=[17])
    with pytest.raises(CorruptImageError, match=r"köpfe/017\.png: cut short"):
        encode(wrapped(), images, path, batch_size=4, workers=workers)
    assert "16 of 22 rows are safe" in caplog.text
    mended = image_set(IMAGES)
    encoded(wrapped(), mended, path).close()
    assert source_of(mended).asked == list(range(16, 22))
    encoded(wrapped(), image_set(IMAGES), tmp_path / "b.h5").close()
    assert path.read_bytes() == (tmp_path / "b.h5").read_bytes()


@pytest.mark.parametrize(
    ("bad", "workers"),
    [([0, 21], 0), ([4, 5, 6, 7], 0), (range(8, 16), 0), ([20, 21], 0), (range(IMAGES), 0), ([3, *range(8, 16)], 2)],
    ids=["ends", "a batch", "a block", "the last batch", "all", "in other processes"],
)
def test_they_are_left_out_counted_and_named(tmp_path, caplog, bad, workers):
    hvit, images, whole = wrapped(), image_set(IMAGES, bad=bad), image_set(IMAGES)
    store = encoded(hvit, images, tmp_path / "a.h5", on_corrupt="skip", workers=workers, value_format="float32")
    kept = [row for row in range(IMAGES) if row not in bad]
    assert len(store) == len(kept)
    assert store.sample_ids == tuple(images.sample_id(row) for row in kept)
    assert store.skipped_ids == tuple(images.sample_id(row) for row in bad)
    assert store.labels.tolist() == [int(images.labels[row]) for row in kept]
    expected = contributions(hvit, whole)[kept]
    assert store.decompose().values.shape == expected.shape
    if kept:
        assert relative_by_sample(store.decompose().values, expected) < 2e-6
        assert torch.equal(store.decompose([-1]).values, store.decompose([len(kept) - 1]).values)
    assert [place for places in store.blocks() for place in places.tolist()] == list(range(len(kept)))
    store.check()
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warned == [f"Skipped: {images.sample_id(row)}: cut short." for row in bad]
    store.close()
    assert Store(tmp_path / "a.h5").skipped_ids == store.skipped_ids


def test_a_run_that_stopped_at_one_goes_on_without_it(tmp_path):
    path, images = tmp_path / "a.h5", image_set(IMAGES, bad=[17])
    with pytest.raises(CorruptImageError, match=r"017\.png: .* Mend it and run again, or pass on_corrupt='skip'"):
        encode(wrapped(), images, path, batch_size=4)
    with encoded(wrapped(), images, path, on_corrupt="skip") as store:
        assert store.skipped_ids == (images.sample_id(17),)
    with pytest.raises(MismatchError, match=r"lacks 1 images that could not be read.*pass on_corrupt='skip'"):
        encode(wrapped(), images, path, batch_size=4)
