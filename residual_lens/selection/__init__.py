"""Which units matter: scores of units, and random controls to compare with."""

from residual_lens.selection.correlation import unit_output_correlation
from residual_lens.selection.scores import SCORES, UnitScores, layer_matched, unit_scores

__all__ = ["SCORES", "UnitScores", "layer_matched", "unit_output_correlation", "unit_scores"]
