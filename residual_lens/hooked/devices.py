"""Devices by name: those that are here, and no others."""

import torch

from residual_lens.errors import InputError


def device_named(name: str | torch.device | None) -> torch.device:
    """A device that is here.

    Args:
        name: as torch writes it, such as "cpu", "cuda" or "cuda:1". Without one, a CUDA GPU if there is one, else the
            CPU: other accelerators have no float64, in which contributions are summed.

    Raises:
        InputError: no such device; the message lists those that are here.

    Example:
        >>> device_named("cpu")
        device(type='cpu')
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    here = ["cpu"]
    if torch.accelerator.is_available() and (accelerator := torch.accelerator.current_accelerator()) is not None:
        here += [f"{accelerator.type}:{index}" for index in range(torch.accelerator.device_count())]
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    # A kind without a number is its first.
    if device is None or not (device.type == "cpu" or f"{device.type}:{device.index or 0}" in here):
        raise InputError(f"got device {str(name)!r}, expected one that is here: {', '.join(here)}.")
    return device
