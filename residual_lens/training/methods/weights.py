"""Training what stands in the place of weights, while the model's own stay untouched."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor, nn

from residual_lens.errors import InputError, MismatchError
from residual_lens.hooked import HookedViT
from residual_lens.hooked.root import Hook
from residual_lens.interventions import Path
from residual_lens.interventions.saving import load_folder
from residual_lens.training.methods.places import Place, places_of
from residual_lens.training.methods.saving import SavedAdapter, fill

Value = Callable[[Tensor], Tensor]
"""What stands in the place of a weight, from the weight."""


@dataclass(frozen=True)
class WeightsConfig:
    """What a change of weights is besides its tensors."""

    model_name: str
    """Model that it was made for."""
    fingerprint: str
    """Digest of its weights."""
    rank: int | None = None
    """Of LoRA."""


class WeightAdapter(SavedAdapter):
    """A trainable change of weights of the image tower, in force inside `with adapter.attached(hvit):`.

    The parameters are the adapter's own. Inside the context whoever reads a weight through its module, the wrapper or
    the model itself, is given what the adapter makes of it. The model's parameters are not written to: outside they
    are the same bits, and `state_dict()` and `fingerprint()` are the plain model's in the context as well. `write`
    puts the weights into the model for good.
    """

    def __init__(self, hvit: HookedViT) -> None:
        """For a model, and any other with the same weights."""
        super().__init__()
        self._config = WeightsConfig(hvit.cfg.model_name, hvit.fingerprint())

    @property
    def config(self) -> WeightsConfig:
        return self._config

    @classmethod
    def load(cls, folder: str | FilePath, hvit: HookedViT) -> "WeightAdapter":
        """Read what `save` wrote, onto the model's device.

        Args:
            folder: where.
            hvit: a model with the weights that it was made for.

        Raises:
            InputError: no such folder, another adapter, or damaged files.
            MismatchError: it was made for another model.
        """
        config, tensors = load_folder(folder, kind=cls.__name__, config_type=WeightsConfig)
        options = {} if config.rank is None else {"rank": config.rank}
        _check_made_for(config, hvit, cls.__name__)
        adapter = cls(hvit, **options)
        fill(adapter, tensors, folder)
        return adapter

    @abstractmethod
    def values(self) -> Mapping[str, Value]:
        """By the name of a weight, what stands in its place."""

    def hooks(self, hvit: HookedViT, path: Path) -> list[Hook]:
        return []

    @contextmanager
    def attached(self, hvit: HookedViT, path: str = "stream") -> Iterator[HookedViT]:
        """The changed weights in force inside a `with` block.

        Args:
            hvit: the model.
            path: `"stream"`: later layers respond to what changed weights do, and there is no other way.

        Raises:
            InputError: another path, or changed weights are in force already.
            MismatchError: the adapter does not belong to this model.
        """
        if path != "stream":
            raise InputError(
                f"{type(self).__name__} changes weights, which later layers respond to: use path='stream'."
            )
        _check_made_for(self._config, hvit, type(self).__name__)
        with _in_place(places_of(hvit), self.values()):
            yield hvit

    @torch.no_grad()
    def write(self, hvit: HookedViT) -> nn.Module:
        """Write the changed weights into the model for good; `hvit.source` computes with them by itself.

        Raises:
            MismatchError: the adapter does not belong to this model.
        """
        _check_made_for(self._config, hvit, type(self).__name__)
        places = places_of(hvit)
        for name, value in self.values().items():
            weight = places[name][0].read()
            weight.copy_(value(weight))
        return hvit.source


def in_working_precision(weight: Tensor) -> Tensor:
    """In float32 at least: steps of training are below the rounding of half precision."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


def _check_made_for(config: WeightsConfig, hvit: HookedViT, what: str) -> None:
    actual = hvit.fingerprint()
    if actual != config.fingerprint:
        raise MismatchError(
            f"This {what} was made for {config.model_name} with other weights (fingerprint {config.fingerprint[:12]}…, "
            f"this {hvit.cfg.model_name} has {actual[:12]}…): make it for this model."
        )


@contextmanager
def _in_place(places: Mapping[str, list[Place]], values: Mapping[str, Value]) -> Iterator[None]:
    """Values in the place of weights: each owner is for a while of a class that reads them so."""
    by_owner: dict[int, tuple[nn.Module, dict[str, Value]]] = {}
    for name, value in values.items():
        for place in places[name]:
            by_owner.setdefault(id(place.owner), (place.owner, {}))[1][place.name] = value
    if any(hasattr(type(owner), "_reads_values") for owner, _ in by_owner.values()):
        raise InputError("Changed weights are in force in this model already: leave their context first.")
    before = [(owner, type(owner)) for owner, _ in by_owner.values()]
    try:
        for owner, of_owner in by_owner.values():
            owner.__class__ = _reading(type(owner), of_owner)
        yield
    finally:
        for owner, its_class in before:
            owner.__class__ = its_class


def _reading(base: type[nn.Module], values: Mapping[str, Value]) -> type[nn.Module]:
    """A class like `base` whose weights are computed when they are read. `_parameters` keeps the weights themselves."""
    attributes: dict[str, Any] = {name: property(_reader(name, value)) for name, value in values.items()}
    return type(base.__name__, (base,), attributes | {"__module__": base.__module__, "_reads_values": True})


def _reader(name: str, value: Value) -> Callable[[nn.Module], Tensor]:
    def read(module: nn.Module) -> Tensor:
        try:
            return value(module._parameters[name])  # pyright: ignore[reportArgumentType]
        except AttributeError as error:
            # Python would look for the attribute elsewhere then, and find the weight itself.
            raise RuntimeError(f"The value of {name} could not be computed.") from error

    return read
