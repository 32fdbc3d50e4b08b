"""Images that are loaded as they are needed train like those in memory; crops are the seed's and the epoch's."""

import numpy as np
import pytest
import torch
from PIL import Image

from residual_lens.data.images import open_images
from residual_lens.data.preprocessing import Preprocessing
from residual_lens.errors import InputError
from residual_lens.text import ZeroShotClassifier
from residual_lens.training import Coarse, LiveImages, LiveSamples, evaluate, train_adapter
from residual_lens.training.splits.live import cropped_and_mirrored
from tests.training.toy import ScriptedValidation, interrupted_after_an_epoch

PREPROCESSING = Preprocessing((32, 32), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def digits(n: int, split: str = "train", **options) -> LiveImages:
    return LiveImages(open_images("digits", split=split).subset(np.arange(n)), PREPROCESSING, **options)


@pytest.fixture
def classifier(hvit) -> ZeroShotClassifier:
    weights = torch.randn(10, hvit.cfg.d_out, generator=torch.Generator().manual_seed(0))
    return ZeroShotClassifier(torch.nn.functional.normalize(weights, dim=-1), tuple("0123456789"), 10.0)


def trained(hvit, classifier, train, validation=None, **options):
    adapter = Coarse(3, 3)
    # Whatever comes later is better: the last weights are kept.
    validation = validation or ScriptedValidation(classifier, [0.1, 0.2, 0.3])
    options = {"max_epochs": 2, "batch_size": 16, "learning_rate": 0.05, "allow_missing_classes": True} | options
    log = train_adapter(adapter, hvit, classifier, train=train, validation=validation, path="stream", **options)
    return adapter.scales.detach(), log


def test_loaded_images_train_like_those_in_memory_with_and_without_workers(hvit, classifier):
    loaded, held = [], []
    for n, split in ((20, "train"), (12, "validation")):
        live = digits(n, split)
        loaded.append(live)
        held.append(LiveSamples(torch.stack([live.pixels(row) for row in range(n)]), live.labels))
    expected, _ = trained(hvit, classifier, held[0])
    for train in (loaded[0], digits(20, workers=1)):
        assert torch.equal(trained(hvit, classifier, train)[0], expected)
    accuracy = evaluate(hvit, classifier, loaded[1])
    assert accuracy == evaluate(hvit, classifier, held[1])


def test_augmented_training_is_the_seeds_and_goes_on_after_an_interruption(hvit, classifier, tmp_path, monkeypatch):
    train = digits(20, augment=True)
    plain, _ = trained(hvit, classifier, digits(20))
    expected, log = trained(hvit, classifier, train)
    assert not torch.equal(plain, expected)
    assert torch.equal(trained(hvit, classifier, train)[0], expected)
    assert not torch.equal(trained(hvit, classifier, train, seed=1)[0], expected)
    with interrupted_after_an_epoch(monkeypatch):
        trained(hvit, classifier, train, folder=tmp_path)
    # The script's third word: the start and the first epoch are behind it.
    scales, resumed = trained(hvit, classifier, train, ScriptedValidation(classifier, [0.3]), folder=tmp_path)
    assert torch.equal(scales, expected)
    assert resumed.train_loss == log.train_loss


@pytest.mark.parametrize("size", [(40, 30), (300, 2), (1, 1)])
def test_crops_lie_inside_the_image_and_half_are_mirrored(size):
    # Every pixel says where it comes from.
    width, height = size
    places = np.arange(width * height).reshape(height, width)
    image = Image.fromarray(np.stack([places % 256, places // 256, places * 0], axis=-1).astype(np.uint8))
    mirrored = 0
    for seed in range(60):
        part = np.asarray(cropped_and_mirrored(image, seed)).astype(int)
        found = part[..., 0] + 256 * part[..., 1]
        rows, columns = found // width, found % width
        assert (rows == rows[:, :1]).all()
        assert (np.diff(rows[:, 0]) == 1).all()
        steps = np.diff(columns[0])
        assert (steps == steps[:1]).all()
        assert set(steps.tolist()) <= {1, -1}
        mirrored += -1 in steps
        assert found.size <= width * height
        if size == (40, 30):
            assert 0.45 < found.size / (width * height) <= 1
            assert 0.6 < found.shape[1] / found.shape[0] < 1.5
    assert size != (40, 30) or 15 < mirrored < 45


def test_images_of_another_size_and_a_number_of_workers_below_0_are_refused(hvit, classifier):
    small = Preprocessing((16, 16), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    other = LiveImages(open_images("digits"), small)
    with pytest.raises(InputError, match=r"Images of the train split have 16×16 pixels.*takes 32×32"):
        trained(hvit, classifier, other, digits(12, "validation"))
    with pytest.raises(InputError, match="workers is a number of processes"):
        digits(3, workers=-1)
