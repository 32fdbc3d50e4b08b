"""A tiny model of every supported kind, with every parameter drawn: what the parity matrix runs over.

Models are the libraries' own classes, built from the libraries' own configurations where these can be scaled down:
three layers of width 32 with 4 heads, and every other flag as published.
"""

from tests.backbones.hugging_face_rows import HUGGING_FACE
from tests.backbones.open_clip_rows import OPEN_CLIP
from tests.backbones.timm_rows import TIMM

BACKBONES = (*OPEN_CLIP, *HUGGING_FACE, *TIMM)
BY_NAME = {backbone.name: backbone for backbone in BACKBONES}
assert len(BY_NAME) == len(BACKBONES), "two rows are called the same"
