"""Pages keep their promises: their Python runs, their commands parse, their links lead somewhere."""

import functools
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml
from docutils.utils.math.latex2mathml import tex2mathml

from residual_lens import __version__
from residual_lens.cli import COMMANDS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)])
FENCE = re.compile(r"^```.*?^```", flags=re.MULTILINE | re.DOTALL)


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def python_of(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text_of(page), flags=re.MULTILINE | re.DOTALL)


# The first page shows what code looks like, for a model that would have to be downloaded.
WITH_CODE = [page for page in PAGES if page != DOCS / "index.md" and python_of(page)]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all pages, so that a data set is encoded once."""
    return tmp_path_factory.mktemp("pages")


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=named)
def test_python_of_a_page_runs(page: Path, workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop)
    monkeypatch.setenv("HOME", str(workshop))  # Embeddings of dictionaries are cached there.
    names: dict[str, object] = {}
    for block in python_of(page):
        exec(compile(block, named(page), "exec"), names)  # noqa: S102 - our own pages


COMMAND = re.compile(r"^ {4,}(?:accelerate .*--module residual_lens|residual-lens) (.*)$", flags=re.MULTILINE)


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of every line that calls `residual-lens`, and those that a sweep hands on to `train`."""
    for line in COMMAND.findall(text.replace("\\\n", " ")):
        arguments = shlex.split(line, comments=True)
        if "…" in arguments:  # A command that stands above, with other options.
            continue
        yield arguments[: arguments.index(">")] if ">" in arguments else arguments
        if arguments[0] == "sweep" and "--" in arguments:
            handed_on = arguments[arguments.index("--") + 1 :]
            yield ["train", "--model", "m", "--data", "d", "--method", "residual", *handed_on]


def inert(command: Callable[..., Any]) -> Callable[..., None]:
    """A command that takes the same arguments and does nothing."""

    @functools.wraps(command)
    def nothing(*args: object, **kwargs: object) -> None:
        pass

    return nothing


def parse(arguments: list[str]) -> None:
    tyro.extras.subcommand_cli_from_dict({name: inert(one) for name, one in COMMANDS.items()}, args=arguments)


WITH_COMMANDS = [page for page in PAGES if COMMAND.search(text_of(page))]


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=named)
def test_commands_of_a_page_are_ones_that_there_are(page: Path) -> None:
    for arguments in commands(text_of(page)):
        try:
            parse(arguments)
        except SystemExit as stop:
            pytest.fail(f"residual-lens {shlex.join(arguments)} ends with {stop.code}")


def test_a_command_that_there_is_not_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    (arguments,) = commands(
        "see\n\n    residual-lens encode --modle attribute-clip --data digits --out digits.h5  # all\n"
    )
    with pytest.raises(SystemExit):
        parse(arguments)
    assert "--modle" in capsys.readouterr().err


def anchors(text: str) -> set[str]:
    """What headings are called in links, as GitHub and MyST have it."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def broken(page: Path, text: str) -> list[str]:
    """Links to files that are not there, and to headings that nothing has."""
    found = []
    for link in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(_whole(target))):
            found.append(link)
    return found


def _whole(page: Path) -> str:
    """A page with what it includes."""
    included = re.findall(r"^```\{include\} (\S+)", text_of(page), flags=re.MULTILINE)
    return "\n".join([text_of(page), *(text_of(page.parent / one) for one in included)])


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert broken(page, text_of(page)) == []


def test_broken_links_are_noticed() -> None:
    text = "[a](nowhere.md) [b](training.md#no-such-heading) [c](training.md#the-table) `[d](code.md)` ![e](demo.png)"
    assert broken(DOCS / "index.md", text) == ["nowhere.md", "training.md#no-such-heading"]


def test_every_formula_can_be_drawn() -> None:
    formulas = [
        formula
        for page in (DOCS / "concepts").glob("*.md")
        for pair in re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", FENCE.sub("", text_of(page)), flags=re.DOTALL)
        for formula in pair
        if formula
    ]
    assert len(formulas) > 50
    for formula in formulas:
        tex2mathml(formula)  # Refuses what it does not know.


def test_demo_is_filled_in() -> None:
    table = text_of(ROOT / "README.md").partition("<!-- demo table: begin -->")[2]
    assert "| residual |" in table.partition("<!-- demo table: end -->")[0]
    assert (DOCS / "demo.png").is_file()


def test_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # What the format requires.
    assert citation["version"] == __version__
    assert f"## {__version__}" in text_of(ROOT / "CHANGELOG.md")
    assert "arXiv:2411.00246" in str(citation["references"])
