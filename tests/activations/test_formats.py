"""What lies on disk gives back what was put in, to the precision of its format."""

import pytest
import torch

from residual_lens.activations.formats import Packing, check_format
from residual_lens.errors import InputError

ROUNDING = {"int16": 4e-5, "float16": 5e-4, "bfloat16": 4e-3, "float32": 0.0}
"""Largest relative L2 error of a row of normally distributed values; half a step of 15, 11, 8 and 24 bits at most."""


def there_and_back(packing, values):
    raw, scales = packing.pack(values)
    assert raw.dtype == packing.dtype
    assert scales.shape == (*values.shape[:-1], packing.groups)
    return packing.unpack(raw, scales)


@pytest.mark.parametrize("name", ROUNDING)
@pytest.mark.parametrize("width", [1, 24, 64, 65, 67, 100, 192, 768])
def test_rows_come_back(name, width, generator):
    values = torch.randn(5, 20, width, generator=generator)
    error = (there_and_back(Packing(name, width), values) - values).norm(dim=-1) / values.norm(dim=-1)
    assert error.max() <= ROUNDING[name]


@pytest.mark.parametrize("name", ROUNDING)
def test_zeros_stay_zeros(name):
    assert not there_and_back(Packing(name, 128), torch.zeros(3, 128)).any()


@pytest.mark.parametrize("size", [1e-38, 1e-36, 1e-30, 1e30, 3e38])
def test_scaled_integers_take_any_size(size, generator):
    values = torch.randn(4, 64, generator=generator).clamp(-1, 1) * size
    back = there_and_back(Packing("int16", 64), values)
    assert ((back - values).abs().max() <= max(size * 2e-5, 1.2e-34)).all()


def test_an_outlier_costs_its_own_group_alone(generator):
    values = torch.randn(1, 128, generator=generator)
    alone = there_and_back(Packing("int16", 128), values)
    values[0, 3] = 1e6
    back = there_and_back(Packing("int16", 128), values)
    assert torch.equal(back[:, 64:], alone[:, 64:])
    assert back[0, 3] == pytest.approx(1e6, rel=1e-6)


@pytest.mark.parametrize("name", ROUNDING)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_refused(name, value):
    values = torch.zeros(2, 64)
    values[1, 5] = value
    with pytest.raises(InputError, match="NaN or infinite"):
        Packing(name, 64).pack(values)


def test_what_float16_cannot_hold_is_refused_with_the_formats_that_can():
    with pytest.raises(InputError, match=r"1e\+05 does not fit into float16: store as int16 or float32"):
        Packing("float16", 64).pack(torch.full((1, 64), -1e5))
    with pytest.raises(InputError, match="does not fit into bfloat16"):
        Packing("bfloat16", 64).pack(torch.full((1, 64), torch.finfo(torch.float32).max))


def test_an_unknown_format_is_refused_with_those_there_are():
    with pytest.raises(InputError, match="int16, float16, bfloat16, float32, got 'int8'"):
        check_format("int8")
