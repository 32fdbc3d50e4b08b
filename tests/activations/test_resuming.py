"""One writer at a time, the same arguments to go on, and nothing is done twice."""

import gc
import os
import pickle
import sys
import tracemalloc

import pytest
import torch

from residual_lens.activations import Store, encode, extraction
from residual_lens.activations.writer import alone_with, partial_of
from residual_lens.errors import InputError, MismatchError, StoreError
from tests.activations.disk import in_a_process
from tests.activations.stores import encoded, image_set, source_of, wrapped

IMAGES = 10


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(extraction, "BLOCK_ROWS", 4)


def test_a_second_writer_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    with alone_with(path), pytest.raises(StoreError, match=r"Another process is writing .*a\.h5: wait until"):
        encode(wrapped(), image_set(IMAGES), path)
    encoded(wrapped(), image_set(IMAGES), path).close()
    assert [file.name for file in tmp_path.iterdir()] == ["a.h5"]


def test_a_second_process_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    with alone_with(path):
        code, _ = in_a_process(path)
    assert code == 1
    assert not list(tmp_path.glob("*.h5*"))


def test_a_finished_file_is_given_back_without_a_run_over_the_data(tmp_path):
    path, images = tmp_path / "a.h5", image_set(IMAGES)
    encoded(wrapped(), images, path).close()
    before = path.read_bytes()
    again = image_set(IMAGES)
    assert len(encoded(wrapped(), again, path)) == IMAGES
    assert not source_of(again).asked
    assert path.read_bytes() == before


@torch.no_grad()
def other_weights():
    hvit = wrapped()
    next(hvit.source.parameters())[0] += 1
    return hvit


def other_preprocessing():
    hvit = wrapped()
    object.__setattr__(hvit.parts.preprocessing, "mean", (0.1, 0.5, 0.6))
    return hvit


DIFFERENT = {
    "weights": (other_weights, {}, {}, "model_fingerprint is"),
    "center": (lambda: wrapped(center="uniform"), {}, {}, "center is own, not uniform"),
    "dtype": (lambda: wrapped(dtype=torch.bfloat16), {}, {}, r"model_dtype is torch\.float32, not torch\.bfloat16"),
    "preprocessing": (other_preprocessing, {}, {}, r"preprocessing\.mean is \[0\.4, 0\.5, 0\.6\], not \[0\.1"),
    "data": (wrapped, {"name": "others"}, {}, "data is noise, not others; data_fingerprint"),
    "length": (wrapped, {"n": 9}, {}, "n_samples is 10, not 9"),
    "format": (wrapped, {}, {"value_format": "float16"}, "value_format is int16, not float16"),
    "batch size": (wrapped, {}, {"batch_size": 2}, "batch_size is 4, not 2"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_anything_else_is_refused_with_what_differs(name, tmp_path):
    make, data, arguments, said = DIFFERENT[name]
    hvit, images = make(), image_set(**({"n": IMAGES} | data))
    finished, begun = tmp_path / "a.h5", tmp_path / "b.h5"
    encoded(wrapped(), image_set(IMAGES), finished).close()
    with pytest.raises(MismatchError, match=rf"a\.h5 is there already, and was made from something else: .*{said}"):
        encoded(hvit, images, finished, **arguments)
    finished.replace(partial_of(begun))
    before = partial_of(begun).read_bytes()
    with pytest.raises(MismatchError, match=rf"b\.h5\.partial was begun with something else: .*{said}.*or delete it"):
        encoded(hvit, images, begun, **arguments)
    assert partial_of(begun).read_bytes() == before
    assert not source_of(images).asked


def test_a_refusal_does_not_advise_to_do_the_same_again(tmp_path, caplog):
    encoded(wrapped(), image_set(IMAGES), tmp_path / "a.h5").close()
    (tmp_path / "a.h5").replace(tmp_path / "b.h5.partial")
    with pytest.raises(MismatchError):
        encode(wrapped(), image_set(IMAGES), tmp_path / "b.h5", batch_size=2)
    assert not caplog.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"value_format": "int8"}, "got 'int8'"),
        ({"process": 2, "n_processes": 2}, "process must be one of 0 to 1, got 2"),
        ({"process": 1, "n_processes": 3, "batch_size": 8}, "too few for 3 processes"),
    ],
)
def test_arguments_that_mean_nothing_are_refused_first(arguments, said, tmp_path):
    with pytest.raises(InputError, match=said):
        encode(wrapped(), image_set(IMAGES), tmp_path / "a.h5", **arguments)
    assert not list(tmp_path.iterdir())


