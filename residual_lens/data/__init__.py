"""Image data sets by name."""

from residual_lens.data.images import (
    CorruptImageError,
    ImageSet,
    carve_validation,
    image_set_names,
    open_images,
    split_three_ways,
    stratified_subset,
)
from residual_lens.data.preprocessing import Preprocessing
from residual_lens.data.splits import ImageSplit, Task
from residual_lens.data.tasks import load_task, task_names

__all__ = [
    "CorruptImageError",
    "ImageSet",
    "ImageSplit",
    "Preprocessing",
    "Task",
    "carve_validation",
    "image_set_names",
    "load_task",
    "open_images",
    "split_three_ways",
    "stratified_subset",
    "task_names",
]
