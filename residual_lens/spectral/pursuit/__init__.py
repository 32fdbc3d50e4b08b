"""Pursuits: which atoms of a dictionary describe samples."""

from residual_lens.spectral.pursuit.individual import omp
from residual_lens.spectral.pursuit.result import Pursuit
from residual_lens.spectral.pursuit.simultaneous import somp
from residual_lens.spectral.pursuit.spanning import text_span

__all__ = ["Pursuit", "omp", "somp", "text_span"]