def test_no_images_are_refused(tmp_path):
    with pytest.raises(InputError, match="noise/train has no images"):
        encode(wrapped(), image_set(0), tmp_path / "a.h5")


def test_what_a_store_would_not_tell_of_is_refused(tmp_path):
    hvit, images = wrapped(), image_set(IMAGES)
    with (
        hvit.hooks([("blocks.0.attn.hook_z", lambda z, hook: z * 0)]),
        pytest.raises(MismatchError, match=r"A hook at blocks\.0\.attn\.hook_z is in force"),
    ):
        encode(hvit, images, tmp_path / "a.h5")
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(MismatchError, match="Autocast is on"):
        encode(hvit, images, tmp_path / "a.h5")
    hvit.train()
    with pytest.raises(InputError, match="in train mode"):
        encode(hvit, images, tmp_path / "a.h5")
    assert not list(tmp_path.iterdir())


def test_the_block_size_is_whole_batches(tmp_path):
    with encoded(wrapped(), image_set(IMAGES), tmp_path / "a.h5", batch_size=3) as store:
        assert store.layout.block_rows == 3
    with encoded(wrapped(), image_set(IMAGES), tmp_path / "b.h5", batch_size=7) as store:
        assert store.layout.block_rows == 7


def test_images_loaded_beside_the_model_give_the_same_file(tmp_path):
    encoded(wrapped(), image_set(IMAGES), tmp_path / "a.h5").close()
    encoded(wrapped(), image_set(IMAGES), tmp_path / "b.h5", workers=2).close()
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_memory_does_not_grow_with_the_data(tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "BLOCK_ROWS", 64)
    peaks, sizes = [], []
    # The first run has more to set up than later ones.
    for name, n_blocks in (("a", 2), ("b", 2), ("c", 8)):
        path = tmp_path / name
        tracemalloc.start()
        encoded(wrapped(), image_set(64 * n_blocks), path, batch_size=64, value_format="float32").close()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        sizes.append(path.stat().st_size)
    # Six blocks more: of their rows the ids and what the store keeps of each. One more block may wait for the disk.
    assert peaks[2] - peaks[1] < 0.5 * (sizes[2] - sizes[1])


def test_a_folder_that_cannot_be_written_is_an_error_of_the_system(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        encode(wrapped(), image_set(IMAGES), tmp_path / "file" / "a.h5")


def test_the_same_weights_under_another_name_are_the_same_model(tmp_path):
    encoded(wrapped(), image_set(IMAGES), tmp_path / "a.h5").close()
    encoded(wrapped(model_name="other"), image_set(IMAGES), tmp_path / "a.h5").close()


def test_a_store_in_another_process_opens_its_file_anew(tmp_path):
    store = encoded(wrapped(), image_set(IMAGES), tmp_path / "a.h5")
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301 - what the line before made
    store.close()
    assert torch.equal(copy.embeddings(), Store(tmp_path / "a.h5").embeddings())
    copy.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="open files are counted in /proc")
def test_stores_that_nobody_closes_keep_no_file_open(tmp_path):
    encoded(wrapped(), image_set(IMAGES), tmp_path / "a.h5").close()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        Store(tmp_path / "a.h5")
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
