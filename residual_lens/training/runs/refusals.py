"""What a run could not do is refused before its data are encoded."""

from dataclasses import fields
from pathlib import Path

from residual_lens.bases.assembling import analysed_units
from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.training.fitting.checks import check_device
from residual_lens.training.methods import Method, Options
from residual_lens.training.runs.config import Resources, RunConfig

OF_TRAINING = {"epochs", "patience", "batch_size", "learning_rate", "find_learning_rate", "precision", "augment"}
"""Settings that mean nothing where nothing is trained."""


def useless(method: Method) -> frozenset[str]:
    """Settings that mean nothing for a method.

    >>> from residual_lens.training.methods import METHODS
    >>> sorted(useless(METHODS["linear"]))
    ['bases', 'explained_variance', 'keep_mean', 'l1', 'rank', 'scales', 'units']
    """
    names = {field.name for field in fields(Options)} - {*method.options, "seed"}
    names |= OF_TRAINING if method.learning_rate is None else set()
    names |= set() if method.has_scales else {"l1"}
    return frozenset(names | ({"bases"} if method.needs_bases is None else set()))


def refuse_useless(config: RunConfig, method: Method) -> None:
    """Refuse settings that mean nothing for a method.

    Raises:
        InputError: there are some; the message names them.
    """
    given = [f"{name}={getattr(config, name)!r}" for name in config.options if name in useless(method)]
    if given:
        raise InputError(f"got {', '.join(given)}, which {method.name} has no use for: leave it out.")


def refuse_impossible(config: RunConfig, resources: Resources, method: Method, hvit: HookedViT, folder: Path) -> None:
    """Refuse settings that do not go together, or with the model and where it is.

    Args:
        config: of the run.
        resources: what it is to run on.
        method: the config's.
        hvit: the model.
        folder: the run's.

    Raises:
        InputError: unknown units or none that the method rescales, arithmetic or devices that are not there, or a
            logger that cannot be used.
    """
    hvit.units.select(config.units)
    if config.units and method.needs_bases == "units":
        kinds = ("head",) if method.name == "residual*" else ("head", "mlp")
        if not any(unit.kind in kinds for unit in analysed_units(hvit.units, config.units)):
            raise InputError(
                f"{method.name} rescales units of kind {' and '.join(kinds)}, got units={config.units}: none of them."
            )
    if method.learning_rate is None:
        return
    check_device(hvit.device, precision=config.precision, devices=resources.devices)
    if resources.logger != "csv":
        # Lightning takes longer to import than torch.
        from residual_lens.training.fitting.trainer import logger_named

        logger_named(resources.logger, folder)
