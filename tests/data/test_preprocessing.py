"""Preprocessing as a value: what it computes, what it refuses, how it is compared and recorded."""

import json
import math
from dataclasses import replace
from inspect import unwrap
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from residual_lens.data.preprocessing import Preprocessing, ResizedAs
from residual_lens.errors import InputError
from tests.pictures import picture

PLAIN = Preprocessing((4, 6), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
KINDS = get_args(ResizedAs)


def levels(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels in [0, 1] as whole numbers."""
    return (pixels * 255).round().to(torch.uint8)


@pytest.mark.parametrize("resized_as", KINDS)
@pytest.mark.parametrize("resize", ["shortest", "squash", "longest"])
def test_an_image_of_the_right_size_is_normalised_and_nothing_else(resize, resized_as):
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    image = picture(4, 6)
    actual = Preprocessing((4, 6), mean, std, resize=resize, resized_as=resized_as)(image)
    exact = torch.from_numpy(np.array(image)).permute(2, 0, 1).double() / 255
    expected = (exact - torch.tensor(mean).double()[:, None, None]) / torch.tensor(std).double()[:, None, None]
    assert actual.dtype == torch.float32
    # Three float32 operations, the last of which divides by 0.2.
    torch.testing.assert_close(actual.double(), expected, atol=2e-6, rtol=0)


def first_pixel(side: int, wanted: int, *, half_to_even: bool) -> int:
    """Where the centre begins, in pixels of the image; negative where it is padded."""
    half = abs(side - wanted) / 2
    if side > wanted:
        return round(half) if half_to_even else math.floor(half)
    return -math.floor(half)


# (resize, size of the image) → size that it has before it is cropped or padded to 20 × 20, by hand.
RESIZED = {
    ("shortest", 40, 60): (20, 30),
    ("shortest", 60, 40): (30, 20),
    ("shortest", 30, 50): (20, 33),  # 33.3
    ("shortest", 30, 49): (20, 32),  # 32.7: the long side is cut
    ("longest", 40, 60): (13, 20),  # 13.3
    ("longest", 60, 35): (20, 12),  # 11.7: rounded
    ("squash", 40, 60): (20, 20),
}


@pytest.mark.parametrize("resized_as", KINDS)
@pytest.mark.parametrize("case", RESIZED)
def test_the_centre_is_cut_out_or_padded(case, resized_as):
    (resize, *size), (height, width) = case, RESIZED[case]
    fill = (10, 20, 30)
    image = picture(*size)
    preprocessing = replace(PLAIN, image_size=(20, 20), resize_to=(20, 20), resize=resize, fill=fill)
    actual = levels(replace(preprocessing, resized_as=resized_as)(image))
    whole = replace(preprocessing, image_size=(height, width), resize_to=(height, width), resize="squash")
    resized = levels(replace(whole, resized_as=resized_as)(image)).numpy()
    expected = np.broadcast_to(np.array(fill, dtype=np.uint8)[:, None, None], (3, 20, 20)).copy()
    top, left = (first_pixel(side, 20, half_to_even=resized_as == "pillow") for side in (height, width))
    for row in range(20):
        for column in range(20):
            if 0 <= row + top < height and 0 <= column + left < width:
                expected[:, row, column] = resized[:, row + top, column + left]
    assert np.array_equal(actual.numpy(), expected)


def test_sides_that_are_not_equal_are_covered():
    image = picture(50, 60)
    preprocessing = replace(PLAIN, image_size=(10, 40), resize_to=(10, 40))
    # 60 → 40 needs more than 50 → 10: the image is 33.3 × 40 before it is cut.
    whole = levels(replace(preprocessing, image_size=(33, 40), resize_to=(33, 40), resize="squash")(image))
    assert torch.equal(levels(preprocessing(image)), whole[:, 12:22])


@pytest.mark.parametrize("resized_as", KINDS)
def test_the_interpolations_differ(resized_as):
    image = picture(40, 60)
    bicubic = replace(PLAIN, resized_as=resized_as)
    assert not torch.equal(bicubic(image), replace(bicubic, interpolation="bilinear")(image))


def test_pillow_and_torch_round_differently_and_agree_to_one_level():
    image = picture(41, 59)
    pillow, of_bytes, of_floats = (replace(PLAIN, resized_as=kind)(image) for kind in KINDS)
    assert (pillow - of_bytes).abs().max() <= 1.001 / 255
    assert 0 < (of_bytes - of_floats).abs().max() <= 1.001 / 255


@pytest.mark.parametrize("resized_as", KINDS)
@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_images_of_other_modes_are_made_rgb(mode, resized_as):
    image = picture(4, 6, mode)
    actual = replace(PLAIN, resized_as=resized_as)(image)
    assert torch.equal(levels(actual), torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1))


def test_transparency_is_dropped_by_pillow_and_laid_on_white_by_the_others():
    image = Image.new("RGBA", (6, 4), (200, 100, 0, 0))
    colours = {kind: levels(replace(PLAIN, resized_as=kind)(image))[:, 0, 0].tolist() for kind in KINDS}
    assert colours == {"pillow": [200, 100, 0], "bytes": [255, 255, 255], "floats": [255, 255, 255]}


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_more_than_8_bits_are_refused(mode):
    with pytest.raises(InputError, match=f"mode '{mode}', which Pillow would cut off at 255: scale it to 8 bits"):
        PLAIN(Image.new(mode, (6, 4)))


def test_what_is_no_image_is_refused():
    with pytest.raises(InputError, match=r"Expected a PIL image, got ndarray: .*fromarray"):
        unwrap(Preprocessing.__call__)(PLAIN, np.zeros((4, 6, 3)))


def test_an_image_of_which_nothing_is_left_is_refused():
    with pytest.raises(InputError, match="image of 1×100 has no pixels left inside 4×6"):
        replace(PLAIN, resize="longest")(picture(1, 100))


def test_the_size_before_cropping_is_that_of_the_output_by_default():
    assert PLAIN.resize_to == (4, 6)
    assert replace(PLAIN, resize_to=(4, 6)) == Preprocessing((4, 6), PLAIN.mean, PLAIN.std, resize_to=None)


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": (4, 7)},
        {"resize_to": (5, 7)},
        {"mean": (0.0, 0.0, 0.1)},
        {"std": (1.0, 1.0, 0.9)},
        {"interpolation": "bilinear"},
        {"resize": "squash"},
        {"fill": (0, 0, 1)},
        {"resized_as": "bytes"},
    ],
)
def test_values_survive_json_and_differ_in_every_field(change):
    changed = replace(PLAIN, **change)
    assert changed != PLAIN
    read = Preprocessing.from_dict(json.loads(json.dumps(changed.to_dict())))
    assert read == changed
    assert hash(read) == hash(changed)
    assert json.loads(json.dumps(changed.to_dict())) == changed.to_dict()


def test_a_record_with_other_fields_is_refused():
    record = PLAIN.to_dict()
    with pytest.raises(InputError, match=r"has the fields fill, image_size, .*; got image_size, .*, gamma\."):
        Preprocessing.from_dict(record | {"gamma": 2.2})
    del record["fill"]
    with pytest.raises(InputError, match="has the fields fill, image_size"):
        Preprocessing.from_dict(record)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": (0, 4)}, r"image_size is a tuple of height and width in whole pixels, got \(0, 4\)"),
        ({"image_size": 4}, "image_size is a tuple"),
        ({"image_size": (4.0, 4.0)}, "image_size is a tuple"),
        ({"resize_to": (4, 4, 4)}, "resize_to is a tuple"),
        ({"mean": (0.5, 0.5)}, r"mean is a tuple of three numbers between -inf and inf, got \(0.5, 0.5\)"),
        ({"mean": [0.5, 0.5, 0.5]}, "mean is a tuple"),
        ({"mean": (float("nan"), 0.0, 0.0)}, "mean is a tuple"),
        ({"std": (1.0, 1.0, 0.0)}, r"std is a tuple of three numbers between 0"),
        ({"fill": (0, 0, 256)}, "fill is a tuple of three numbers between"),
        ({"interpolation": "nearest"}, "interpolation is one of bicubic, bilinear; got 'nearest'"),
        ({"resize": "stretch"}, "resize is one of shortest, squash, longest; got 'stretch'"),
        ({"resized_as": "jpeg"}, "resized_as is one of pillow, bytes, floats; got 'jpeg'"),
    ],
)
def test_what_means_nothing_is_refused(change, message):
    # Past the type checker of the test run, which would speak first; users run without it.
    values = object.__new__(Preprocessing)
    for name, value in (vars(PLAIN) | change).items():
        object.__setattr__(values, name, value)
    with pytest.raises(InputError, match=message):
        unwrap(Preprocessing.__post_init__)(values)
