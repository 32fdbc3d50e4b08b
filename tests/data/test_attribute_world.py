"""The attribute world: scenes are consistent, every value shows, captions tell the truth at the stated rates."""

import pytest
import torch

from residual_lens.data.attribute_world import (
    ABSENT,
    ATTRIBUTES,
    NAMING_RATES,
    SHIFTS,
    TEMPLATES,
    UNDER_NAMED,
    caption_vocabulary,
    render,
    sample_scenes,
    write_captions,
)
from residual_lens.data.attribute_world.captions import label_words
from residual_lens.data.attribute_world.glyphs import CELL, FONTS, symbol_maps
from residual_lens.data.attribute_world.scenes import Scenes
from residual_lens.errors import InputError

SIZE = 32
SEEN = 0.02
"""Mean absolute pixel difference that a change must cause; sensor noise causes none, since its draw is shared."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_label(scenes: Scenes, attribute: str, label: int) -> Scenes:
    """The same scenes with one attribute set to one value."""
    changed = scenes.select(slice(None))
    changed.labels[attribute] = torch.full_like(changed.labels[attribute], label)
    return changed


def test_same_seed_same_scenes_same_pixels_same_captions():
    first, second = sample_scenes(20, generator()), sample_scenes(20, generator())
    assert torch.equal(render(first, SIZE), render(second, SIZE))
    assert write_captions(first, generator(1)).texts == write_captions(second, generator(1)).texts


def test_different_seed_different_pixels():
    assert not torch.equal(render(sample_scenes(20, generator(0)), SIZE), render(sample_scenes(20, generator(1)), SIZE))


@pytest.mark.parametrize("image_size", [16, 32, 50])
def test_images_are_in_range(image_size: int):
    images = render(sample_scenes(40, generator()), image_size)
    assert images.shape == (40, 3, image_size, image_size)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1


def test_rendering_does_not_depend_on_the_rest_of_the_batch():
    scenes = sample_scenes(12, generator())
    assert torch.equal(render(scenes, SIZE)[4:8], render(scenes.select(slice(4, 8)), SIZE))


def test_every_scene_shows_exactly_one_symbol_and_only_shapes_have_textures():
    labels = sample_scenes(300, generator()).labels
    shown = torch.stack([labels[name] != ABSENT for name in ("shape", "digit", "letter")])
    assert torch.equal(shown.sum(0), torch.ones(300, dtype=torch.long))
    assert torch.equal(labels["texture"] != ABSENT, labels["shape"] != ABSENT)
    assert all(label.max() < len(ATTRIBUTES[name]) for name, label in labels.items())


@pytest.mark.parametrize("focus", [None, "background", "colour"])
def test_no_object_is_invisible(focus: str | None):
    labels = sample_scenes(2000, generator(), focus=focus).labels
    white = labels["colour"] == ATTRIBUTES["colour"].index("white")
    assert not (white & (labels["background"] == ATTRIBUTES["background"].index("snowy"))).any()


@pytest.mark.parametrize("attribute", list(ATTRIBUTES))
def test_each_value_changes_the_picture(attribute: str):
    scenes = sample_scenes(8, generator(2), focus=attribute)
    pictures = [render(with_label(scenes, attribute, label), SIZE) for label in range(len(ATTRIBUTES[attribute]))]
    for index, picture in enumerate(pictures):
        for other in pictures[:index]:
            assert (picture - other).abs().mean() > SEEN / 4
    assert torch.stack(pictures).std(0).mean() > SEEN


def test_symbol_maps_are_signed_distances():
    maps = symbol_maps()
    assert maps.shape[0] == len(ATTRIBUTES["shape"]) + len(FONTS) * 36
    assert (maps.amin((1, 2)) < 0).all(), "every symbol has an inside"
    assert (maps[:, :: CELL - 1, :: CELL - 1] > 0).all(), "and a margin at every corner"


def test_captions_name_only_true_attributes():
    scenes = sample_scenes(400, generator())
    captions = write_captions(scenes, generator(1))
    for name, values in ATTRIBUTES.items():
        if name in ("letter", "digit", "position"):
            continue
        true = label_words(name, scenes.labels[name].clamp(min=0))
        for text, word, named in zip(captions.texts, true, captions.named[name].tolist(), strict=True):
            said = {value for value in values if f" {value} " in f" {text} "}
            assert said == ({word} if named else set()), text


@pytest.mark.parametrize(("name", "pattern"), [("digit", "digit {}"), ("letter", "letter {}"), ("position", "{}")])
def test_captions_name_the_true_symbol_and_position(name: str, pattern: str):
    scenes = sample_scenes(400, generator())
    captions = write_captions(scenes, generator(1))
    true = label_words(name, scenes.labels[name].clamp(min=0))
    for text, word, named in zip(captions.texts, true, captions.named[name].tolist(), strict=True):
        assert (pattern.format(word) in text) == named, text


def test_no_caption_is_silent_and_all_fit_the_vocabulary():
    captions = write_captions(sample_scenes(500, generator()), generator(1))
    assert torch.stack(list(captions.named.values())).any(0).all()
    assert {word for text in captions.texts for word in text.split()} <= set(caption_vocabulary())
    assert not any(
        f" a {vowel}" in f" {text}".replace("letter a", "letter") for text in captions.texts for vowel in "aeiou"
    )


def test_naming_rates():
    scenes = sample_scenes(8000, generator())
    named = write_captions(scenes, generator(1)).named
    for name in UNDER_NAMED:
        assert named[name].float().mean().item() == pytest.approx(NAMING_RATES[name], abs=0.01)
    assert max(NAMING_RATES[name] for name in UNDER_NAMED) <= 0.1
    shapes = scenes.labels["shape"] >= 0
    assert named["texture"][shapes].float().mean().item() == pytest.approx(NAMING_RATES["texture"], abs=0.03)


def test_a_caption_fits_its_own_image_and_no_image_that_it_contradicts():
    scenes = sample_scenes(60, generator())
    captions = write_captions(scenes, generator(1))
    compatible = captions.compatible_with(scenes, scenes)
    assert compatible.diagonal().all()
    lenient = write_captions(scenes, generator(1), contrast_rates={"colour": 0.0})
    assert lenient.texts == captions.texts
    assert lenient.compatible_with(scenes, scenes).sum() > compatible.sum()
    colour, named = scenes.labels["colour"], captions.named["colour"]
    assert not compatible[(colour[:, None] != colour) & named].any()


def test_templates_keep_to_the_vocabulary():
    for name, values in ATTRIBUTES.items():
        for template in TEMPLATES[name]:
            assert template.count("{}") == 1
            assert set(template.format(values[0]).split()) <= set(caption_vocabulary())


@pytest.mark.parametrize("shift", list(SHIFTS))
def test_each_shift_changes_the_picture_in_its_own_way(shift: str):
    scenes = sample_scenes(16, generator(), focus="shape")
    plain, shifted = render(scenes, SIZE), render(scenes, SIZE, shift=shift)
    assert (plain - shifted).abs().mean() > SEEN
    for other in SHIFTS:
        assert other == shift or (render(scenes, SIZE, shift=other) - shifted).abs().mean() > SEEN


def test_a_sketch_has_no_texture():
    scenes = sample_scenes(16, generator(), focus="texture")
    sketches = [render(with_label(scenes, "texture", label), SIZE, shift="sketch") for label in (0, 3)]
    assert torch.equal(*sketches)


def test_bad_input_is_refused():
    scenes = sample_scenes(2, generator())
    with pytest.raises(InputError, match=r"got shift 'oil'.*sketch"):
        render(scenes, SIZE, shift="oil")
    with pytest.raises(InputError, match=r"image_size=4.*at least 8"):
        render(scenes, 4)
    with pytest.raises(InputError, match=r"n_images=0"):
        sample_scenes(0, generator())
    with pytest.raises(InputError, match=r"focus='mood'.*colour"):
        sample_scenes(2, generator(), focus="mood")
