"""The attribute world: rendered images of one object each, whose attributes are known exactly, with captions."""

from residual_lens.data.attribute_world.captions import (
    NAMING_RATES,
    TEMPLATES,
    Captions,
    caption_vocabulary,
    write_captions,
)
from residual_lens.data.attribute_world.render import render
from residual_lens.data.attribute_world.scenes import ABSENT, Scenes, sample_scenes
from residual_lens.data.attribute_world.shifts import SHIFTS
from residual_lens.data.attribute_world.shortcut import SHORTCUT, sample_shortcut
from residual_lens.data.attribute_world.vocabulary import ATTRIBUTES, UNDER_NAMED

__all__ = [
    "ABSENT",
    "ATTRIBUTES",
    "NAMING_RATES",
    "SHIFTS",
    "SHORTCUT",
    "TEMPLATES",
    "UNDER_NAMED",
    "Captions",
    "Scenes",
    "caption_vocabulary",
    "render",
    "sample_scenes",
    "sample_shortcut",
    "write_captions",
]
