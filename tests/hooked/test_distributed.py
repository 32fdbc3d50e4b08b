"""`DistributedDataParallel` around the wrapper: two processes, half a batch each."""

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from residual_lens.hooked.vit import HookedViT
from residual_lens.interventions import ResiDual
from tests.interventions.tiny_bases import bases_for
from tests.tiny_models import tiny_images, tiny_tower
from tests.tolerances import FLOAT32_TOL, assert_changed, assert_close

WORLD = 2
pytestmark = pytest.mark.slow


class Adapted(nn.Module):
    """A frozen backbone and the ResiDual that is trained on it."""

    def __init__(self) -> None:
        super().__init__()
        self.hvit = HookedViT.wrap(tiny_tower("ViT-B-16")).requires_grad_(False)
        self.residual = ResiDual.from_bases(bases_for(self.hvit), seed=2)

    def forward(self, images: Tensor, path: str) -> Tensor:
        with self.residual.attached(self.hvit, path=path):
            return self.hvit(images)


def loss(embedding: Tensor) -> Tensor:
    """Mean over the batch, so that gradients of halves average to those of the whole."""
    return embedding.square().sum(dim=1).mean()


def weights_of(hvit: HookedViT) -> list[Tensor]:
    """All gradients, in one order for all processes."""
    return [parameter.grad.clone() for parameter in hvit.parameters() if parameter.grad is not None]


def scenarios(images: Tensor, parallel) -> dict[str, list[Tensor]]:
    """Gradients of the plain wrapper, of hooks in force on it, with checkpointing, and of λ."""

    def halved(activation, hook):
        return activation / 2

    found = {}
    for name in ("plain", "hooked", "direct", "checkpointed"):
        hvit = HookedViT.wrap(tiny_tower("ViT-B-16"))
        hvit.set_grad_checkpointing(name == "checkpointed")
        run = parallel(hvit)
        hooks = {"hooked": [("blocks.0.attn.hook_pattern", halved)], "direct": [("blocks.1.attn.hook_direct", halved)]}
        with getattr(run, "module", run).hooks(hooks.get(name, [])):
            loss(run(images)).backward()
        found[name] = weights_of(hvit)
    for path in ("direct", "stream"):
        adapted = Adapted()
        run = parallel(adapted)
        loss(run(images, path)).backward()
        assert all(parameter.grad is None for parameter in adapted.hvit.parameters())
        found[f"scales {path}"] = [adapted.residual.scales.grad.clone()]
    return found


def work(rank: int, port: int, folder: str) -> None:
    """One process: its half of the batch."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD)
    images = tiny_images(tiny_tower("ViT-B-16"), 4).chunk(WORLD)[rank]
    torch.save(scenarios(images, DistributedDataParallel), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_gradients_are_those_of_the_whole_batch_hooks_included(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(work, (port, str(tmp_path)), nprocs=WORLD)
    expected = scenarios(tiny_images(tiny_tower("ViT-B-16"), 4), lambda module: module)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]
    assert len(expected["plain"]) > 30
    for name, gradients in expected.items():
        for found in ranks:
            assert len(found[name]) == len(gradients)
            for ours, theirs in zip(found[name], gradients, strict=True):
                assert_close(ours, theirs, FLOAT32_TOL)
    assert_changed(expected["hooked"][0], expected["plain"][0])
    assert_changed(expected["direct"][0], expected["plain"][0])
