"""Image data sets by name."""

from residual_lens.data.splits import ImageSplit, Task
from residual_lens.data.tasks import load_task, task_names

__all__ = ["ImageSplit", "Task", "load_task", "task_names"]
