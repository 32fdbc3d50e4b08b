"""Pretrains the shipped model, attribute-clip, on freshly rendered images of the attribute world.

    python scripts/pretrain_attribute_clip.py --run-dir /tmp/attribute_clip_run --steps 3500 --decay-steps 1200

Run it again with the same --run-dir to go on from the last checkpoint; --steps may then be larger or smaller. The
learning rate is constant after the warm-up and falls linearly to zero over the last --decay-steps, so the weights
before the decay do not depend on --steps. Every step draws its images from a generator seeded by (seed, step): a
resumed run sees the images it would have seen. --export-dir residual_lens/zoo/attribute_clip writes the model there in
open_clip's local-dir format; with --steps below the checkpoint's, that is all that happens.
"""

import csv
import json
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
import tyro
from jaxtyping import Bool, Float
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from residual_lens.data import Task, load_task, task_names
from residual_lens.data.attribute_world import caption_vocabulary, render, sample_scenes, write_captions

IMAGE_SIZE = 32
PIXEL_MEAN, PIXEL_STD = (0.4, 0.4, 0.4), (0.3, 0.3, 0.3)
CONTEXT_LENGTH = 20

PHASES: dict[int, tuple[dict[str, float], dict[str, float]]] = {
    0: (
        {"size": 0.04, "position": 0.04, "orientation": 0.04},
        {"size": 0.05, "position": 0.4, "orientation": 0.15},
    ),
    750: (
        {"size": 0.03, "position": 0.06, "orientation": 0.05},
        {"size": 0.05, "position": 1.0, "orientation": 0.6},
    ),
    1750: (
        {"size": 0.03, "position": 0.06, "orientation": 0.05},
        {"size": 0.05, "position": 0.05, "orientation": 0.2},
    ),
}
"""First step of each phase: how often captions name, and contrast, the under-named attributes (see `write_captions`).

Set by hand while watching held-out renders: corrected for a while, so that the image tower comes to see position and
orientation, then hardly any more, so that their words stay half learned.
"""


@dataclass(frozen=True)
class Config:
    """What to train and for how long."""

    run_dir: Path
    """Checkpoints and the log go here; an existing checkpoint is resumed."""
    export_dir: Path | None = None
    """Where to write the finished model in open_clip's local-dir format."""
    steps: int = 3500
    """Optimiser steps in all."""
    decay_steps: int = 1200
    """Steps at the end over which the learning rate falls to zero."""
    warmup_steps: int = 200
    """Steps at the start over which the learning rate rises."""
    batch_size: int = 256
    """Images per step."""
    captions_per_image: int = 2
    """Captions drawn for each image."""
    learning_rate: float = 2e-3
    """Of Muon (matrices of the blocks, updates scaled to AdamW's size) and AdamW (the rest), at its plateau."""
    weight_decay: float = 0.05
    """On the matrices of the blocks only."""
    seed: int = 0
    """Of the initial weights and of every batch."""
    compile: bool = True
    """Use torch.compile (about 1.6 times faster on a CPU)."""
    log_every: int = 50
    """Steps between rows of the log."""
    evaluate_every: int = 250
    """Steps between zero-shot evaluations on held-out renders, for the log only."""
    checkpoint_every: int = 125
    """Steps between checkpoints."""


MODEL_CONFIG = {
    "embed_dim": 96,
    "vision_cfg": {"image_size": IMAGE_SIZE, "patch_size": 8, "layers": 6, "width": 144, "head_width": 24},
    "text_cfg": {
        "context_length": CONTEXT_LENGTH,
        "vocab_size": 0,
        "hf_tokenizer_name": "attribute_clip",
        "width": 96,
        "heads": 3,
        "layers": 2,
        "pool_type": "argmax",
    },
}


