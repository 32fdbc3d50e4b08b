"""Image data sets by name: what extraction runs a model over."""

from residual_lens.data.images.decoding import CorruptImageError
from residual_lens.data.images.image_set import ImageSet
from residual_lens.data.images.opening import image_set_names, open_images
from residual_lens.data.images.paper_splits import carve_validation, split_three_ways, stratified_subset

__all__ = [
    "CorruptImageError",
    "ImageSet",
    "carve_validation",
    "image_set_names",
    "open_images",
    "split_three_ways",
    "stratified_subset",
]
