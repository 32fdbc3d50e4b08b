"""The parity matrix: every backbone, dtype and mode gives the source's own embedding, and units that sum to it."""

import pytest
import torch

from residual_lens.hooked.vit import HookedViT
from tests.backbones.backbone import Backbone
from tests.backbones.measuring import MODES, Mode, measure
from tests.backbones.models import BACKBONES
from tests.backbones.table import listed
from tests.tolerances import BFLOAT16_PARITY_TOL, BFLOAT16_SUM_TOL, FLOAT32_TOL, FLOAT64_TOL

TOLERANCES = {torch.float64: FLOAT64_TOL, torch.float32: FLOAT32_TOL, torch.bfloat16: BFLOAT16_PARITY_TOL}

every_backbone = pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.name)


@every_backbone
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_the_embedding_and_the_sum_of_units_are_the_sources_embedding(
    backbone: Backbone, dtype: torch.dtype, mode: Mode
) -> None:
    gaps = measure(backbone, dtype, mode)
    tolerance = TOLERANCES[dtype]
    assert gaps.embedding <= tolerance
    assert gaps.rounding <= BFLOAT16_SUM_TOL
    if mode == "dropout" and not backbone.sums_under_dropout:
        assert gaps.total is None
    else:
        assert gaps.total is not None
        assert gaps.total <= tolerance


@every_backbone
def test_no_parameter_is_left_at_a_constant(backbone: Backbone) -> None:
    for name, parameter in backbone.build().named_parameters():
        assert parameter.numel() == 1 or parameter.std() > 0.01, name


@every_backbone
def test_pooling_is_called_by_its_name(backbone: Backbone) -> None:
    assert HookedViT.wrap(backbone.build(), head=backbone.head).cfg.pooling == backbone.pooling


def test_the_page_lists_exactly_these_rows() -> None:
    expected = []
    for backbone in BACKBONES:
        special = backbone.special + (", head=True" if backbone.head else "")
        expected.append((backbone.source, backbone.model, special, backbone.pooling))
    assert listed() == expected, "run python -m tests.backbones.table --write"
