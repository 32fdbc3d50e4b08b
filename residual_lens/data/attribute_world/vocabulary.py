"""The words of the attribute world: every attribute, its values, and what each value looks like.

The words are exactly the ones that captions use, so a class name is at once a label, a prompt and a key.
"""

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.08, 0.08),
    "orange": (1.00, 0.52, 0.00),
    "yellow": (0.98, 0.92, 0.08),
    "green": (0.08, 0.66, 0.14),
    "cyan": (0.08, 0.86, 0.92),
    "blue": (0.10, 0.25, 0.96),
    "purple": (0.56, 0.14, 0.82),
    "pink": (1.00, 0.50, 0.76),
    "white": (1.00, 1.00, 1.00),
}
"""Object colours as RGB in [0, 1]."""

BACKGROUNDS: dict[str, tuple[float, float, float]] = {
    "black": (0.04, 0.04, 0.04),
    "snowy": (0.95, 0.96, 0.97),
    "grey": (0.50, 0.50, 0.50),
    "brown": (0.36, 0.21, 0.10),
    "navy": (0.05, 0.08, 0.34),
    "beige": (0.86, 0.77, 0.58),
}
"""Background colours as RGB in [0, 1]; none of their words is an object colour, so a colour word is unambiguous."""

SHAPES: tuple[str, ...] = ("square", "triangle", "star", "heart", "cross", "arrow", "crescent", "oval")
"""Outlines; none is symmetric under the tilts of `ORIENTATIONS`, so every object shows its orientation."""

TEXTURES: tuple[str, ...] = ("solid", "striped", "dotted", "checkered", "ringed", "speckled", "shaded")
"""Surface patterns of shapes: the object's colour against a darker tone of it (glyphs are always plain)."""

SIZES: dict[str, float] = {"small": 0.235, "medium": 0.305, "large": 0.385}
"""Radius of the object as a share of the image side."""

POSITIONS: dict[str, tuple[float, float]] = {
    "in the middle": (0.0, 0.0),
    "at the top": (0.0, -1.0),
    "at the bottom": (0.0, 1.0),
    "on the left": (-1.0, 0.0),
    "on the right": (1.0, 0.0),
    "in the top left": (-1.0, -1.0),
    "in the top right": (1.0, -1.0),
    "in the bottom left": (-1.0, 1.0),
    "in the bottom right": (1.0, 1.0),
}
"""Direction of the object's centre from the image's centre, x to the right and y downwards."""

ORIENTATIONS: dict[str, float] = {"upright": 0.0, "tilted left": -26.0, "tilted right": 26.0}
"""Clockwise turn of the object in degrees, textures included."""

DIGITS: tuple[str, ...] = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS: tuple[str, ...] = tuple("abcdefghijklmnopqrstuvwxyz")

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "background": tuple(BACKGROUNDS),
    "shape": SHAPES,
    "texture": TEXTURES,
    "digit": DIGITS,
    "letter": LETTERS,
    "size": tuple(SIZES),
    "position": tuple(POSITIONS),
    "orientation": tuple(ORIENTATIONS),
}
"""Every attribute with the words of its values, in label order."""

UNDER_NAMED: tuple[str, ...] = ("size", "position", "orientation")
"""Attributes that captions name rarely, so that a model sees them without learning their words well."""

SYMBOL_ATTRIBUTES: tuple[str, ...] = ("shape", "digit", "letter")
"""The attributes that say what the object is; every image has exactly one of the three."""
