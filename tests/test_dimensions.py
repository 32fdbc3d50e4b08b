"""unit_dimensions measures what the twins measure on the contributions themselves, in d_out dimensions."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import Tensor

from residual_lens.activations import Store
from residual_lens.dimensions import unit_dimensions
from residual_lens.errors import InputError
from tests.activations.stores import encoded, image_set, wrapped
from tests.reference.dimension import (
    naive_linear_dimension,
    naive_participation_ratio,
    naive_two_nearest,
    naive_two_nn,
)
from tests.reference.pca import naive_pca

N_IMAGES = 60
SHARE_TOL = 1e-5
"""Variances of float32 against those of float64."""
TWO_NN_TOL = 1e-6
"""Float64 distances in coordinates that are isometric to contributions of float64."""


def store_of(hvit, path, n_images: int = N_IMAGES) -> Store:
    return encoded(hvit, image_set(n_images, hvit.cfg.image_size), path / "a.h5", value_format="float32")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with store_of(wrapped("ViT-B-16"), tmp_path_factory.mktemp("store")) as store:
        yield store


def assert_measures(found, x: Tensor, share: float) -> None:
    """Measures of one unit are the twins' of its contributions `[sample d_out]`."""
    variances = naive_pca(x[:, None])[0].variances
    assert found.n_samples == len(x)
    assert found.linear == naive_linear_dimension(variances, share)
    assert found.participation_ratio == pytest.approx(naive_participation_ratio(variances), rel=SHARE_TOL)
    assert found.first_share == pytest.approx(float(variances[0] / variances.sum()), rel=SHARE_TOL)
    distinct = torch.unique(x, dim=0)
    assert found.n_duplicates == len(x) - len(distinct)
    assert found.two_nn == pytest.approx(naive_two_nn(naive_two_nearest(distinct)), rel=TWO_NN_TOL)
    assert 0 < found.two_nn_error < found.two_nn


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [("ViT-B-16", {}), ("avg-norm-before-pool", {"center": "uniform"}), ("siglip-timm", {})],
)
def test_measures_are_those_of_the_contributions(kind, arguments, tmp_path):
    with store_of(wrapped(kind, **arguments), tmp_path) as store:
        units = ["L0", "1_mlp_out", "L1H1", "embed"] if kind == "ViT-B-16" else ["L0", "1_mlp_out"]
        measured = unit_dimensions(store, units, share=0.9)
        parts = store.decompose(units=units, dtype=torch.float64)
        assert [found.unit for found in measured] == list(parts.units.names)
        for found in measured:
            assert_measures(found, parts[found.unit], 0.9)


def test_rows_choose_samples_and_the_share_is_of_their_variance(store):
    rows = np.arange(N_IMAGES) % 2 == 0
    x = store.decompose(rows, "L2H1", dtype=torch.float64)["L2H1"]
    linear = []
    for share in (0.5, 0.99, 1.0):
        (found,) = unit_dimensions(store, "L2H1", rows=rows, share=share)
        assert_measures(found, x, share)
        linear.append(found.linear)
    assert linear[0] < linear[1] < linear[2]


def test_all_heads_are_measured_by_default(store):
    measured = unit_dimensions(store)
    assert [found.unit for found in measured] == [head.name for head in store.heads()]
    # A head cannot take up more dimensions than it writes.
    assert all(found.linear <= store.layout.d_head + 1 for found in measured)


def test_copies_are_counted_and_left_out(store):
    once = unit_dimensions(store, "L1H0", rows=range(30))[0]
    twice = unit_dimensions(store, "L1H0", rows=[*range(30), *range(10)])[0]
    assert (once.n_duplicates, twice.n_duplicates, twice.n_samples) == (0, 10, 40)
    assert twice.two_nn == pytest.approx(once.two_nn, rel=1e-12)


@torch.no_grad()
def test_a_unit_that_does_not_vary_has_no_dimensions(tmp_path):
    hvit = wrapped("ViT-B-16")
    attention = hvit.source.transformer.resblocks[1].attn
    attention.out_proj.weight[:, :8] = 0.0
    attention.out_proj.bias.zero_()
    with store_of(hvit, tmp_path) as store:
        still, moving = unit_dimensions(store, ["L1H0", "L1H1"])
    zeros = {"linear": 0, "two_nn": 0.0, "two_nn_error": 0.0, "participation_ratio": 0.0, "first_share": 0.0}
    assert asdict(still) == {"unit": "L1H0", "n_samples": N_IMAGES, "n_duplicates": N_IMAGES - 1, **zeros}
    assert moving.two_nn > 1


def test_a_unit_of_too_few_distinct_samples_is_named(store):
    with pytest.raises(InputError, match=r"L1H0 of .*a\.h5 has no TwoNN dimension.*3 distinct samples, got 2"):
        unit_dimensions(store, "L1H0", rows=[0, 1, 0, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": [0, 1]}, r"at least three samples, got 2 of .*a\.h5"),
        ({"rows": []}, "at least three samples, got 0"),
        ({"rows": [N_IMAGES]}, f"places 0 to {N_IMAGES - 1}"),
        ({"units": "L9H9"}, "no unit 'L9H9'"),
        ({"units": "bias"}, "'bias' is what no unit writes"),
        ({"units": ()}, "No units were named"),
        ({"share": 0.0}, "above 0 and at most 1, got 0.0"),
        ({"share": 99.0}, "above 0 and at most 1, got 99.0"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_work(arguments, message, store, monkeypatch):
    def never(*_, **__):
        raise AssertionError("values were read")

    monkeypatch.setattr(Store, "head_features", never)
    monkeypatch.setattr(Store, "decompose", never)
    with pytest.raises(InputError, match=message):
        unit_dimensions(store, **arguments)


def test_progress_is_shown_when_asked_for(store, capfd):
    unit_dimensions(store, "L0H0", progress=True)
    assert "dimensions: 100%" in capfd.readouterr().err
    unit_dimensions(store, "L0H0")
    assert capfd.readouterr().err == ""
