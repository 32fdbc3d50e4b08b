"""Fixtures shared by all tests: tiny open_clip models with drawn weights."""

from collections.abc import Iterator

import pytest
import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor

from residual_lens.hooked.vit import HookedViT
from tests.tiny_models import tiny_images, tiny_tower


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Threads only wait for each other in tiny models; on a busy machine that is a hundred times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tower() -> VisionTransformer:
    """A scaled-down ViT-B-16."""
    return tiny_tower("ViT-B-16")


@pytest.fixture
def hvit(tower: VisionTransformer) -> HookedViT:
    """The same, wrapped."""
    return HookedViT.wrap(tower)


@pytest.fixture
def images(tower: VisionTransformer) -> Tensor:
    """Three images for it."""
    return tiny_images(tower)


@pytest.fixture
def generator() -> torch.Generator:
    """Seeded randomness."""
    return torch.Generator().manual_seed(7)
