"""What the page says in words, and what it finds by them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from residual_lens.atlas.page import render
from tests.atlas.browser import Opener, cards
from tests.atlas.drawn_atlas import drawn_atlas


def test_heads_that_other_images_may_put_first_are_named(opened: Opener, tmp_path: Path) -> None:
    lost = {"L0H0": 0.300, "L0H1": 0.290, "L1H1": 0.303, "L2H2": 0.286}
    path = tmp_path / "index.html"
    finding, first = ".finding", "#summary li >> nth=0"

    def show(errors: dict[str, float], unit: str) -> Page:
        plain = drawn_atlas()
        units = []
        for one in plain.units:
            share, error = lost.get(one.name, 0.01), errors.get(one.name, 0.0)
            effect = replace(one.effects[0], contrast=share, contrast_error=error)
            units.append(replace(one, effects=(effect,)))
        path.write_text(render(replace(plain, units=tuple(units), tasks=plain.tasks[:1])), encoding="utf-8")
        return opened(f"units={unit}", path=path)

    # 0.3 points apart, with an error of the difference of √(0.1² + 0.1²), and more.
    page = show({"L0H0": 0.001, "L1H1": 0.001}, "L1H1")
    expect(page.locator(first)).to_contain_text("colour? L1H1 contrast −30.3 ± 0.1 %")
    expect(page.locator(finding)).to_contain_text("its contrast, more than without any other head;")
    page = show({"L0H0": 0.0012, "L1H1": 0.0012}, "L1H1")
    expect(page.locator(first)).to_contain_text("colour? L1H1 or L0H0 contrast −30.3 ± 0.1 %")
    expect(page.locator(finding)).to_contain_text("its contrast, about as much as without L0H0;")
    expect(show({"L1H1": 0.008}, "L0H1").locator(first)).to_contain_text("colour? L1H1, L0H0 or L0H1 contrast")
    expect(page.locator(finding)).to_contain_text("loses 29.0 % of its contrast, about as much as without L1H1 or L0H0")
    expect(show({"L1H1": 0.01}, "L1H1").locator(first)).to_contain_text("colour? L1H1 or 3 others contrast")
    expect(page.locator(finding)).to_contain_text("about as much as without L0H0, L0H1 or L2H2;")
    # What is not among them has no such words.
    expect(show({"L1H1": 0.01}, "L2H3").locator(finding)).to_contain_text("loses 1.0 % of its contrast; accuracy")


def test_lambda_that_never_moved_is_said_to_be_where_it_began(opened: Opener, tmp_path: Path) -> None:
    plain = drawn_atlas()
    path = tmp_path / "index.html"

    def spectrum_of(unit: str, **scales: Any) -> Any:
        units = tuple(replace(one, **scales) if one.name == unit else one for one in plain.units)
        path.write_text(render(replace(plain, units=units)), encoding="utf-8")
        return opened(f"units={unit}", path=path).locator(".spectrum-part")

    still, moved = (2.68, 0.4, 1.0), (2.68, 0.4, 1.5)
    expect(spectrum_of("L2H0", scales=still, scales_before=still)).to_contain_text("They are where they began")
    expect(spectrum_of("L2H0", scales=moved, scales_before=still)).to_contain_text(
        "Component 3 changed most, from 1.00 to 1.50."
    )
    expect(spectrum_of("L0H0", scales=(1.0, 1.0), scales_before=None)).to_contain_text("None is as far as 0.01 from 1")
    expect(spectrum_of("L0H0", scales=still, scales_before=None)).to_contain_text(
        "Component 1 is furthest from 1.00: 2.68."
    )


def test_effects_are_told_by_task_and_class(opened: Opener) -> None:
    page = opened("units=L1H1&task=attributes:colour")
    unit, task = next(unit for unit in drawn_atlas().units if unit.name == "L1H1"), drawn_atlas().tasks[0]
    effect = unit.effects[0]
    rows = page.locator(".effects").nth(1).locator("tbody tr")
    assert rows.count() == len(task.classes)
    lost = dict(zip(task.classes, effect.contrasts, strict=True))
    order = sorted(task.classes, key=lambda name: -(lost[name] or 0))
    assert rows.locator("th").all_text_contents() == order
    place = task.classes.index(order[0])
    expect(rows.first).to_contain_text(f"{100 * (lost[order[0]] or 0):.1f} %")
    expect(rows.first).to_contain_text(
        f"{100 * (task.class_accuracies[place] or 0):.1f} → {100 * (effect.classes[place] or 0):.1f}"
    )


def test_labels_that_chance_equals_are_called_so(opened: Opener) -> None:
    page = opened("units=L0H0,L0H1&pinned=L0H0")
    said = page.locator(".verdict")
    expect(said.nth(0)).to_contain_text("No better than chance: the words may be luck. The first 5 explain 45 %")
    expect(said.nth(1)).to_contain_text(
        "Better than chance. The first 5 explain 45 % of its variance, random ones 20 %"
    )


def test_words_find_units(opened: Opener) -> None:
    page = opened()
    box = page.get_by_role("searchbox")
    results = page.locator(".results li")
    # A task's name, its classes ("red") in descriptions, and American spelling.
    for word in ("colour", "Color"):
        box.fill(word)
        expect(results.first).to_contain_text("L1H1")
        expect(results.first).to_contain_text("colour −40.0 %")
    n_found = page.locator(".grid .found").count()
    expect(results.first).to_contain_text("says")
    box.fill("colour stripes")
    assert page.locator(".grid .found").count() < n_found
    box.fill("stripes")
    said = page.locator(".results li", has_text="says stripes")
    assert said.count() > 0
    expect(results.filter(has_text="texture “striped”").first).to_be_visible()
    name = said.first.get_by_role("link").text_content()
    said.first.get_by_role("link").click()
    assert cards(page) == [name]
    expect(said.first.get_by_role("link")).to_be_focused()
    expect(page.locator(".words").first).to_contain_text("stripes")
    # Chance explains as much as the words of every other head.
    for result in page.locator(".results li", has_text="says").all():
        name = result.get_by_role("link").text_content() or ""
        assert ("may be luck" in (result.text_content() or "")) == (int(name[-1]) % 2 == 0)
    box.fill("xylophone")
    expect(page.locator(".results")).to_have_text("It is not among this page’s texts, tasks and classes.")
    assert page.locator(".grid .found").count() == 0


def test_arrows_lead_from_the_search_to_its_results(opened: Opener) -> None:
    page = opened()
    box, links = page.get_by_role("searchbox"), page.locator(".results a")
    page.keyboard.press("/")
    page.keyboard.press("ArrowDown")
    expect(box).to_be_focused()
    page.keyboard.type("stripes")
    page.keyboard.press("ArrowDown")
    expect(links.first).to_be_focused()
    for key in ("ArrowDown", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
    expect(links.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    assert cards(page) == [links.nth(1).text_content()]
    for _ in range(2):
        page.keyboard.press("ArrowUp")
    expect(box).to_be_focused()
    expect(box).to_have_value("stripes")
