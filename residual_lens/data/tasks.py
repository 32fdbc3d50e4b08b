"""Classification tasks by name: images with labels, class words and prompts, split once and for all by the seed."""

import torch

from residual_lens.data.attribute_world.captions import TEMPLATES
from residual_lens.data.attribute_world.render import render
from residual_lens.data.attribute_world.scenes import sample_scenes
from residual_lens.data.attribute_world.shifts import SHIFTS, check_shift
from residual_lens.data.attribute_world.vocabulary import ATTRIBUTES, DIGITS
from residual_lens.data.digits import load_digit_splits
from residual_lens.data.splits import ImageSplit, Task
from residual_lens.errors import InputError, did_you_mean

PREFIX = "attributes:"
RENDER_BLOCK = 1024
"""Images drawn at once: bounds the renderer's memory."""


def task_names() -> tuple[str, ...]:
    """Every name that `load_task` knows: the scans, each attribute, and each attribute under each shift.

    A sketch has no texture, so `attributes:texture@sketch` does not exist.

    >>> [name for name in task_names() if "shape" in name][:2]
    ['attributes:shape', 'attributes:shape@sketch']
    """
    names = ["digits"]
    for attribute in ATTRIBUTES:
        names.append(PREFIX + attribute)
        names += [f"{PREFIX}{attribute}@{shift}" for shift in SHIFTS if (attribute, shift) != ("texture", "sketch")]
    return tuple(names)


def load_task(
    name: str,
    *,
    image_size: int,
    seed: int = 0,
    n_train: int = 1000,
    n_validation: int = 250,
    n_test: int = 500,
) -> Task:
    """Loads a task by name; the same arguments give the same tensors.

    * `digits`: the 1,797 handwritten digits that scikit-learn ships (real scans, 8×8), enlarged, white on black.
    * `attributes:<attribute>`: fresh renders of the attribute world, e.g. `attributes:colour`, `attributes:digit`.
    * `attributes:<attribute>@<shift>`: the same scenes as without the shift, drawn in a way pretraining never uses.

    Args:
        name: one of `task_names()`.
        image_size: side of the images in pixels: the model's input size.
        seed: decides which images fall into which split; renders of different seeds and splits share nothing.
        n_train: images to learn from.
        n_validation: images to choose with.
        n_test: images to report on.

    Returns:
        The task; labels are balanced in every split.

    Raises:
        InputError: for an unknown name, a size below one image, or more scans than there are.

    >>> task = load_task("attributes:size@inverted", image_size=32, n_train=9, n_validation=3, n_test=3)
    >>> task.classes, tuple(task.train.images.shape)
    (('small', 'medium', 'large'), (9, 3, 32, 32))
    """
    sizes = {"n_train": n_train, "n_validation": n_validation, "n_test": n_test}
    for argument, size in sizes.items():
        if size < 1:
            raise InputError(f"got {argument}={size}, expected at least 1: an empty split can neither teach nor test.")
    if name not in task_names():
        raise InputError(_unknown_task(name))
    if name == "digits":
        splits = load_digit_splits(list(sizes.values()), image_size=image_size, seed=seed)
        return Task(name, DIGITS, TEMPLATES["digit"], *splits)
    attribute, _, shift = name.removeprefix(PREFIX).partition("@")
    splits = [
        _render_split(attribute, shift or None, size, image_size=image_size, seed=seed, stream=stream)
        for stream, size in enumerate(sizes.values())
    ]
    return Task(name, ATTRIBUTES[attribute], TEMPLATES[attribute], *splits)


def _unknown_task(name: str) -> str:
    return (
        f"got task {name!r}, expected 'digits' or 'attributes:<attribute>[@<shift>]' with <attribute> one of "
        f"{', '.join(ATTRIBUTES)} and <shift> one of {', '.join(SHIFTS)} (a sketch has no texture); "
        f"task_names() lists all {len(task_names())}.{did_you_mean(name, task_names())}"
    )


def _render_split(
    attribute: str, shift: str | None, n_images: int, *, image_size: int, seed: int, stream: int
) -> ImageSplit:
    """One split from its own generator; the shift is not part of the seed, so shifted tasks show the same scenes."""
    check_shift(shift)
    generator = torch.Generator().manual_seed(_stream_seed(seed, attribute, stream))
    scenes = sample_scenes(n_images, generator, focus=attribute)
    blocks = [
        render(scenes.select(slice(start, start + RENDER_BLOCK)), image_size, shift=shift)
        for start in range(0, n_images, RENDER_BLOCK)
    ]
    return ImageSplit(images=torch.cat(blocks), labels=scenes.labels[attribute])


def _stream_seed(seed: int, attribute: str, stream: int) -> int:
    """A generator seed of its own for every (seed, attribute, split), far from the small seeds of pretraining."""
    index = tuple(ATTRIBUTES).index(attribute)
    return 2**40 + ((seed % 2**20) * len(ATTRIBUTES) + index) * 3 + stream
