"""The head atlas: what is known of a model's heads and MLPs, on one page."""

from residual_lens.atlas.contents import Atlas
from residual_lens.atlas.images import images_of
from residual_lens.atlas.making import atlas, model_of

__all__ = ["Atlas", "atlas", "images_of", "model_of"]
