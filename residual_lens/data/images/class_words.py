"""Words for the classes of data sets whose files only number them or write them for machines."""

import re

GTSRB: tuple[str, ...] = (
    "speed limit 20 km/h",
    "speed limit 30 km/h",
    "speed limit 50 km/h",
    "speed limit 60 km/h",
    "speed limit 70 km/h",
    "speed limit 80 km/h",
    "end of speed limit 80 km/h",
    "speed limit 100 km/h",
    "speed limit 120 km/h",
    "no passing",
    "no passing for heavy vehicles",
    "right of way at the next crossing",
    "priority road",
    "yield",
    "stop",
    "no vehicles",
    "no heavy vehicles",
    "no entry",
    "general caution",
    "dangerous curve to the left",
    "dangerous curve to the right",
    "double curve",
    "bumpy road",
    "slippery road",
    "road narrows on the right",
    "road work",
    "traffic signals",
    "pedestrians",
    "children crossing",
    "bicycles crossing",
    "beware of ice or snow",
    "wild animals crossing",
    "end of all limits",
    "turn right ahead",
    "turn left ahead",
    "ahead only",
    "go straight or right",
    "go straight or left",
    "keep right",
    "keep left",
    "roundabout",
    "end of no passing",
    "end of no passing for heavy vehicles",
)
"""The 43 German traffic signs in the benchmark's numbering (Stallkamp et al. 2012)."""


def as_words(name: str) -> str:
    """A folder's or file's name for a class as words.

    >>> as_words("AnnualCrop"), as_words("aquarium_fish"), as_words("abbey"), as_words("apartment_building/outdoor")
    ('annual crop', 'aquarium fish', 'abbey', 'apartment building outdoor')
    >>> as_words("n01440764"), as_words("BMW X5 SUV 2007")
    ('n01440764', 'BMW X5 SUV 2007')
    """
    spaced = re.sub(r"[_/]+", " ", name)
    if re.fullmatch(r"(?:[A-Z][a-z]+){2,}", spaced):
        spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", spaced).lower()
    return spaced.strip()
