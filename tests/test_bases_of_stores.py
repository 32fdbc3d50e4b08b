"""fit_bases of a store gives the PCA of the contributions of its samples, in memory that does not grow with them."""

import numpy as np
import pytest
import torch

from residual_lens.activations import Store, extraction
from residual_lens.activations.blocks import BlockFile
from residual_lens.bases import Bases, fit_bases, of_stores
from residual_lens.errors import InputError, StoreError
from tests.activations.stores import BATCH, contributions, encoded, image_set, pixels_of, wrapped
from tests.reference.pca import covariance, naive_pca
from tests.tolerances import BFLOAT16_SUM_TOL, FLOAT32_TOL, assert_close

N_IMAGES, BLOCK_ROWS = 44, 8
UNITS = ("heads", "mlps", "embed")
KINDS = ["ViT-B-16", "avg-norm-before-pool", "avg-norm-after-pool", "siglip-timm", "rms-token"]
CASES = [*((kind, "own") for kind in KINDS), ("ViT-B-16", "uniform"), ("avg-norm-before-pool", "uniform")]
COVARIANCE_TOL = 10 * FLOAT32_TOL
"""Contributions rounded to float32, with means up to three times the spread."""
INT16_TOL = 2e-4
"""15 bits of each value, squared."""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(extraction, "BLOCK_ROWS", BLOCK_ROWS)


def store_of(hvit, path, n_images=N_IMAGES, *, value_format="float32", **arguments) -> Store:
    images = image_set(n_images, hvit.cfg.image_size, bad=arguments.pop("bad", ()))
    return encoded(hvit, images, path / f"{n_images}.h5", value_format=value_format, **arguments)


def assert_pca_of(bases: Bases, values: dict[str, torch.Tensor], tol: float) -> None:
    """Bases are those of `[sample d_out]` by unit, by one SVD each."""
    assert list(bases) == list(values)
    for name, basis in bases.items():
        naive = naive_pca(values[name][:, None])[0]
        assert_close(basis.mean, naive.mean, tol)
        assert_close(basis.variances, naive.variances[: len(basis.variances)], tol)
        expected = covariance(naive.components, naive.variances)
        assert_close(covariance(basis.components, basis.variances), expected, tol)
        assert basis.total_variance == pytest.approx(float(naive.variances.sum()), rel=tol)
        assert bases.n_samples == len(values[name])


def of_units(parts: torch.Tensor, names: tuple[str, ...], bases: Bases) -> dict[str, torch.Tensor]:
    return {name: parts[:, names.index(name)] for name in bases}


@pytest.mark.parametrize(("kind", "center"), CASES)
def test_they_are_the_naive_pca_of_what_the_model_gives(kind, center, tmp_path):
    hvit = wrapped(kind, center=center)
    parts = contributions(hvit, image_set(N_IMAGES, hvit.cfg.image_size))
    with store_of(hvit, tmp_path) as store:
        bases = fit_bases(store, units=UNITS)
    assert set(bases) == set(hvit.units.names) - {"bias", "pool_mlp_out"}
    assert_pca_of(bases, of_units(parts, hvit.units.names, bases), COVARIANCE_TOL)


@pytest.mark.parametrize(
    ("kind", "arguments", "value_format", "tol"),
    [
        ("ViT-B-16", {}, "float32", FLOAT32_TOL),
        ("ViT-B-16", {}, "int16", INT16_TOL),
        ("coca", {}, "float32", COVARIANCE_TOL),
        ("avg-norm-before-pool", {"center": "uniform"}, "float32", COVARIANCE_TOL),
        ("ViT-B-16", {"dtype": torch.bfloat16}, "float32", FLOAT32_TOL),
        ("ViT-B-16", {"dtype": torch.float16, "center": "uniform"}, "float32", FLOAT32_TOL),
    ],
)
def test_they_are_those_of_the_model_and_its_images(kind, arguments, value_format, tol, tmp_path):
    hvit = wrapped(kind, **arguments)
    images = pixels_of(hvit, image_set(N_IMAGES, hvit.cfg.image_size))
    expected = fit_bases(hvit, images, units="all", batch_size=BATCH)
    with store_of(hvit, tmp_path, value_format=value_format) as store:
        bases = fit_bases(store, units="all")
    assert list(bases) == list(expected)
    same = ("d_head", "center", "n_samples", "model_name", "fingerprint")
    assert [getattr(bases, name) for name in same] == [getattr(expected, name) for name in same]
    assert bases.scale == pytest.approx(expected.scale, rel=FLOAT32_TOL)
    for name in expected:
        assert bases[name].components.shape == expected[name].components.shape
        assert_close(bases[name].mean, expected[name].mean, tol)
        assert_close(bases[name].variances, expected[name].variances, tol)
        ours, theirs = (covariance(b[name].components, b[name].variances) for b in (bases, expected))
        assert_close(ours, theirs, tol)


def test_rounding_of_half_precision_that_decompose_counts_to_heads_is_small(tmp_path):
    with store_of(wrapped("ViT-B-16", dtype=torch.bfloat16), tmp_path) as store:
        bases = fit_bases(store, units=UNITS)
        values = store.decompose(units=list(bases))
    assert_pca_of(bases, of_units(values.values, values.units.names, bases), BFLOAT16_SUM_TOL)


