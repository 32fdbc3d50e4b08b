"""Figures become files whole or not at all, by their ending, and matplotlib's settings stay."""

import subprocess
import sys

import matplotlib
import pytest
from PIL import Image

from residual_lens import figures
from residual_lens.errors import InputError
from residual_lens.figures.look import new_figure

DRAW = """
import sys
from residual_lens import figures
axes = figures.unit_map({"L0H0": 0.2, "L0H1": 0.7})
for kind in ("svg", "pdf", "png"):
    figures.save(axes, f"{sys.argv[1]}/map.{kind}")
"""


def a_figure():
    return figures.unit_map({"L0H0": 0.2, "L0H1": 0.7}, title="heads")


@pytest.mark.parametrize("kind", ["svg", "pdf", "png", "PNG"])
def test_folders_are_made_and_nothing_else_is_left(kind, tmp_path):
    figures.save(a_figure(), tmp_path / "new" / f"map.{kind}")
    assert [path.name for path in (tmp_path / "new").iterdir()] == [f"map.{kind}"]


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    axes = figures.unit_map({"L0H0": 0.2, "L0H1": 0.7})
    for kind in ("svg", "pdf", "png"):
        figures.save(axes, here / f"map.{kind}")
    there.mkdir()
    # Another user's time, backend and home make no difference.
    environment = {"SOURCE_DATE_EPOCH": "1", "MPLBACKEND": "svg", "PYTHONHASHSEED": "5"}
    subprocess.run([sys.executable, "-c", DRAW, str(there)], check=True, env=environment)  # noqa: S603 - our own command
    for kind in ("svg", "pdf", "png"):
        assert (here / f"map.{kind}").read_bytes() == (there / f"map.{kind}").read_bytes()


def test_settings_are_afterwards_what_they_were(tmp_path):
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "mine", "pdf.fonttype": 3}):
        before = dict(matplotlib.rcParams)
        figures.save(a_figure(), tmp_path / "map.svg")
        assert dict(matplotlib.rcParams) == before


def test_resolution_is_that_of_the_raster(tmp_path):
    figure = new_figure(2.0, 1.0)
    figures.save(figure, tmp_path / "map.png", dpi=50)
    with Image.open(tmp_path / "map.png") as image:
        assert image.size == (100, 50)


def test_axes_of_a_part_of_a_figure_save_the_whole(tmp_path):
    figure = new_figure(4.0, 1.0)
    left, right = figure.subfigures(1, 2)
    figures.unit_map({"L0H0": 0.2}, title="left", axes=left.subplots())
    axes = figures.unit_map({"L0H0": 0.2}, title="right", axes=right.subplots())
    figures.save(axes, tmp_path / "map.svg")
    text = (tmp_path / "map.svg").read_text()
    assert "left" in text
    assert "right" in text


@pytest.mark.parametrize("name", ["map.jpg", "map", "map.svg.gz"])
def test_other_endings_are_refused_and_the_old_file_stays(name, tmp_path):
    (tmp_path / name).write_text("old")
    with pytest.raises(InputError, match=f"{name} should end in .svg, .pdf, .png"):
        figures.save(a_figure(), tmp_path / name)
    assert (tmp_path / name).read_text() == "old"


def test_notebooks_are_given_a_picture():
    assert a_figure().figure._repr_png_().startswith(b"\x89PNG")