def save_tokenizer(directory: Path) -> int:
    """Writes a word-level tokenizer for the captions' vocabulary; the end token has the largest id, where CLIP pools.

    Returns:
        The size of the vocabulary.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[BOS]", *caption_vocabulary(), "[EOS]"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, "[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 2), ("[EOS]", len(words) - 1)]
    )
    specials = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[BOS]", "eos_token": "[EOS]"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=CONTEXT_LENGTH, **specials)
    fast.save_pretrained(directory)
    settings_path = directory / "tokenizer_config.json"
    settings = json.loads(settings_path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings_path.write_text(json.dumps(settings, indent=2) + "\n")
    return len(words)


def save_model(model: CLIP, model_config: dict, directory: Path) -> None:
    """Writes config and float16 weights; open_clip loads them into float32."""
    preprocess = {"size": IMAGE_SIZE, "mean": PIXEL_MEAN, "std": PIXEL_STD, "interpolation": "bicubic"}
    config = {"model_cfg": model_config, "preprocess_cfg": preprocess}
    (directory / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = {name: weight.detach().cpu().half().contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, directory / "open_clip_model.safetensors")


def normalise(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
    """Images in [0, 1] as the model takes them."""
    mean, std = torch.tensor(PIXEL_MEAN, device=images.device), torch.tensor(PIXEL_STD, device=images.device)
    return (images - mean[:, None, None]) / std[:, None, None]


def contrastive_loss(
    logits: Float[Tensor, "image caption"], spared: Bool[Tensor, "image caption"], own: Bool[Tensor, "image caption"]
) -> Float[Tensor, ""]:
    """CLIP's loss, except that a caption that happens to fit another image of the batch is not a negative there.

    Args:
        logits: scaled cosines.
        spared: pairs that are not negatives: captions that say nothing false about the image, their own included.
        own: which captions were written for which images.
    """
    negatives = logits.masked_fill(spared, -math.inf)
    image_to_text = torch.logaddexp(logits, negatives.logsumexp(1, keepdim=True)) - logits
    text_to_image = torch.logaddexp(logits, negatives.logsumexp(0, keepdim=True)) - logits
    return (image_to_text[own].mean() + text_to_image[own].mean()) / 2


@torch.no_grad()
def zero_shot_accuracy(model: CLIP, tokenizer: open_clip.tokenizer.HFTokenizer, task: Task) -> float:
    """Accuracy of the prompt ensemble on the task's test images."""
    device = next(model.parameters()).device
    classifier = []
    for word in task.classes:
        prompts = tokenizer([template.format(word) for template in task.templates]).to(device)
        classifier.append(functional.normalize(model.encode_text(prompts, normalize=True).mean(0), dim=0))
    images = normalise(task.test.images.to(device))
    features = torch.cat([model.encode_image(block, normalize=True) for block in images.split(256)])
    predicted = (features @ torch.stack(classifier).T).argmax(1).cpu()
    return (predicted == task.test.labels).float().mean().item()


def learning_rate_at(step: int, config: Config) -> float:
    """Linear warm-up, plateau, linear decay to zero."""
    warmup = (step + 1) / config.warmup_steps
    decay = (config.steps - step) / config.decay_steps
    return config.learning_rate * max(0.0, min(1.0, warmup, decay))


