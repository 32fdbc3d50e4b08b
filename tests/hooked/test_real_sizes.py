"""The architectures of the paper in their real size: what tiny models cannot show is how rounding adds up."""

import open_clip
import pytest
import torch

from residual_lens.hooked.vit import HookedViT
from tests.tiny_models import draw_weights
from tests.tolerances import FLOAT32_TOL, assert_close


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16", "ViT-L-14"])
@torch.no_grad()
def test_embedding_and_both_decompositions_agree_with_open_clip(name: str) -> None:
    config = open_clip.get_model_config(name)
    assert config is not None
    tower = open_clip.model._build_vision_tower(config["embed_dim"], config["vision_cfg"]).eval()  # no text tower
    draw_weights(tower, seed=0)
    hvit = HookedViT.wrap(tower)
    images = torch.randn(2, 3, *hvit.cfg.image_size, generator=torch.Generator().manual_seed(1))
    expected = tower(images)
    assert_close(hvit(images), expected, FLOAT32_TOL)
    for center in ("own", "uniform"):
        assert_close(hvit.decompose(images, center=center).total(), expected, FLOAT32_TOL)