ROWS = {
    "slice": slice(3, 40, 3),
    "mask": np.arange(N_IMAGES) % 3 == 1,
    "shuffled": torch.randperm(N_IMAGES, generator=torch.Generator().manual_seed(0))[:20],
    "repeated": [5, 5, 0, -1, 30, 5],
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_rows_choose_samples(rows, tmp_path):
    with store_of(wrapped(), tmp_path) as store:
        bases = fit_bases(store, units=["L1H2", "0_mlp_out"], rows=rows)
        values = store.decompose(rows, list(bases))
        expected = 1 / store.inverse_scales(rows).double().mean()
    assert_pca_of(bases, of_units(values.values, values.units.names, bases), COVARIANCE_TOL)
    assert bases.scale == pytest.approx(float(expected), rel=1e-12)


def test_images_that_were_skipped_are_no_samples(tmp_path):
    with store_of(wrapped(), tmp_path, bad=[0, 9], on_corrupt="skip") as store:
        bases = fit_bases(store, units="L0", rows=slice(1, None))
        values = store.decompose(slice(1, None), "L0")
    assert bases.n_samples == N_IMAGES - 3
    assert_pca_of(bases, of_units(values.values, values.units.names, bases), COVARIANCE_TOL)


@pytest.fixture
def reads(monkeypatch):
    """Pieces as they are read from the file."""
    seen = []
    read_run = BlockFile.read_run

    def spied(self, key, blocks, into):
        seen.extend((key, block) for block in blocks)
        read_run(self, key, blocks, into)

    monkeypatch.setattr(BlockFile, "read_run", spied)
    return seen


@pytest.mark.parametrize("rows", [None, "shuffled"])
def test_each_block_of_each_unit_is_read_once_and_no_other_unit(rows, reads, tmp_path):
    with store_of(wrapped(), tmp_path) as store:
        reads.clear()
        fit_bases(store, units=["L1H2", "L0H0", "0_mlp_out"], rows=ROWS.get(rows))
        blocks = range(store.layout.n_blocks)
    values = [(key, block) for key, block in reads if key[0] in ("heads", "terms")]
    units = [("heads", 0), ("heads", 6), ("terms", 1)]
    assert sorted(values) == [(unit, block) for unit in units for block in blocks]


def test_no_more_than_a_few_blocks_are_in_memory_however_many_samples_there_are(monkeypatch, tmp_path):
    largest = {}
    moments = of_stores.moments_of_pieces

    def spied(n_units, blocks, piece):
        def measured(unit, places):
            x = piece(unit, places)
            largest[n_images] = max(largest.get(n_images, 0), x.untyped_storage().nbytes())
            return x

        return moments(n_units, blocks, measured)

    monkeypatch.setattr(of_stores, "moments_of_pieces", spied)
    for n_images in (8 * BLOCK_ROWS, 16 * BLOCK_ROWS):
        with store_of(wrapped(), tmp_path, n_images) as store:
            fit_bases(store)
            assert store.layout.block_rows == BLOCK_ROWS
    numbers = max(of_stores.BLOCKS * (store.layout.d_head + 1), store.layout.d_out)
    assert largest[8 * BLOCK_ROWS] == largest[16 * BLOCK_ROWS] == 8 * BLOCK_ROWS * numbers


def test_they_know_what_they_belong_to_and_are_saved_with_it(tmp_path):
    with store_of(wrapped(), tmp_path) as store:
        bases = fit_bases(store, units="L0")
        assert bases.provenance == store.provenance.as_json()
    bases.save(tmp_path / "bases.h5")
    loaded = Bases.load(tmp_path / "bases.h5")
    assert loaded.provenance == bases.provenance
    assert loaded.provenance["data"] == "noise"
    assert torch.equal(loaded["L0H1"].components, bases["L0H1"].components)


def test_the_order_is_that_of_the_model_and_all_leaves_out_bias(tmp_path):
    with store_of(wrapped(), tmp_path) as store:
        assert list(fit_bases(store, units=["1_mlp_out", "L0H2", "embed"])) == ["embed", "L0H2", "1_mlp_out"]
        assert list(fit_bases(store, units="all")) == [name for name in store.units.names if name != "bias"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": ("heads", "bias")}, "'bias' is what no unit writes"),
        ({"units": "L7H0"}, "no unit 'L7H0'"),
        ({"units": ()}, "No units were named"),
        ({"rows": [3]}, "at least two samples, got 1"),
        ({"rows": []}, "at least two samples, got 0"),
        ({"rows": [0, N_IMAGES]}, f"places 0 to {N_IMAGES - 1}"),
        ({"images": torch.zeros(2, 3, 24, 24)}, "A store holds what a model made of its images"),
    ],
)
def test_what_cannot_be_fitted_is_refused_before_any_values_are_read(arguments, message, reads, tmp_path):
    with store_of(wrapped(), tmp_path) as store:
        reads.clear()
        with pytest.raises(InputError, match=message):
            fit_bases(store, **arguments)
    assert not [key for key, _ in reads if key[0] in ("heads", "terms")]


def test_a_model_takes_images_and_no_rows():
    hvit = wrapped()
    with pytest.raises(InputError, match="A model needs images"):
        fit_bases(hvit)
    with pytest.raises(InputError, match="Rows choose samples of a store"):
        fit_bases(hvit, torch.zeros(2, 3, 24, 24), rows=[0, 1])


def test_damage_is_told_of(tmp_path):
    store_of(wrapped(), tmp_path).close()
    path = tmp_path / f"{N_IMAGES}.h5"
    with Store(path) as store:
        raw = store.values("L0H0", rows=[0]).numpy().tobytes()
    data = bytearray(path.read_bytes())
    data[data.index(raw)] ^= 1
    path.write_bytes(data)
    with Store(path) as store, pytest.raises(StoreError, match="damaged"):
        fit_bases(store)


def test_progress_is_shown_when_asked_for(capfd, tmp_path):
    with store_of(wrapped(), tmp_path) as store:
        fit_bases(store, progress=True)
        assert "fitting bases: 100%" in capfd.readouterr().err
        fit_bases(store)
        assert capfd.readouterr().err == ""
