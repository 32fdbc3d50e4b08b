"""What tells a run from another one."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from residual_lens.hooked.fingerprint import fingerprint
from residual_lens.training.fitting.settings import Job
from residual_lens.training.splits.batches import Split
from residual_lens.training.splits.live import LiveImages


def identity(job: Job) -> dict[str, Any]:
    """Settings as they are and digests of everything else, by name."""
    adapter, hvit, classifier = job.adapter, job.hvit, job.classifier
    trained = {id(parameter) for parameter in job.parameters}
    shapes = {name: list(parameter.shape) for name, parameter in adapter.named_parameters()}
    # How many processes share a batch decides its rounding alone.
    settings = {name: x for name, x in asdict(job.settings).items() if name not in ("devices", "num_nodes")}
    run = {
        **settings,
        "adapter": f"{type(adapter).__name__} {shapes}",
        "start": digest(job.parameters),
        "adapter's fixed values": digest(_but(trained, adapter.state_dict(keep_vars=True))),
        "model": digest(_but(trained, hvit.source.state_dict(keep_vars=True)), str(hvit.cfg)),
        "classifier": digest([classifier.weights], f"{classifier.classes} {classifier.logit_scale}"),
    }
    return run | {f"{name} samples": _digest_of_split(split) for name, split in job.splits.items()}


def digest(tensors: Sequence[Tensor] | Mapping[str, Tensor], *others: str) -> str:
    """SHA-256 of tensors, with names and types, and of texts."""
    named = tensors if isinstance(tensors, Mapping) else {str(place): x for place, x in enumerate(tensors)}
    return fingerprint(nn.Module(), "\n".join(others), named)


def _but(trained: set[int], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: x for name, x in tensors.items() if isinstance(x, Tensor) and id(x) not in trained}


def _digest_of_split(split: Split) -> str:
    if isinstance(split, LiveImages):
        return digest([], split.images.fingerprint(), str(split.preprocessing), str(split.augment))
    return digest({name: x for name, x in vars(split).items() if isinstance(x, Tensor)}, type(split).__name__)
