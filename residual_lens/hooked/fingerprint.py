"""Which weights are these: a digest that two equal towers share and two different ones do not."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def fingerprint(module: nn.Module, wiring: str, others: Mapping[str, Tensor]) -> str:
    """SHA-256 over the name, shape, dtype and bytes of every parameter and buffer, as 64 hexadecimal digits.

    Args:
        module: the image tower.
        wiring: what decides the output besides weights (sizes, activation, pooling).
        others: weights that take part and lie elsewhere (a projection that a whole CLIP object owns).

    The same weights give the same digest on every device; casting them to another dtype changes it. About a second for
    a ViT-L, so it is computed when bases are fitted or attached, never during a forward pass.
    """
    digest = hashlib.sha256(wiring.encode())
    for name, tensor in [*sorted(module.state_dict().items()), *sorted(others.items())]:
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype};".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()
