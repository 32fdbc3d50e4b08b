"""What a run could not do is refused before its data are encoded."""

from pathlib import Path

from residual_lens.bases.assembling import analysed_units
from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.training.fitting.checks import check_device, check_l1
from residual_lens.training.methods import Method
from residual_lens.training.runs.config import Resources, RunConfig


def refuse_impossible(config: RunConfig, resources: Resources, method: Method, hvit: HookedViT, folder: Path) -> None:
    """Refuse settings that do not go together, or with the model and where it is.

    Args:
        config: of the run.
        resources: what it is to run on.
        method: the config's.
        hvit: the model.
        folder: the run's.

    Raises:
        InputError: unknown units or none that the method rescales, l1 where nothing has scales, arithmetic or devices
            that are not there, or a logger that cannot be used.
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
    check_l1(config.l1, method.name, has_scales=method.has_scales)
    check_device(hvit.device, precision=config.precision, devices=resources.devices)
    if resources.logger != "csv":
        # Lightning takes longer to import than torch.
        from residual_lens.training.fitting.trainer import logger_named

        logger_named(resources.logger, folder)
