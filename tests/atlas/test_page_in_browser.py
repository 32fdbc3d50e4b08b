"""The page as a reader uses it: opened from disk, clicked, typed at, sent as a link."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from residual_lens.atlas.contents import Said
from residual_lens.atlas.page import render
from tests.atlas.browser import EVERYTHING, Opener, cards, cell
from tests.atlas.drawn_atlas import MEASURES, drawn_atlas
from tests.atlas.test_page import HOSTILE

INTERACTIVE_MS = 5000.0  # a dead loop, not a slow machine: a quarter of a second is usual
BAD = (
    "units=L9H9&measure=none&task=none&component=99&attention=-3",
    "%%%",
    "units=&pinned=L0H0",
    "search=constructor",  # a name that every object of JavaScript has
)
STATE = """() => ({
  measure: document.getElementById("measures").value,
  cards: [...document.querySelectorAll(".card h2")].map((one) => one.textContent),
  pinned: [...document.querySelectorAll(".pin")].map((one) => one.getAttribute("aria-pressed")),
  task: [...document.querySelectorAll(".effects .chosen th")].map((one) => one.textContent),
  component: [...document.querySelectorAll(".tabs [aria-pressed=true] strong")].map((one) => one.textContent),
  search: document.getElementById("word").value,
  found: [...document.querySelectorAll(".grid .found")].map((one) => one.dataset.unit),
  attention: getComputedStyle(document.documentElement).getPropertyValue("--attention"),
})"""


def test_a_stranger_reads_at_once_which_head_carries_colour(opened: Opener) -> None:
    page = opened()
    expect(page).to_have_title("Head atlas")
    first = page.locator("#summary li").first
    expect(first).to_contain_text("colour? L1H1 contrast −40.0 ± 0.4 % accuracy")
    # Its card is open as well, and says what happens without it.
    assert cards(page) == ["L1H1"]
    expect(page.locator(".finding")).to_contain_text("Without it colour loses 40.0 ± 0.4 % of its contrast, more than")
    letter = page.get_by_role("link", name="letter?")
    letter.press("Enter")
    assert cards(page)[0] in (letter.text_content() or "")
    assert "task=letter" in page.url
    expect(letter).to_be_focused()
    expect(letter).to_have_attribute("aria-current", "true")


def test_a_click_opens_a_unit_and_the_back_button_returns(opened: Opener) -> None:
    page = opened()
    cell(page, "L2H3").click()
    assert cards(page) == ["L2H3"]
    assert "units=L2H3" in page.url
    expect(cell(page, "L2H3")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("status").last).to_have_text("Shown: L2H3")
    cell(page, "2_mlp_out").click()
    page.go_back()
    assert cards(page) == ["L2H3"]
    page.go_back()
    assert cards(page) == ["L1H1"]
    page.go_forward()
    assert cards(page) == ["L2H3"]


def test_the_keyboard_is_enough(opened: Opener) -> None:
    page = opened()
    grid = page.get_by_role("grid")
    assert grid.locator('[tabindex="0"]').count() == 1
    cell(page, "L1H1").focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)  # the third step to the left meets the edge
    expect(cell(page, "L1H0")).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert cards(page) == ["L1H0"]
    page.keyboard.press("End")
    page.keyboard.press("Shift+Enter")
    assert cards(page) == ["L1H0", "1_mlp_out"]
    assert grid.locator('[tabindex="0"]').count() == 1
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("red")
    page.keyboard.press("Escape")
    expect(page.get_by_role("searchbox")).to_have_value("")
    page.keyboard.press("Escape")
    assert cards(page) == ["L1H0"]
    expect(cell(page, "1_mlp_out")).to_be_focused()
    page.keyboard.press("Escape")
    assert cards(page) == []
    expect(page.locator("#cards")).to_contain_text("Choose a unit")


def test_the_keyboard_passes_over_places_without_a_unit(opened: Opener, tmp_path: Path) -> None:
    plain = drawn_atlas()
    few = ("L0H0", "L0H3", "L1H2", "2_mlp_out")
    path = tmp_path / "index.html"
    some = replace(plain, units=tuple(unit for unit in plain.units if unit.name in few))
    path.write_text(render(some), encoding="utf-8")
    page = opened("units=L0H0", path=path)
    cell(page, "L0H0").focus()
    for key, unit in (
        ("ArrowRight", "L0H3"),
        ("ArrowRight", "L0H3"),
        ("ArrowDown", "L1H2"),
        ("ArrowDown", "2_mlp_out"),
        ("ArrowDown", "2_mlp_out"),
        ("ArrowUp", "L1H2"),
        ("ArrowUp", "L0H3"),
        ("Home", "L0H0"),
        ("End", "L0H3"),
    ):
        page.keyboard.press(key)
        expect(cell(page, unit)).to_be_focused()


def test_of_some_units_nothing_is_said_of_all(opened: Opener, tmp_path: Path) -> None:
    plain = drawn_atlas()
    path = tmp_path / "index.html"
    some = replace(plain, units=tuple(unit for unit in plain.units if unit.layer == 1))
    path.write_text(render(some), encoding="utf-8")
    page = opened(path=path)
    expect(page.locator(".finding")).to_contain_text("any other head (of those on this page)")
    expect(page.locator("#summary")).to_contain_text("The head (of those on this page) without which")
    expect(page.locator("#summary")).to_contain_text("all heads and all MLPs (of those on this page) hold")
    expect(opened().locator("body")).not_to_contain_text("of those on this page")


def test_units_stand_side_by_side(opened: Opener) -> None:
    page = opened("units=L0H0")
    page.get_by_role("button", name="Pin L0H0 to compare").click()
    cell(page, "L0H1").click()
    assert cards(page) == ["L0H0", "L0H1"]
    cell(page, "L0H2").click()
    assert cards(page) == ["L0H0", "L0H2"]
    cell(page, "L0H3").click(modifiers=["Shift"])
    assert cards(page) == ["L0H0", "L0H2", "L0H3"]
    boxes = [page.locator(".card").nth(i).locator(".spectrum-part").bounding_box() for i in range(3)]
    assert len({box["y"] for box in boxes if box}) == 1  # the same part at the same height
    assert len({box["x"] for box in boxes if box}) == 3
    page.get_by_role("button", name="Close L0H2").click()
    assert cards(page) == ["L0H0", "L0H3"]


def test_a_link_shows_what_its_sender_saw(opened: Opener) -> None:
    page = opened(EVERYTHING)
    state = page.evaluate(STATE)
    assert state["measure"] == "twonn"
    assert state["cards"] == ["L1H1", "L2H3", "0_mlp_out"]
    assert state["pinned"] == ["true", "true", "false"]
    assert state["task"] == ["texture"] * 3
    assert state["component"] == ["2"] * 3
    assert (state["search"], state["attention"]) == ("stripes", "0.3")
    assert state["found"]
    # What the page writes is what it reads.
    page.get_by_label("Colour by").select_option("energy")
    page.get_by_role("button", name="letter").first.click()
    page.get_by_role("button", name="Component 3").first.click()
    page.get_by_role("searchbox").fill("red & navy, 100 %?")
    page.locator(".attention-slider").first.fill("80")
    changed = page.evaluate(STATE)
    assert changed != state
    assert opened(page.url.partition("#")[2]).evaluate(STATE) == changed
    page.reload()
    assert page.evaluate(STATE) == changed


@pytest.mark.parametrize("address", BAD)
def test_an_address_that_says_nothing_shows_something(opened: Opener, address: str) -> None:
    page = opened(address)
    state = page.evaluate(STATE)
    assert state["cards"] == ([] if address.startswith("units=&") else ["L1H1"])
    assert state["measure"] == MEASURES[0].key
    assert state["attention"] == "0.5"


def test_what_a_reader_opened_stays_open(opened: Opener) -> None:
    page = opened("task=letter")
    more = page.locator(".effects-part details")
    more.locator("summary").click()
    page.get_by_role("searchbox").fill("red")
    page.get_by_role("button", name="Component 2").click()
    assert more.get_attribute("open") is not None
    page.get_by_role("button", name="Pin L1H1 to compare").click()
    cell(page, "L0H0").click()
    assert more.first.get_attribute("open") is not None
    page.get_by_role("button", name="Close L1H1").click()
    expect(cell(page, "L1H1")).to_be_focused()


def test_texts_are_text(opened: Opener, tmp_path: Path) -> None:
    plain = drawn_atlas()
    units = tuple(
        replace(unit, description=(Said(HOSTILE, 1.0, 0.5),)) if unit.kind == "head" else unit for unit in plain.units
    )
    tasks = tuple(replace(task, name=HOSTILE, classes=(HOSTILE,) * len(task.classes)) for task in plain.tasks)
    path = tmp_path / "index.html"
    captions = (HOSTILE,) * len(plain.captions)
    hostile = replace(plain, title=HOSTILE, units=units, tasks=tasks, captions=captions, facts={HOSTILE: HOSTILE})
    path.write_text(render(hostile), encoding="utf-8")
    page = opened("search=script", path=path)
    expect(page.locator("h1")).to_have_text(HOSTILE)
    expect(page.locator(".words .text").first).to_have_text(HOSTILE)
    assert page.evaluate("window.broken") is None
    assert page.locator("script").count() == 2


def test_an_atlas_of_little_is_a_page_as_well(opened: Opener, tmp_path: Path) -> None:
    """No task, no text, no run, no attention, heads of one layer only, one of which does not vary."""
    plain = drawn_atlas()
    nothing: Any = dict.fromkeys(
        ("explained", "explained_by_chance", "p_value", "coherence", "scales", "scales_before")
    )
    nothing |= {"description": (), "effects": (), "attention": {}}
    units = tuple(replace(unit, **nothing) for unit in plain.units if unit.layer == 2 and unit.kind == "head")
    still = replace(units[0], spectrum=(), components=())
    path = tmp_path / "index.html"
    little = replace(plain, tasks=(), units=(still, *units[1:]), measures=plain.measures[1:], scale_start=None)
    path.write_text(render(little), encoding="utf-8")
    page = opened("units=L2H0,L2H1&search=red", path=path)
    assert cards(page) == ["L2H0", "L2H1"]
    assert page.locator(".grid tbody tr").count() == 1
    assert page.locator("#summary").text_content() == ""
    for said in ("No task was measured.", "It does not vary", "made without texts"):
        expect(page.locator("#cards")).to_contain_text(said)


def test_four_hundred_heads_are_there_at_once(opened: Opener, tmp_path: Path, record_property: Any) -> None:
    path = tmp_path / "index.html"
    path.write_text(render(drawn_atlas(25, 16)), encoding="utf-8")
    page = opened("search=stripes", path=path)
    interactive = page.evaluate("performance.getEntriesByName('interactive')[0].startTime")
    record_property("interactive_ms", interactive)
    assert page.locator(".grid button").count() == 25 * 17
    assert interactive < INTERACTIVE_MS
    cell(page, "L24H15").click()
    assert cards(page) == ["L24H15"]
