"""Principal bases of a model's units: fitted in one streaming pass, saved in one file."""

from residual_lens.bases.basis import Bases, Basis
from residual_lens.bases.fitting import fit_bases

__all__ = ["Bases", "Basis", "fit_bases"]
