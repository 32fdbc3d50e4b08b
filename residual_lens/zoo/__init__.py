"""The model that the package carries, in open_clip's own local-dir format."""

from importlib.resources import files
from pathlib import Path


def attribute_clip_path() -> Path:
    """The directory of `attribute-clip`, a small CLIP pretrained on the attribute world; its README.md is the card.

    Returns:
        A directory that `open_clip.create_model(f"local-dir:{attribute_clip_path()}")` loads without a network.

    >>> sorted(path.suffix for path in attribute_clip_path().glob("open_clip*"))
    ['.json', '.safetensors']
    """
    return Path(str(files("residual_lens.zoo").joinpath("attribute_clip")))


__all__ = ["attribute_clip_path"]
