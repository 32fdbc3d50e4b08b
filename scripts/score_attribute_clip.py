"""Scores the shipped model on every task, for its card: zero-shot, and linear probes that show what the words miss.

    python scripts/score_attribute_clip.py --output residual_lens/zoo/attribute_clip/scores.csv

Nothing here was used to choose anything in pretraining. Two minutes on two CPU cores.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
import tyro
from jaxtyping import Float
from open_clip.model import CLIP
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import Normalize
from tqdm import tqdm

from residual_lens.data import load_task, task_names
from residual_lens.zoo import attribute_clip_path


@dataclass(frozen=True)
class Config:
    """Where the scores go, and on how many images they rest."""

    output: Path
    """A CSV file with one row per task."""
    n_train: int = 2000
    """Images that probes learn from (scans: 1,000)."""
    n_test: int = 1000
    """Images that scores are measured on (scans: 500)."""
    seed: int = 1
    """Of the tasks; pretraining watched seed 0."""


@torch.no_grad()
def image_features(
    model: CLIP, images: Float[Tensor, "sample 3 height width"]
) -> tuple[Float[Tensor, "sample d_out"], Float[Tensor, "sample feature"]]:
    """Unit-norm image embeddings, and the CLS tokens after every block side by side."""
    streams = []
    hooks = [
        block.register_forward_hook(lambda _block, _arguments, output: streams.append(output[:, 0]))
        for block in model.visual.transformer.resblocks
    ]
    try:
        embeddings = model.encode_image(images, normalize=True)
    finally:
        for hook in hooks:
            hook.remove()
    return embeddings, torch.cat(streams, dim=1)


@torch.no_grad()
def class_embeddings(
    model: CLIP, tokenizer: open_clip.tokenizer.HFTokenizer, classes: tuple[str, ...], templates: tuple[str, ...]
) -> Float[Tensor, "class d_out"]:
    """The prompt ensemble: unit-norm mean of the prompts' unit-norm embeddings."""
    prompts = [tokenizer([template.format(word) for template in templates]) for word in classes]
    return functional.normalize(torch.stack([model.encode_text(p, normalize=True).mean(0) for p in prompts]), dim=1)


def probe_accuracy(
    train: tuple[Float[Tensor, "sample feature"], Tensor], test: tuple[Float[Tensor, "sample feature"], Tensor]
) -> float:
    """Test accuracy of logistic regression on standardised features."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200))
    probe.fit(train[0].numpy(), train[1].numpy())
    return float(probe.score(test[0].numpy(), test[1].numpy()))


def main(config: Config) -> None:
    """Scores task after task and writes the table."""
    name = f"local-dir:{attribute_clip_path()}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    model.eval()
    tokenizer = open_clip.get_tokenizer(name)
    normalise = next(step for step in preprocess.transforms if isinstance(step, Normalize))

    with config.output.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["task", "classes", "chance", "zero_shot", "probe_embedding", "probe_streams"])
        for task_name in tqdm(task_names()):
            n_train, n_test = (1000, 500) if task_name == "digits" else (config.n_train, config.n_test)
            task = load_task(task_name, image_size=32, seed=config.seed, n_train=n_train, n_test=n_test)
            train_embeddings, train_streams = image_features(model, normalise(task.train.images))
            test_embeddings, test_streams = image_features(model, normalise(task.test.images))
            classifier = class_embeddings(model, tokenizer, task.classes, task.templates)
            predicted = (test_embeddings @ classifier.T).argmax(1)
            scores = [
                1 / len(task.classes),
                (predicted == task.test.labels).float().mean().item(),
                probe_accuracy((train_embeddings, task.train.labels), (test_embeddings, task.test.labels)),
                probe_accuracy((train_streams, task.train.labels), (test_streams, task.test.labels)),
            ]
            writer.writerow([task_name, len(task.classes), *(f"{score:.3f}" for score in scores)])


if __name__ == "__main__":
    main(tyro.cli(Config))
