"""Several processes, each with its own samples, end with the same PCA of all of them."""

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from residual_lens.errors import InputError
from residual_lens.spectral import StreamingPCA
from tests.spectral.test_pca import EXACT_TOL, assert_same, draw, fit

WORLD = 2
SIZES = {"both": (7, 23), "first empty": (0, 30), "second empty": (30, 0), "none": (0, 0)}
pytestmark = pytest.mark.slow


def work(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD)
    found = {}
    for name, sizes in SIZES.items():
        part = draw(30).split(sizes)[rank] if sum(sizes) else draw(1)[:0]
        pca = fit(part) if len(part) else StreamingPCA()
        if len(part) > 1:
            _ = pca.explained_variance_
        found[name] = pca.merge_ranks().state_dict()
        if sum(sizes):
            found[name]["variances"] = pca.explained_variance_
    with pytest.raises(InputError, match="Cannot merge"):
        fit(draw(5)[..., : 2 + rank]).merge_ranks()
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_ranks_end_with_the_same_bits_and_with_all_samples(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(work, (port, str(tmp_path)), nprocs=WORLD)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(WORLD))
    for name, sizes in SIZES.items():
        for key, value in first[name].items():
            assert torch.equal(value, second[name][key])
        variances = first[name].pop("variances", None)
        merged = StreamingPCA.from_state(first[name])
        assert merged.n_samples_seen_ == sum(sizes)
        if sum(sizes):
            assert_same(merged, fit(draw(30)), EXACT_TOL)
            assert torch.equal(merged.explained_variance_, variances)
