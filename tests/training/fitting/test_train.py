"""train_adapter learns, stops, keeps the best and leaves nothing behind."""

import pytest
import torch
from schedulefree import AdamWScheduleFree
from torch.nn.functional import cross_entropy

from residual_lens.errors import InputError, MismatchError, ResidualLensError
from residual_lens.interventions import ResiDual
from residual_lens.text import ZeroShotClassifier
from residual_lens.training import CachedSamples, Coarse, LinearAdapter, LiveSamples, evaluate, train_adapter
from residual_lens.training.fitting.checkpoints import LAST, saved_state
from tests.interventions.tiny_bases import bases_for, hooks_in_force
from tests.tolerances import FLOAT32_TOL, assert_changed, assert_close
from tests.training.toy import ScriptedValidation, toy_split


def residual_for(hvit, **options) -> ResiDual:
    return ResiDual.from_bases(bases_for(hvit), **options)


ADAPTERS = {
    "coarse": lambda hvit: Coarse(3, 3),
    "residual*": lambda hvit: residual_for(hvit, variant="residual*"),
    "residual": lambda hvit: residual_for(hvit),
    "linear": lambda hvit: LinearAdapter(hvit.cfg.d_out),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_learns_a_toy_task(hvit, classifier, train, validation, name):
    adapter = ADAPTERS[name](hvit)
    before = evaluate(hvit, classifier, validation, adapter=adapter)
    log = train_adapter(adapter, hvit, classifier, train=train, validation=validation, learning_rate=0.1, batch_size=20)
    after = evaluate(hvit, classifier, validation, adapter=adapter)
    assert log.validation_accuracy[0] == before
    assert after == log.validation_accuracy[log.best_epoch] == max(log.validation_accuracy)
    assert after >= before + 0.1
    assert log.train_loss[-1] < log.train_loss[0]
    assert len(log.validation_accuracy) == len(log.train_loss) + 1
    assert log.seconds > 0


def test_the_loss_is_the_mean_cross_entropy_of_scaled_cosines(hvit, classifier, train, validation):
    adapter = LinearAdapter(hvit.cfg.d_out)
    embedding = train.decomposition.total().double()
    cosines = embedding @ classifier.weights.double().T / embedding.norm(dim=-1, keepdim=True)
    expected = float(cross_entropy(classifier.logit_scale * cosines, train.labels))
    log = train_adapter(adapter, hvit, classifier, train=train, validation=validation, max_epochs=1, batch_size=60)
    assert log.train_loss == pytest.approx((expected,), rel=FLOAT32_TOL)
    # Uneven batches must weigh by their size; at this rate nothing moves meanwhile.
    log = train_adapter(
        LinearAdapter(hvit.cfg.d_out),
        hvit,
        classifier,
        train=train,
        validation=validation,
        max_epochs=1,
        batch_size=37,
        learning_rate=1e-12,
    )
    assert log.train_loss == pytest.approx((expected,), rel=FLOAT32_TOL)


def test_the_seed_decides_the_outcome(hvit, classifier, train, validation):
    results = []
    for seed in (0, 0, 1):
        adapter = residual_for(hvit)
        train_adapter(
            adapter,
            hvit,
            classifier,
            train=train,
            validation=validation,
            max_epochs=3,
            batch_size=20,
            learning_rate=0.1,
            seed=seed,
        )
        results.append(adapter.scales.detach())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def recording(adapter: Coarse, validation: ScriptedValidation) -> list[torch.Tensor]:
    """The factors at every evaluation from here on: what a schedule-free optimizer shows in eval mode."""
    seen, embed = [], validation.embed

    def recorded(hvit, rows):
        seen.append(adapter.scales.detach().clone())
        return embed(hvit, rows)

    validation.embed = recorded
    return seen


def test_training_stops_after_patience_and_keeps_the_best_weights(hvit, classifier, train):
    accuracies = [0.2, 0.5, 0.3, 0.6, 0.6, 0.4, 0.5, 0.9, 0.9]
    adapter, validation = Coarse(3, 3), ScriptedValidation(classifier, accuracies)
    seen = recording(adapter, validation)
    log = train_adapter(adapter, hvit, classifier, train=train, validation=validation, patience=3, learning_rate=0.05)
    # The rise at epoch 3 is the best; being equal at epoch 4 is no rise; epoch 7 would have been one.
    assert log.validation_accuracy == pytest.approx(accuracies[:7])
    assert log.best_epoch == 3
    assert torch.equal(adapter.scales, seen[3])
    assert not torch.equal(seen[3], seen[6])


def test_the_weights_kept_are_the_averaged_ones_of_schedule_free_adamw(hvit, classifier, train):
    adapter = Coarse(3, 3)
    validation = ScriptedValidation(classifier, [0.1, 0.2, 0.3, 0.4])
    options = {"max_epochs": 3, "batch_size": 60, "learning_rate": 0.1}
    train_adapter(adapter, hvit, classifier, train=train, validation=validation, **options)
    twin = torch.ones(3, 3, requires_grad=True)
    optimizer = AdamWScheduleFree([twin], lr=0.1)
    optimizer.train()
    heads = train.decomposition.select("heads")
    others = train.decomposition.total() - heads.sum(dim=1)
    for _ in range(3):
        embedding = others + (twin.reshape(9, 1) * heads).sum(dim=1)
        twin.grad = torch.autograd.grad(cross_entropy(classifier.logits(embedding), train.labels), twin)[0]
        optimizer.step()
    stepped = twin.detach().clone()
    optimizer.eval()
    # Adam divides gradients by their size, so a rounded one moves a factor as far as it is rounded.
    assert_close(adapter.scales, twin, 100 * FLOAT32_TOL)
    assert_changed(adapter.scales, stepped)


def test_weights_of_the_start_are_kept_where_nothing_was_better(hvit, classifier, train):
    adapter = Coarse(3, 3)
    validation = ScriptedValidation(classifier, [0.5, 0.4, 0.5])
    log = train_adapter(adapter, hvit, classifier, train=train, validation=validation, max_epochs=2, learning_rate=0.1)
    assert log.best_epoch == 0
    assert torch.equal(adapter.scales, torch.ones(3, 3))


def test_training_stops_at_the_last_epoch(hvit, classifier, train):
    validation = ScriptedValidation(classifier, [0.1 * step for step in range(10)])
    log = train_adapter(Coarse(3, 3), hvit, classifier, train=train, validation=validation, max_epochs=4)
    assert (len(log.train_loss), log.best_epoch) == (4, 4)


def test_the_model_is_neither_changed_nor_given_gradients(hvit, classifier, train, validation):
    before, mode = hvit.fingerprint(), hvit.training
    adapter = residual_for(hvit)
    images, labels = toy_split(hvit, 12, seed=3)
    for samples in (train, LiveSamples(images, labels)):
        train_adapter(adapter, hvit, classifier, train=samples, validation=validation, max_epochs=2)
    assert hvit.fingerprint() == before
    assert hvit.training == mode
    assert all(parameter.grad is None for parameter in hvit.parameters())
    assert all(parameter.requires_grad for parameter in hvit.parameters())
    assert all(parameter.grad is None for parameter in adapter.parameters())
    assert hooks_in_force(hvit) == 0


class Failing:
    """Training samples that fail from a certain batch on."""

    def __init__(self, samples: CachedSamples, after: int, error: BaseException | None) -> None:
        self.labels, self._samples, self._left, self._error = samples.labels, samples, after, error

    def embed(self, hvit, rows):
        self._left -= 1
        embedding = self._samples.embed(hvit, rows)
        if self._left >= 0:
            return embedding
        if self._error:
            raise self._error
        return embedding * float("nan")


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (
            None,
            ResidualLensError,
            r"nan at step 2 of epoch 4: .*Lower learning_rate .it is 0.05.*best on validation",
        ),
        (KeyboardInterrupt("stopped"), KeyboardInterrupt, "stopped"),
    ],
)
def test_best_weights_are_kept_after_a_nan_loss_or_an_interruption(hvit, classifier, train, error, expected, message):
    adapter, validation = Coarse(3, 3), ScriptedValidation(classifier, [0.2, 0.9, 0.3, 0.4])
    seen = recording(adapter, validation)
    with pytest.raises(expected, match=message):
        train_adapter(
            adapter,
            hvit,
            classifier,
            train=Failing(train, 10, error),
            validation=validation,
            batch_size=20,
            learning_rate=0.05,
        )
    assert len(seen) == 4
    assert torch.equal(adapter.scales, seen[1])
    assert all(parameter.grad is None for parameter in adapter.parameters())
    assert hooks_in_force(hvit) == 0


