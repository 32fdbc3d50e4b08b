"""What cannot be trained is refused before any work."""

import torch

from residual_lens.errors import InputError, MismatchError
from residual_lens.hooked import HookedViT
from residual_lens.text import ZeroShotClassifier
from residual_lens.training.cached import CachedSamples, Coordinates
from residual_lens.training.fitting.settings import Job
from residual_lens.training.splits.batches import Split
from residual_lens.training.splits.live import LiveImages, LiveSamples


def check_job(job: Job, *, allow_missing_classes: bool) -> None:
    """Refuse what cannot be trained.

    Raises:
        InputError: nothing to train, no samples, labels that are not classes, classes without training samples, images
            of another size, or a path that the samples do not know.
        MismatchError: an adapter or coordinates of another model.
    """
    adapter, hvit, classifier, settings = job.adapter, job.hvit, job.classifier, job.settings
    if torch.is_inference_mode_enabled():
        raise InputError("Training needs gradients, which torch.inference_mode() rules out: leave it first.")
    if not job.parameters:
        raise InputError(f"{type(adapter).__name__} has no parameter that requires a gradient: nothing to train.")
    check_l1(settings.l1, type(adapter).__name__, has_scales="scales" in dict(adapter.named_parameters()))
    check_device(hvit.device, precision=settings.precision, devices=settings.devices)
    width = classifier.weights.shape[1]
    if width != hvit.cfg.d_out:
        raise InputError(
            f"The classifier is for embeddings of {width} dimensions, {hvit.cfg.model_name} has {hvit.cfg.d_out}: "
            "build it with this model's encode_text."
        )
    for name, split in job.splits.items():
        check_labels(name, split, classifier)
        _check_kind(name, split, hvit, settings.path)
    if not allow_missing_classes:
        _check_every_class_is_there(job.splits["train"], classifier)
    # Entered and left: the adapter refuses a model that it does not belong to.
    with adapter.attached(hvit, settings.path):
        pass


def check_l1(l1: float, name: str, *, has_scales: bool) -> None:
    """Refuse a penalty where there is nothing that it is of."""
    if l1 and not has_scales:
        raise InputError(f"l1 penalises scales, and {name} has none: leave it at 0.")


def check_device(device: torch.device, *, precision: str, devices: int) -> None:
    """Refuse an arithmetic that a device does not have, and more of its kind than there are."""
    if precision == "16-mixed" and device.type == "cpu":
        raise InputError("precision='16-mixed' needs an accelerator: use 'bf16-mixed' or '32-true' on a CPU.")
    # Of a CPU, as many processes as are asked for.
    there = torch.cuda.device_count() if device.type == "cuda" else 1
    if device.type != "cpu" and devices > there:
        raise InputError(f"devices={devices} are more than the {there} of {device.type} here.")


def check_labels(name: str, split: Split, classifier: ZeroShotClassifier) -> None:
    """Refuse a split without samples, or with labels that are no classes."""
    if len(split.labels) == 0:
        raise InputError(f"The {name} split is empty.")
    low, high = int(split.labels.min()), int(split.labels.max())
    if low < 0 or high >= len(classifier.classes):
        raise InputError(
            f"Labels of the {name} split run from {low} to {high}, but the classifier has "
            f"{len(classifier.classes)} classes: they must be indices into classifier.classes."
        )


def _check_every_class_is_there(train: Split, classifier: ZeroShotClassifier) -> None:
    counts = torch.bincount(train.labels.long().cpu(), minlength=len(classifier.classes)).tolist()
    missing = [name for name, count in zip(classifier.classes, counts, strict=True) if count == 0]
    if missing:
        shown = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
        raise InputError(
            f"The train split has no image of {len(missing)} of {len(counts)} classes: {shown}. Add some, take the "
            "classes out of the classifier, or pass allow_missing_classes=True."
        )


def _check_kind(name: str, split: Split, hvit: HookedViT, path: str) -> None:
    if isinstance(split, Coordinates | CachedSamples) and path == "stream":
        raise InputError(
            f"The {name} split is of direct contributions, which know nothing of the stream: pass LiveSamples or "
            "LiveImages for path='stream'."
        )
    if isinstance(split, Coordinates):
        split.require_model(hvit)
    elif isinstance(split, CachedSamples) and split.decomposition.units != hvit.units:
        raise MismatchError(
            f"The {name} split has contributions of {len(split.decomposition.units)} units, {hvit.cfg.model_name} has "
            f"{len(hvit.units)}: cache samples of this model."
        )
    elif isinstance(split, LiveSamples | LiveImages) and not hvit.cfg.any_size:
        live = isinstance(split, LiveImages)
        size = split.preprocessing.image_size if live else tuple(split.images.shape[-2:])
        if size != tuple(hvit.cfg.image_size):
            raise InputError(
                f"Images of the {name} split have {size[0]}×{size[1]} pixels, {hvit.cfg.model_name} takes "
                f"{hvit.cfg.image_size[0]}×{hvit.cfg.image_size[1]}: preprocess them with hvit.preprocessing."
            )
