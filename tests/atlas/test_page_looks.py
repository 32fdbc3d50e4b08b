"""How the page looks: its colours, by day and at night, on a phone."""

import base64
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import expect

from residual_lens.atlas.contents import Said
from residual_lens.atlas.page import render
from tests.atlas.browser import EVERYTHING, Opener, cell
from tests.atlas.drawn_atlas import MEASURES, drawn_atlas

READABLE = 4.5  # WCAG 2.1 AA, contrast of text


def test_every_measure_has_its_own_colours_and_names(opened: Opener) -> None:
    page = opened()
    seen = set()
    for measure in MEASURES:
        page.get_by_label("Colour by").select_option(measure.key)
        seen.add(tuple(page.locator(".grid button").evaluate_all("all => all.map((one) => one.style.background)")))
        name = f"L2H3, {measure.name} "
        assert (cell(page, "L2H3").get_attribute("aria-label") or "").startswith(name)
        assert f"measure={measure.key}" in page.url or measure is MEASURES[0]
        assert all(len(set(colours)) > 3 for colours in seen)
    assert len(seen) == len(MEASURES)
    expect(cell(page, "0_mlp_out")).to_have_attribute("aria-label", "0_mlp_out, λ energy not defined")


def test_the_scale_reaches_as_far_as_heads_do(opened: Opener) -> None:
    atlas = drawn_atlas()
    page = opened("measure=contrast:0")
    ticks = page.locator(".legend .ticks span")
    assert ticks.all_text_contents() == ["−0.40", "0.00", "0.40"]  # around zero alike, since it diverges
    page.get_by_label("Colour by").select_option("linear")
    heads, mlps = ([u.measures["linear"] or 0 for u in atlas.units if u.kind == kind] for kind in ("head", "mlp"))
    ends = f"{'≤ ' * (min(mlps) < min(heads))}{min(heads):.0f}", f"{'≥ ' * (max(mlps) > max(heads))}{max(heads):.0f}"
    assert (ticks.first.text_content(), ticks.last.text_content()) == ends


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_numbers_on_colours_can_be_read(opened: Opener, scheme: str) -> None:
    page = opened(scheme=scheme)
    for measure in MEASURES[:2]:  # one of each scale
        page.get_by_label("Colour by").select_option(measure.key)
        contrasts = page.locator(".grid button").evaluate_all(
            """all => all.map((one) => {
              const luminance = (colour) => colour.match(/[0-9.]+/g).slice(0, 3).map((c) => c / 255)
                .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
                .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
              const style = getComputedStyle(one);
              const [a, b] = [style.color, style.backgroundColor].map(luminance);
              return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            })"""
        )
        assert min(contrasts) >= READABLE


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (360, "dark"), (800, "light"), (1280, "dark")])
def test_it_fits_by_day_and_by_night(opened: Opener, width: int, scheme: str, tmp_path: Path) -> None:
    page = opened(EVERYTHING, width=width, scheme=scheme)
    page.locator("details").evaluate_all("all => all.forEach((one) => (one.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(247, 247, 245)" if scheme == "light" else "rgb(19, 19, 21)"
    )
    assert page.evaluate("getComputedStyle(document.querySelector('.grid button')).transitionDuration") == "0s"
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 20_000


def test_names_of_any_length_fit(opened: Opener, tmp_path: Path) -> None:
    plain, long = drawn_atlas(), "n" * 300
    tasks = tuple(replace(task, name=f"{long}{task.name}", classes=(long,) * len(task.classes)) for task in plain.tasks)
    measures = tuple(replace(measure, name=f"{long} {measure.name}") for measure in plain.measures)
    said = (Said(long, 1.0, 0.5),)
    units = tuple(
        replace(
            unit,
            description=said,
            components=tuple(replace(one, low_texts=(long,), high_texts=(long, long)) for one in unit.components),
        )
        for unit in plain.units
    )
    path = tmp_path / "index.html"
    named = replace(plain, model=long, tasks=tasks, measures=measures, units=units, facts={"Run": long})
    path.write_text(render(named), encoding="utf-8")
    for width in (360, 800, 1280):
        page = opened(f"units=L1H1,L2H3&search={long}", path=path, width=width)
        page.locator("details").evaluate_all("all => all.forEach((one) => (one.open = true))")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.locator(".card").evaluate_all("all => all.every((one) => one.scrollWidth <= one.clientWidth)")


def test_nightfall_recolours_what_is_open(opened: Opener) -> None:
    page = opened()
    chart = page.locator(".spectrum-part canvas").first
    style, drawn = cell(page, "L2H3").get_attribute("style"), chart.evaluate("(one) => one.toDataURL()")
    page.emulate_media(color_scheme="dark")
    expect(cell(page, "L2H3")).not_to_have_attribute("style", style)
    assert chart.evaluate("(one) => one.toDataURL()") != drawn


def test_attention_darkens_where_the_head_does_not_look(opened: Opener) -> None:
    page = opened("units=L1H1&component=1")
    unit = next(unit for unit in drawn_atlas().units if unit.name == "L1H1")
    expected = [255 - byte for byte in base64.b64decode(unit.attention[unit.components[0].low[0]])]
    shade = page.locator(".shade").first
    assert expected == shade.evaluate(
        "(one) => [...one.getContext('2d').getImageData(0, 0, 4, 4).data].filter((_, i) => i % 4 === 3)"
    )
    page.get_by_label("Darken where it does not look").fill("0")
    assert shade.evaluate("(one) => getComputedStyle(one).opacity") == "0"
    assert page.locator(".pictures img").first.get_attribute("alt") == f"caption {unit.components[0].low[0]}"
    page.get_by_role("button", name="Component 2").click()
    assert page.locator(".pictures img").first.get_attribute("alt") == f"caption {unit.components[1].low[0]}"


def test_attention_lies_on_its_patches_of_images_that_are_not_square(opened: Opener, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    # Two rows of eight patches; pictures are twice as high here, and drawn as wide as the model sees them.
    path.write_text(render(replace(drawn_atlas(), grid=(2, 8))), encoding="utf-8")
    page = opened("units=L1H1", path=path)
    frame, image, shade = (page.locator(one).first.bounding_box() for one in (".frame", ".frame img", ".shade"))
    assert frame is not None
    assert frame == image == shade
    assert frame["width"] == pytest.approx(4 * frame["height"], rel=0.05)
    # The whole picture, and no part of it cut off.
    assert page.locator(".frame img").first.evaluate("(one) => getComputedStyle(one).objectFit") == "fill"