def test_stream_training_on_images_lowers_the_loss(hvit, classifier):
    train, validation = (LiveSamples(*toy_split(hvit, n, seed=n)) for n in (24, 12))
    adapter = residual_for(hvit, scales="ones", keep_mean=True)
    log = train_adapter(
        adapter,
        hvit,
        classifier,
        train=train,
        validation=validation,
        path="stream",
        learning_rate=0.05,
        max_epochs=8,
        batch_size=12,
    )
    assert log.train_loss[-1] < 0.8 * log.train_loss[0]
    accuracy = evaluate(hvit, classifier, validation, adapter=adapter, path="stream")
    assert accuracy == max(log.validation_accuracy)


@pytest.mark.parametrize("name", ["residual*", "residual", "coarse"])
def test_cached_samples_are_refused_on_the_stream_path(hvit, classifier, train, validation, name):
    adapter = ADAPTERS[name](hvit)
    with pytest.raises(InputError, match=r"train split is of direct contributions.*LiveSamples"):
        train_adapter(adapter, hvit, classifier, train=train, validation=validation, path="stream")
    with pytest.raises(MismatchError, match="which a stored decomposition cannot answer"):
        evaluate(hvit, classifier, validation, adapter=adapter, path="stream")
    assert hooks_in_force(hvit) == 0


