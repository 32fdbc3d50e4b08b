"""A device is one that is here, or is refused with what is."""

import pytest
import torch

from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.hooked.devices import device_named


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine with two GPUs, as far as torch is asked for them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch):
    """A machine without one, whatever this one has."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1", torch.device("cuda", 1)])
def test_what_is_here_is_given(name):
    assert device_named(name) == torch.device(name)


@pytest.mark.usefixtures("two_gpus")
def test_without_a_name_it_is_a_gpu():
    assert device_named(None) == torch.device("cuda")


@pytest.mark.usefixtures("no_gpu")
def test_without_a_name_and_a_gpu_it_is_the_cpu():
    assert device_named(None) == torch.device("cpu")


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("name", ["cuda:2", "gpu", "mps", "meta", ""])
def test_what_is_not_here_is_refused_with_what_is(name):
    with pytest.raises(InputError, match=f"got device '{name}', expected one that is here: cpu, cuda:0, cuda:1"):
        device_named(name)


@pytest.mark.usefixtures("no_gpu")
def test_a_model_is_not_read_for_a_device_that_is_not_here(monkeypatch):
    monkeypatch.setattr("residual_lens.hooked.vit.load", None)
    with pytest.raises(InputError, match=r"got device 'cuda', expected one that is here: cpu\."):
        HookedViT.from_pretrained("attribute-clip", device="cuda")
