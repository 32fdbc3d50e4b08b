"""What the page is made of; `test_page_in_browser.py` opens it."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from residual_lens.atlas import page
from residual_lens.atlas.contents import Said
from residual_lens.atlas.page import SCRIPTS, STYLES, render
from tests.atlas.drawn_atlas import drawn_atlas

FOLDER = files(page)
HOSTILE = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 1'>&quot;\u2028<!--"


class _Elements(HTMLParser):
    """Every element with its attributes, and what scripts and styles hold."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style", "title"):
            self.texts.append((self._inside, data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.found if found == tag]

    def text(self, tag: str, which: int = 0) -> str:
        return [text for found, text in self.texts if found == tag][which]


@pytest.fixture(scope="module")
def html() -> str:
    return render(drawn_atlas())


def test_the_data_arrive_as_they_are(html: str) -> None:
    assert json.loads(_Elements(html).text("script")) == json.loads(json.dumps(drawn_atlas().to_json()))


def test_texts_cannot_become_markup() -> None:
    plain = drawn_atlas()
    unit = replace(plain.units[0], description=(Said(HOSTILE, 1.0, 0.5),))
    elements = _Elements(render(replace(plain, title=HOSTILE, units=(unit, *plain.units[1:]))))
    assert [tag for tag, _ in elements.found] == [tag for tag, _ in _Elements(render(plain)).found]
    assert elements.text("title") == HOSTILE
    assert json.loads(elements.text("script"))["units"][0]["description"][0]["text"] == HOSTILE


def test_names_of_files_that_are_no_utf8_do_no_harm() -> None:
    plain = drawn_atlas()
    html = render(replace(plain, captions=(b"k\xf6pfe.png".decode(errors="surrogateescape"), *plain.captions[1:])))
    assert json.loads(_Elements(html.encode().decode()).text("script"))["captions"][0] == "k?pfe.png"


def test_the_policy_allows_this_script_and_this_style_only(html: str) -> None:
    elements = _Elements(html)
    policy = next(one["content"] for one in elements.of("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{_digest(elements.text('script', 1))}'"
    assert rules["style-src"] == f"'sha256-{_digest(elements.text('style'))}'"
    assert rules["img-src"] == "data:"


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_nothing_is_loaded_from_elsewhere(html: str) -> None:
    elements = _Elements(html)
    places = [attributes[name] for _, attributes in elements.found for name in ("src", "href") if name in attributes]
    assert places == ["data:,"]
    assert not re.search(r"@import|url\(", elements.text("style"))


def test_no_script_and_no_style_is_forgotten() -> None:
    assert sorted(f"{name}.js" for name in SCRIPTS) == sorted(path.name for path in (FOLDER / "scripts").iterdir())
    assert sorted(f"{name}.css" for name in STYLES) == sorted(path.name for path in (FOLDER / "styles").iterdir())


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_write_text_and_no_markup(name: str) -> None:
    script = (FOLDER / "scripts" / f"{name}.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|new Function|fetch\(", script)


def test_what_is_not_ours_is_what_was_published() -> None:
    listed = re.findall(r"^ {4}([0-9a-f]{64}) {2}(\S+)$", (FOLDER / "vendor" / "README.md").read_text(), re.MULTILINE)
    assert {name: digest for digest, name in listed} == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (FOLDER / "vendor").iterdir()
        if path.name != "README.md"
    }


def test_the_licence_of_what_is_not_ours_goes_with_it(html: str) -> None:
    assert (FOLDER / "vendor" / "uPlot.LICENSE").read_text() in html


def test_numbers_must_be_finite() -> None:
    plain = drawn_atlas()
    unit = replace(plain.units[0], measures={"twonn": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        render(replace(plain, units=(unit, *plain.units[1:])))
