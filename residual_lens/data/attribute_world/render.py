"""The renderer: scenes in, images out, the whole batch at once on whatever device the scenes are on."""

import math
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from residual_lens.data.attribute_world.glyphs import EXTENT, symbol_cells, symbol_maps
from residual_lens.data.attribute_world.scenes import Scenes
from residual_lens.data.attribute_world.shifts import (
    BLOBS_IN_FRONT,
    check_shift,
    invert,
    lower_contrast,
    outline_coverage,
    paint_blobs,
)
from residual_lens.data.attribute_world.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    ORIENTATIONS,
    POSITIONS,
    SIZES,
    TEXTURES,
)
from residual_lens.errors import InputError

TURN_JITTER = 5.0
"""Degrees around an orientation's nominal angle."""
OFFSET = 0.165
"""Distance of the object's centre from the middle along each axis, as a share of the image side."""
OFFSET_JITTER = 0.03
PERIOD = 5.4 / 32
"""Period of a texture as a share of the image side: large enough to survive 32 pixels."""
NOISE_SIDE = 64


def render(scenes: Scenes, image_size: int, *, shift: str | None = None) -> Float[Tensor, "batch 3 height width"]:
    """Draws scenes with analytic anti-aliasing: coverage is read off a signed distance, so nothing is supersampled.

    Args:
        scenes: what to draw.
        image_size: side in pixels.
        shift: None, or a way of drawing from `shifts.SHIFTS`.

    Returns:
        float32 images in [0, 1], on the scenes' device, not normalised.

    Raises:
        InputError: for an unknown shift or an image too small to show anything.

    >>> from residual_lens.data.attribute_world.scenes import sample_scenes
    >>> render(sample_scenes(2, torch.Generator().manual_seed(0)), 32).shape
    torch.Size([2, 3, 32, 32])
    """
    check_shift(shift)
    if image_size < 8:
        raise InputError(f"got image_size={image_size}, expected at least 8 pixels; the models here use 32.")
    device = scenes.font.device
    pixels = _pixel_centres(image_size, device)
    frame, radius = _object_frame(scenes, pixels)
    distance = _distance(scenes, frame, radius)
    if shift == "sketch":
        coverage, second_tone = outline_coverage(distance, image_size), torch.zeros_like(distance)
    else:
        coverage, second_tone = _coverage(scenes, distance, image_size), _texture(scenes, frame, radius, image_size)

    ground = _ground(scenes, pixels)
    if shift == "clutter":
        ground = paint_blobs(ground, scenes.blobs[:, BLOBS_IN_FRONT:], pixels)
    colour = _look_up(COLOURS, scenes.labels["colour"]) + 0.08 * (scenes.tint[:, 0] - 0.5)
    darkening = second_tone * (0.5 + 0.2 * scenes.tone)[:, None, None]
    surface = colour[:, :, None, None] * (1 - darkening).unsqueeze(1)
    images = torch.lerp(ground, surface, coverage.unsqueeze(1).expand_as(surface))
    if shift == "clutter":
        images = paint_blobs(images, scenes.blobs[:, :BLOBS_IN_FRONT], pixels)
    images = (images + _grain(scenes, image_size)).clamp(0, 1)
    if shift == "inverted":
        return invert(images)
    return lower_contrast(images) if shift == "lowcontrast" else images


def _pixel_centres(image_size: int, device: torch.device) -> Float[Tensor, "xy height width"]:
    """Pixel centres in pixels from the image's centre."""
    axis = torch.arange(image_size, device=device) + 0.5 - image_size / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y])


def _look_up(
    table: dict[str, tuple[float, ...]] | dict[str, tuple[float, float]] | dict[str, tuple[float, float, float]],
    labels: Int[Tensor, "batch"],
) -> Float[Tensor, "batch coordinate"]:
    return torch.tensor(list(table.values()), device=labels.device)[labels]


def _object_frame(
    scenes: Scenes, pixels: Float[Tensor, "xy height width"]
) -> tuple[Float[Tensor, "batch xy height width"], Float[Tensor, "batch"]]:
    """Every pixel's place in the object's own turned axes, in pixels from its centre, and the object's radius."""
    image_size = pixels.shape[-1]
    centre = image_size * (
        OFFSET * _look_up(POSITIONS, scenes.labels["position"]) + 2 * OFFSET_JITTER * (scenes.offset - 0.5)
    )
    degrees = torch.tensor(list(ORIENTATIONS.values()), device=centre.device)[scenes.labels["orientation"]]
    angle = (degrees + 2 * TURN_JITTER * (scenes.turn - 0.5)) * (math.pi / 180)
    x, y = (pixels - centre[:, :, None, None]).unbind(1)
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    frame = torch.stack([cosine * x + sine * y, cosine * y - sine * x], dim=1)
    radius = image_size * torch.tensor(list(SIZES.values()), device=centre.device)[scenes.labels["size"]]
    return frame, radius


def _distance(
    scenes: Scenes, frame: Float[Tensor, "batch xy height width"], radius: Float[Tensor, "batch"]
) -> Float[Tensor, "batch height width"]:
    """Signed distance to the object's edge in pixels, negative inside."""
    maps = _maps_on(str(frame.device))[symbol_cells(scenes.labels, scenes.font)].unsqueeze(1)
    stretch = radius[:, None] * (0.94 + 0.12 * scenes.scale)
    place = (frame / (EXTENT * stretch[:, :, None, None])).movedim(1, -1)
    found = functional.grid_sample(maps, place, padding_mode="border", align_corners=False)
    return found.squeeze(1) * radius[:, None, None]