def test_validation_that_is_not_finite_ends_training_and_wins_nothing(hvit, classifier, train, validation, tmp_path):
    adapter = Coarse(3, 3)
    # Fine before training and after epoch 1.
    failing = Failing(validation, 2, None)
    options = {"train": train, "batch_size": 20, "learning_rate": 0.05, "folder": tmp_path}
    with pytest.raises(ResidualLensError, match=r"no finite length or logits after epoch 2: .*best on validation"):
        train_adapter(adapter, hvit, classifier, validation=failing, **options)
    saved = saved_state(tmp_path / LAST)["state_dict"]["_extra_state"]
    assert len(saved["losses"]) == 1
    assert torch.equal(adapter.scales, saved["best"][0])


def test_an_adapter_that_overflows_is_not_the_best(hvit, classifier, train, validation):
    # All labels are the first class, which the largest of NaN logits is.
    first = relabelled(validation, validation.labels * 0)
    adapter = Coarse(3, 3)
    with pytest.raises(ResidualLensError, match="validation split have no finite length or logits after epoch 1"):
        train_adapter(adapter, hvit, classifier, train=train, validation=first, learning_rate=1e38)
    assert torch.equal(adapter.scales, torch.ones(3, 3))


def test_class_embeddings_with_a_graph_stay_fixed(hvit, classifier, train, validation):
    leaf = classifier.weights.clone().requires_grad_()
    with_graph = ZeroShotClassifier(leaf * 1.0, classifier.classes, classifier.logit_scale)
    scales = []
    for each in (classifier, with_graph):
        adapter = Coarse(3, 3)
        train_adapter(adapter, hvit, each, train=train, validation=validation, max_epochs=1, batch_size=20)
        scales.append(adapter.scales)
    assert torch.equal(*scales)
    assert leaf.grad is None


def relabelled(samples: CachedSamples, labels: torch.Tensor) -> CachedSamples:
    return CachedSamples(samples.decomposition, labels)


def test_labels_of_another_integer_type_are_taken(hvit, classifier, train, validation):
    log = train_adapter(
        Coarse(3, 3),
        hvit,
        classifier,
        train=relabelled(train, train.labels.int()),
        validation=relabelled(validation, validation.labels.int()),
        max_epochs=1,
    )
    assert len(log.train_loss) == 1


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels: labels + 1, "run from 1 to 3, but the classifier has 3 classes"),
        (lambda labels: labels - 1, "run from -1 to 1, but the classifier has 3 classes"),
        (lambda labels: labels[:0], "split is empty"),
    ],
)
def test_labels_that_are_no_classes_and_empty_splits_are_refused(
    hvit, classifier, train, validation, split, change, message
):
    splits = {"train": train, "validation": validation}
    splits[split] = relabelled(splits[split], change(splits[split].labels))
    adapter = Coarse(3, 3)
    with pytest.raises(InputError, match=f"{split} split.*{message}" if "run" in message else f"{split} {message}"):
        train_adapter(adapter, hvit, classifier, **splits)
    assert torch.equal(adapter.scales, torch.ones(3, 3))
