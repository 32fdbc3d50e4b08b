"""Spectra of units: pure tensors in, tensors out; nothing here knows a model."""

from residual_lens.spectral.pca import StreamingPCA

__all__ = ["StreamingPCA"]
