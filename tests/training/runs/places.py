"""What runs in tests read: stores that they share, and folders of digits, one subfolder a class."""

from collections.abc import Iterable
from pathlib import Path

from residual_lens.data.images import open_images
from residual_lens.training.runs import Resources, RunConfig

LIMIT = 60


def digits(method: str, **settings: object) -> RunConfig:
    """A run on few digits, of few epochs."""
    few = {"limit": LIMIT} if method == "zero-shot" else {"limit": LIMIT, "epochs": 3}
    return RunConfig("attribute-clip", "digits", method, **(few | settings))  # pyright: ignore


def resources(folder: Path) -> Resources:
    """On the CPU, with stores in a folder."""
    return Resources(stores=folder, device="cpu")


def write_tree(root: Path, splits: dict[str, int], digits: Iterable[str] = ("zero", "one", "two")) -> Path:
    """Digits as image files, `root/split/class/…`; `""` is a folder without splits."""
    images = open_images("digits")
    for place, (split, n_images) in enumerate(splits.items()):
        for name in digits:
            rows = [row for row, label in enumerate(images.labels) if images.classes[label] == name]
            folder = root / split / name
            folder.mkdir(parents=True)
            for row in rows[20 * place : 20 * place + n_images]:
                images[row][0].save(folder / f"{row}.png")
    return root