@lru_cache(maxsize=4)
def _maps_on(device: str) -> Float[Tensor, "cell y x"]:
    return symbol_maps().to(device)


def _is_glyph(scenes: Scenes) -> Bool[Tensor, "batch"]:
    return scenes.labels["shape"] < 0


def _coverage(
    scenes: Scenes, distance: Float[Tensor, "batch height width"], image_size: int
) -> Float[Tensor, "batch height width"]:
    """Opacity of the filled object; glyphs vary in stroke and in blur, shapes a little in blur."""
    glyph = _is_glyph(scenes).float()
    thickening = glyph * (0.05 * scenes.stroke - 0.012) * image_size
    edge = 1 + 0.4 * scenes.blur + glyph * 1.8 * scenes.blur**2
    return (0.5 - (distance - thickening[:, None, None]) / edge[:, None, None]).clamp(0, 1)


def _texture(
    scenes: Scenes,
    frame: Float[Tensor, "batch xy height width"],
    radius: Float[Tensor, "batch"],
    image_size: int,
) -> Float[Tensor, "batch height width"]:
    """How much of the second tone shows at each pixel, in the object's own axes."""
    period = PERIOD * image_size * (0.92 + 0.16 * scenes.period)[:, None, None, None]
    wave = frame / period + scenes.phase[:, :, None, None]
    tone = torch.zeros_like(frame[:, 0])
    for index, name in enumerate(TEXTURES):
        chosen = scenes.labels["texture"] == index
        if name != "solid" and bool(chosen.any()):
            tone[chosen] = _PATTERNS[name](wave[chosen], frame[chosen], radius[chosen], period[chosen])
    return tone


Wave = Float[Tensor, "chosen xy height width"]
Tone = Float[Tensor, "chosen height width"]


def _soft_step(value: Tone) -> Tone:
    return (0.5 + 1.6 * value).clamp(0, 1)


def _striped(wave: Wave, frame: Wave, radius: Float[Tensor, "chosen"], period: Float[Tensor, "chosen 1 1 1"]) -> Tone:
    return _soft_step((2 * math.pi * wave[:, 1]).cos())


def _dotted(wave: Wave, frame: Wave, radius: Float[Tensor, "chosen"], period: Float[Tensor, "chosen 1 1 1"]) -> Tone:
    return _soft_step((2 * math.pi * wave).cos().sum(1) - 0.75)


def _checkered(wave: Wave, frame: Wave, radius: Float[Tensor, "chosen"], period: Float[Tensor, "chosen 1 1 1"]) -> Tone:
    coarse = (2 * math.pi * (wave / 1.35)).sin()
    return _soft_step(1.5 * coarse.prod(1))


def _ringed(wave: Wave, frame: Wave, radius: Float[Tensor, "chosen"], period: Float[Tensor, "chosen 1 1 1"]) -> Tone:
    distance = torch.hypot(frame[:, 0], frame[:, 1]) / period[:, :, 0, 0, None]
    return _soft_step((2 * math.pi * distance).cos())


def _speckled(wave: Wave, frame: Wave, radius: Float[Tensor, "chosen"], period: Float[Tensor, "chosen 1 1 1"]) -> Tone:
    start = (977 * wave[:, :, :1, :1]).floor()
    cell = (3.6 * wave + start).floor().long() % NOISE_SIDE
    return (_noise_on(str(wave.device))[cell[:, 1], cell[:, 0]] > 0.35).float()


def _shaded(wave: Wave, frame: Wave, radius: Float[Tensor, "chosen"], period: Float[Tensor, "chosen 1 1 1"]) -> Tone:
    return (0.5 + 0.62 * frame[:, 1] / radius[:, None, None]).clamp(0, 1)


_PATTERNS = {
    "striped": _striped,
    "dotted": _dotted,
    "checkered": _checkered,
    "ringed": _ringed,
    "speckled": _speckled,
    "shaded": _shaded,
}


@lru_cache(maxsize=4)
def _noise_on(device: str) -> Float[Tensor, "y x"]:
    """One fixed tile of normal noise; scenes differ in where they read it."""
    return torch.randn(NOISE_SIDE, NOISE_SIDE, generator=torch.Generator().manual_seed(20)).to(device)


def _ground(scenes: Scenes, pixels: Float[Tensor, "xy height width"]) -> Float[Tensor, "batch 3 height width"]:
    """The background: one colour under a faint slope of light."""
    colour = _look_up(BACKGROUNDS, scenes.labels["background"]) + 0.06 * (scenes.tint[:, 1] - 0.5)
    slope = torch.einsum("bc,chw->bhw", 0.12 * (scenes.light - 0.5), pixels / pixels.shape[-1])
    return colour[:, :, None, None] + slope.unsqueeze(1)


def _grain(scenes: Scenes, image_size: int) -> Float[Tensor, "batch 3 height width"]:
    """Sensor noise, read from the fixed tile at a place that depends on the scene."""
    device = scenes.grain.device
    start = (scenes.phase * 977 + scenes.offset * 353).long()
    steps = torch.arange(image_size, device=device)
    rows, columns = start[:, :1] + steps, start[:, 1:] + steps
    channel = torch.arange(3, device=device) * 21
    row = (rows[:, None, :, None] + channel[:, None, None]) % NOISE_SIDE
    column = (columns[:, None, None, :] + 2 * channel[:, None, None]) % NOISE_SIDE
    return _noise_on(str(device))[row, column] * (0.03 * scenes.grain)[:, None, None, None]
