"""Write scikit-learn's handwritten digits as a folder of images, one subfolder a class, to try your own data's way.

    python scripts/digits_as_folder.py data/digits
    residual-lens train --model attribute-clip --data folder:data/digits --templates "the digit {}" --method residual

Real scans, enlarged as `load_task("digits", …)` enlarges them and split as it splits them (seed 0): 1,000 for training,
250 for validation, 500 for the test, as PNGs in `<split>/<class>/<number>.png`. Prompts are given because the shipped
model knows few words; `--classifier means` does without any.
"""

from pathlib import Path
from typing import Annotated

import tyro
from torchvision.transforms.functional import to_pil_image

from residual_lens import load_task


def main(folder: Annotated[Path, tyro.conf.Positional], image_size: int = 32) -> None:
    """Write the images; those that are there are written again."""
    task = load_task("digits", image_size=image_size)
    for split in ("train", "validation", "test"):
        images = getattr(task, split)
        for number, (pixels, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
            path = folder / split / task.classes[label] / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            to_pil_image(pixels).save(path)
        print(f"{folder / split}: {len(images):,} images, {len(task.classes)} classes")


if __name__ == "__main__":
    tyro.cli(main)
