"""The ends of components are the samples of least and largest coordinate, sorted by hand."""

import pytest
import torch

from residual_lens.activations import extraction
from residual_lens.atlas.ends import component_ends
from residual_lens.bases import fit_bases
from tests.activations.stores import wrapped
from tests.atlas.labelled import store_of

N_IMAGES = 30


@pytest.fixture(scope="module", params=["ViT-B-16", "siglip-timm"])
def store(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(extraction, "BLOCK_ROWS", 8)
        with store_of(wrapped(request.param), tmp_path_factory.mktemp("store"), N_IMAGES) as store:
            yield store


@pytest.mark.parametrize("rows", [None, [29, 3, 17, 4, 8, 9, 21, 0, 12, 25, 26]])
def test_ends_are_those_of_sorted_coordinates(store, rows):
    bases = fit_bases(store)
    found = component_ends(store, bases, 3, 4, rows=rows)
    assert list(found) == list(bases)
    for unit, basis in bases.items():
        parts = store.decompose(units=unit, dtype=torch.float64).values[:, 0]
        assert len(found[unit]) == 3
        for ends, direction in zip(found[unit], basis.components, strict=False):
            along = parts @ direction.double()
            order = sorted(rows or range(N_IMAGES), key=lambda row: float(along[row]))
            assert list(ends.low) == order[:4]
            assert list(ends.high) == order[::-1][:4]


def test_no_image_is_at_both_ends(store):
    bases = fit_bases(store, units="L0")
    for ends in component_ends(store, bases, 1, 9, rows=[1, 2, 3, 4, 5]).values():
        assert len(ends[0].low) == len(ends[0].high) == 2
        assert not set(ends[0].low) & set(ends[0].high)


def test_units_that_do_not_vary_have_no_ends(store):
    still = fit_bases(store, rows=[3, 3, 3, 3], units=["L0H0"])
    assert component_ends(store, still, 4, 2) == {"L0H0": ()}


def test_there_are_no_more_ends_than_components_that_vary(store):
    bases = fit_bases(store, rows=[0, 1, 2], units=["L0H0", "0_mlp_out"])
    assert [len(ends) for ends in component_ends(store, bases, 1000, 1).values()] == [2, 2]
