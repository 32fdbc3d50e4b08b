"""Stream terms → direct contributions, and the low-rank coordinates of heads. Knows no model."""

from residual_lens.decomposition.frames import HeadFrames, feature_rows
from residual_lens.decomposition.readout import Center, Readout, check_center
from residual_lens.decomposition.terms import Decomposition, UnitTerms
from residual_lens.decomposition.tokens import TokenTerms

__all__ = [
    "Center",
    "Decomposition",
    "HeadFrames",
    "Readout",
    "TokenTerms",
    "UnitTerms",
    "check_center",
    "feature_rows",
]
