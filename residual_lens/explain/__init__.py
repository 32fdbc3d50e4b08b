"""What a trained ResiDual learned: units and components that λ amplifies or silences, and how few of them matter."""

from residual_lens.explain.explaining import explain
from residual_lens.explain.of_run import explain_run

__all__ = ["explain", "explain_run"]
