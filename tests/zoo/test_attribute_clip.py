"""The shipped model: complete, small, loadable by open_clip without a network, and as good as its card says."""

import json

import open_clip
import pytest
import torch
from open_clip.transformer import VisionTransformer
from torch.nn import functional

from residual_lens.data import load_task
from residual_lens.zoo import attribute_clip_path

NAME = f"local-dir:{attribute_clip_path()}"
MAX_BYTES = 10 * 2**20
WELL_NAMED = {"colour": 0.95, "background": 0.95, "digit": 0.95, "shape": 0.9, "texture": 0.9}
"""Zero-shot accuracies that issue 2 asks for."""
SAMPLING_SLACK = 0.04  # two standard errors of an accuracy of .9 on 240 images


@pytest.fixture(scope="module")
def loaded():
    model, _, preprocess = open_clip.create_model_and_transforms(NAME)
    return model.eval(), open_clip.get_tokenizer(NAME), preprocess


@torch.no_grad()
def zero_shot(model, tokenizer, preprocess, name: str) -> tuple[float, int]:
    """Accuracy on a small test split, and the number of classes."""
    task = load_task(name, image_size=32, seed=5, n_train=1, n_validation=1, n_test=240)
    normalise = preprocess.transforms[-1]
    images = model.encode_image(normalise(task.test.images), normalize=True)
    prompts = [[template.format(word) for template in task.templates] for word in task.classes]
    texts = torch.stack([model.encode_text(tokenizer(p), normalize=True).mean(0) for p in prompts])
    predicted = (images @ functional.normalize(texts, dim=1).T).argmax(1)
    return (predicted == task.test.labels).float().mean().item(), len(task.classes)


def test_is_a_plain_open_clip_tower(loaded):
    model, _, _ = loaded
    assert isinstance(model.visual, VisionTransformer)
    assert model.visual.pool_type == "tok"
    blocks = model.visual.transformer.resblocks
    assert len(blocks) >= 6
    assert blocks[0].attn.num_heads >= 6
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert all(weight.isfinite().all() for weight in model.parameters())


def test_fits_the_package():
    files = [path for path in attribute_clip_path().iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    assert {"README.md", "training_log.csv", "tokenizer.json"} <= {path.name for path in files}
    assert not [path.name for path in files if path.suffix in (".pt", ".bin", ".pkl")]


def test_preprocessing_belongs_to_the_model(loaded):
    model, _, preprocess = loaded
    config = json.loads((attribute_clip_path() / "open_clip_config.json").read_text())
    assert model.visual.image_size == (32, 32) or model.visual.image_size == 32
    assert list(preprocess.transforms[-1].mean) == config["preprocess_cfg"]["mean"]


def test_tokenizer_knows_every_word_and_ends_where_clip_pools(loaded):
    _, tokenizer, _ = loaded
    tokens = tokenizer(["a photo of one small striped crescent tilted left in the bottom right", "a quokka"])
    unknown = tokenizer.tokenizer.unk_token_id
    assert tokens.shape == (2, 20)
    assert unknown not in tokens[0].tolist()
    assert unknown in tokens[1].tolist()
    assert tokens.max(1).values.tolist() == [tokenizer.tokenizer.eos_token_id] * 2


@pytest.mark.parametrize("attribute", list(WELL_NAMED))
def test_reaches_what_its_card_says(loaded, attribute: str):
    accuracy, _ = zero_shot(*loaded, f"attributes:{attribute}")
    assert accuracy >= WELL_NAMED[attribute] - SAMPLING_SLACK


@pytest.mark.parametrize("attribute", ["size", "position", "orientation"])
def test_leaves_room_where_captions_are_rare(loaded, attribute: str):
    accuracy, n_classes = zero_shot(*loaded, f"attributes:{attribute}")
    assert 1 / n_classes - 0.05 < accuracy < 0.85