def main(config: Config) -> None:
    """Trains, logs, evaluates, checkpoints; then exports."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    torch.manual_seed(config.seed)
    config.run_dir.mkdir(parents=True, exist_ok=True)

    vocabulary_size = save_tokenizer(config.run_dir)
    model_config = MODEL_CONFIG | {"text_cfg": MODEL_CONFIG["text_cfg"] | {"vocab_size": vocabulary_size}}
    tokenizer = open_clip.tokenizer.HFTokenizer(str(config.run_dir), context_length=CONTEXT_LENGTH)
    model = CLIP(**model_config).to(device)
    encode_image = torch.compile(model.encode_image) if config.compile else model.encode_image
    encode_text = torch.compile(model.encode_text) if config.compile else model.encode_text

    in_blocks = {name for name, weight in model.named_parameters() if "resblocks" in name and weight.ndim == 2}
    matrices = [weight for name, weight in model.named_parameters() if name in in_blocks]
    others = [weight for name, weight in model.named_parameters() if name not in in_blocks]
    optimisers = [
        torch.optim.Muon(matrices, lr=1.0, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=1.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]

    first_step, seconds = 0, 0.0
    checkpoint_path = config.run_dir / "checkpoint.pt"
    if checkpoint_path.exists():
        checkpoint = torch.load(checkpoint_path, map_location=device, weights_only=True)
        model.load_state_dict(checkpoint["model"])
        for optimiser, state in zip(optimisers, checkpoint["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        first_step, seconds = checkpoint["step"], checkpoint["seconds"]

    tasks = [
        load_task(name, image_size=IMAGE_SIZE, n_train=1, n_validation=1, n_test=400)
        for name in task_names()
        if "@" not in name
    ]
    log_path = config.run_dir / "training_log.csv"
    columns = ["step", "seconds", "loss", "learning_rate", *(task.name for task in tasks)]
    rows = log_path.read_text().splitlines()[1:] if log_path.exists() else []
    kept = [row for row in rows if int(row.split(",")[0]) <= first_step]
    log_path.write_text("\n".join([",".join(columns), *kept]) + "\n")

    own = torch.eye(config.batch_size, dtype=torch.bool, device=device).repeat(1, config.captions_per_image)
    started = time.perf_counter() - seconds
    running_loss, n_running = 0.0, 0
    for step in (
        progress := tqdm(range(first_step, config.steps), initial=first_step, total=config.steps, mininterval=20)
    ):
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        scenes = sample_scenes(config.batch_size, generator)
        naming, contrast = PHASES[max(first for first in PHASES if first <= step)]
        captions = [
            write_captions(scenes, generator, naming_rates=naming, contrast_rates=contrast)
            for _ in range(config.captions_per_image)
        ]
        spared = torch.cat([caption.compatible_with(scenes, scenes) for caption in captions], dim=1).to(device)
        tokens = tokenizer([text for caption in captions for text in caption.texts]).to(device)
        images = normalise(render(scenes.to(device), IMAGE_SIZE))

        for group in (group for optimiser in optimisers for group in optimiser.param_groups):
            group["lr"] = learning_rate_at(step, config)
        features = functional.normalize(encode_image(images), dim=1)
        texts = functional.normalize(encode_text(tokens), dim=1)
        loss = contrastive_loss(model.logit_scale.exp() * features @ texts.T, spared, own)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        running_loss, n_running = running_loss + loss.item(), n_running + 1

        done = step + 1
        if done % config.log_every == 0 or done == config.steps:
            row = {"step": done, "seconds": round(time.perf_counter() - started)}
            row |= {
                "loss": round(running_loss / n_running, 4),
                "learning_rate": round(learning_rate_at(step, config), 7),
            }
            running_loss, n_running = 0.0, 0
            if done % config.evaluate_every == 0 or done == config.steps:
                model.eval()
                row |= {task.name: round(zero_shot_accuracy(model, tokenizer, task), 4) for task in tasks}
                model.train()
                tqdm.write(" ".join(f"{name.removeprefix('attributes:')}={value}" for name, value in row.items()))
            with log_path.open("a", newline="") as file:
                csv.DictWriter(file, columns).writerow(row)
            progress.set_postfix(loss=row["loss"])
        if done % config.checkpoint_every == 0 or done == config.steps:
            state = {"model": model.state_dict(), "step": done, "seconds": time.perf_counter() - started}
            state["optimisers"] = [optimiser.state_dict() for optimiser in optimisers]
            torch.save(state, config.run_dir / "checkpoint.tmp")
            (config.run_dir / "checkpoint.tmp").replace(checkpoint_path)

    if config.export_dir is not None:
        config.export_dir.mkdir(parents=True, exist_ok=True)
        save_tokenizer(config.export_dir)
        save_model(model, model_config, config.export_dir)
        shutil.copy(log_path, config.export_dir / "training_log.csv")


if __name__ == "__main__":
    main(tyro.cli(Config))
