"""Image files: every mode becomes RGB, and damage of every kind is an error that names the file."""

import io
import os
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from residual_lens.data import CorruptImageError
from residual_lens.data.images.decoding import decode_image, read_image
from residual_lens.errors import ResidualLensError
from tests.data.fake_sets import picture


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"])
def test_every_mode_becomes_rgb_as_pillow_converts_it(mode: str):
    image = picture(0).convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    read = decode_image(encoded(image, kind), "x")
    assert read.mode == "RGB"
    assert np.array_equal(np.asarray(read), np.asarray(image.convert("RGB")))


def test_sixteen_bits_are_scaled_not_clipped():
    levels = np.arange(37, 65536, 256, dtype=np.uint16).reshape(16, 16)
    read = np.asarray(decode_image(encoded(Image.fromarray(levels), "PNG"), "x"))
    assert np.array_equal(read[..., 0], np.arange(256).reshape(16, 16))


def test_a_palette_with_transparency_is_read_without_a_warning():
    image = picture(0).convert("P")
    read = decode_image(encoded(image, "PNG", transparency=bytes(range(200))), "x")
    assert np.array_equal(np.asarray(read), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"empty \(0 bytes\)"),
        (b"<html>404</html>", r"no image that Pillow can read \(16 bytes\)"),
        (encoded(picture(0, 64), "JPEG")[:900], "cannot be decoded .*truncated"),
        (encoded(picture(0, 64), "PNG")[:900], "cannot be decoded .*truncated"),
        (encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "mode F has no fixed range"),
    ],
)
def test_damage_is_named(content: bytes, reason: str, tmp_path: Path):
    path = tmp_path / "cat.png"
    path.write_bytes(content)
    with pytest.raises(CorruptImageError, match=rf"{tmp_path}/cat.png: .*{reason}"):
        read_image(path)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch):
    content = encoded(Image.new("1", (10_000, 10_000)), "PNG")
    with pytest.raises(CorruptImageError, match=r"bomb: cannot be decoded \(.*decompression bomb"):
        decode_image(content, "bomb")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(CorruptImageError, match=r"bomb: 10000 × 10000 pixels, more than"):
        decode_image(content, "bomb")


def test_a_vanished_file_is_corrupt_and_a_failing_disk_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(CorruptImageError, match=r"gone.png: no such file, although it was listed"):
        read_image(tmp_path / "gone.png")

    def fail(self: Path) -> bytes:
        raise OSError(24, os.strerror(24))

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(OSError, match="Too many open files"):
        read_image(tmp_path / "there.png")


def test_it_is_one_of_the_family():
    assert issubclass(CorruptImageError, ResidualLensError)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_no_damage_raises_anything_else(kind: str):
    whole = encoded(picture(0, 24), kind)
    dice = random.Random(kind)  # noqa: S311 - seeded, no secret
    n_corrupt = 0
    for trial in range(150):
        damaged = bytearray(whole)
        if trial % 3 == 0:
            del damaged[dice.randrange(len(damaged)) :]
        for _ in range(dice.randrange(1, 6) if damaged else 0):
            damaged[dice.randrange(min(len(damaged), 300 if trial % 3 == 1 else len(damaged)))] = dice.randrange(256)
        try:
            assert decode_image(bytes(damaged), kind).mode == "RGB"
        except CorruptImageError as error:
            assert str(error).startswith(f"{kind}: ")  # noqa: PT017
            n_corrupt += 1
    assert n_corrupt > 30
