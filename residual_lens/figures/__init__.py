"""Figures: one function a result. Each draws on the axes it is given, or on a figure of its own, and returns the axes.

No display is needed, pyplot is not used, and matplotlib's settings are left alone. `save` writes SVG, PDF or PNG.
"""

from residual_lens.figures.attention import attention, attention_overlay
from residual_lens.figures.comparison import comparison
from residual_lens.figures.curves import AccuracyCurve, accuracy_curves
from residual_lens.figures.descriptions import descriptions
from residual_lens.figures.dimensions import dimensions
from residual_lens.figures.exporting import save
from residual_lens.figures.images import component_ends, ends_of_component, image_grid
from residual_lens.figures.intervals import intervals
from residual_lens.figures.look import line_styles, point_styles
from residual_lens.figures.matrices import effects, transfer
from residual_lens.figures.parameters import Trained, accuracy_by_parameters
from residual_lens.figures.rollout import attention_rollout, token_attention
from residual_lens.figures.similarity import similarity
from residual_lens.figures.spectra import spectra
from residual_lens.figures.unit_maps import scales, unit_map

__all__ = [
    "AccuracyCurve",
    "Trained",
    "accuracy_by_parameters",
    "accuracy_curves",
    "attention",
    "attention_overlay",
    "attention_rollout",
    "comparison",
    "component_ends",
    "descriptions",
    "dimensions",
    "effects",
    "ends_of_component",
    "image_grid",
    "intervals",
    "line_styles",
    "point_styles",
    "save",
    "scales",
    "similarity",
    "spectra",
    "token_attention",
    "transfer",
    "unit_map",
]
