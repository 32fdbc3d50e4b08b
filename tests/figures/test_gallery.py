"""The gallery's page shows what its script draws, and nothing else lies in its folder."""

import re
from pathlib import Path

from residual_lens import figures

ROOT = Path(__file__).parents[2]


def test_page_script_and_folder_agree():
    page = (ROOT / "docs" / "figures.md").read_text()
    script = (ROOT / "scripts" / "gallery.py").read_text()
    shown = re.findall(r"\]\(figures/([\w.-]+)\)", page)
    drawn = re.findall(r'^ +"([\w-]+\.(?:svg|png))": ', script, flags=re.MULTILINE)
    there = [path.name for path in (ROOT / "docs" / "figures").iterdir()]
    assert len(shown) == len(set(shown)) > 10
    assert sorted(shown) == sorted(drawn) == sorted(there)


def test_every_function_has_its_place_on_the_page():
    page = (ROOT / "docs" / "figures.md").read_text()
    parts = {"attention_overlay", "ends_of_component", "point_styles"}
    assert [name for name in figures.__all__ if name not in page and name not in parts] == []
