"""Activation stores: a model's run over a data set, made once, read by unit and by row."""

from residual_lens.activations.extraction import encode
from residual_lens.activations.store import Rows, Store, check

__all__ = ["Rows", "Store", "check", "encode"]
