"""A tiny model of every supported kind, with every parameter drawn: what the parity matrix runs over.

Models are the libraries' own classes, built from the libraries' own configurations where these can be scaled down:
two layers of width 32 with 4 heads, and every other flag as published.
"""

from tests.backbones.hugging_face_rows import HUGGING_FACE
from tests.backbones.open_clip_rows import OPEN_CLIP
from tests.backbones.timm_rows import TIMM

BACKBONES = (*OPEN_CLIP, *HUGGING_FACE, *TIMM)
BY_NAME = {backbone.name: backbone for backbone in BACKBONES}
assert len(BY_NAME) == len(BACKBONES), "two rows are called the same"

# What is special about wirings, in few rows, for what is too much to try on all.
WIRINGS = (
    "open_clip: coca_ViT-B-32 (CoCa)",
    "Hugging Face: DINOv3ViTModel (rotary, registers, gated MLP)",
    "timm: vit_giant_patch14_dinov2 (packed SwiGLU)",
    "timm: eva02_base_patch16_clip_224 (rotary, sub-norm, SwiGLU)",
    "timm: vit_base_patch16_sapiens2 (grouped queries, qk-norm, RMSNorm, SwiGLU)",
)
