"""What trains without the backbone: contributions computed once, and the coordinates that scales multiply."""

from residual_lens.training.cached.coordinates import Coordinates, coordinates
from residual_lens.training.cached.samples import CachedSamples, cache_samples

__all__ = ["CachedSamples", "Coordinates", "cache_samples", "coordinates"]
