"""The notebooks as they are stored; `make docs` runs them."""

import ast
import re
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PUBLIC = ("residual_lens", "residual_lens.figures", "residual_lens.explain")
"""Modules that a notebook takes names from."""
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
MADE_HERE = ("attribute-clip", "attributes", "digits", "random", "folder:")
"""Models and data that are there without a download, or how their names begin."""
LOADERS = {"from_pretrained", "open_images", "load_task"}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def notebook(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


@pytest.fixture
def code(notebook: NotebookNode) -> ast.Module:
    return ast.parse("\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code"))


def test_there_is_one_for_each_thing_that_people_come_for():
    assert [path.stem for path in NOTEBOOKS] == [
        "01-read-one-head",
        "02-ablate-and-steer",
        "03-which-heads-know-colour",
        "04-train-residual",
        "05-your-own-model",
        "06-from-transformerlens",
    ]


def test_it_is_stored_without_what_running_it_leaves_behind(notebook: NotebookNode):
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata == METADATA
    for cell in notebook.cells:
        assert cell.metadata == {}
        assert cell.source.strip(), "an empty cell"
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


def test_cells_have_names_that_stay(notebook: NotebookNode):
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    # Words, where Jupyter draws eight hexadecimal digits anew for every cell.
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", one) for one in ids), ids


def test_it_begins_with_a_title_and_says_why(notebook: NotebookNode):
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert re.match(r"# [A-Z][^\n]*\n\n.", first.source)
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds.count("markdown") >= kinds.count("code") / 2


def test_it_takes_public_names_only(code: ast.Module):
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            assert not [alias.name for alias in node.names if alias.name.startswith("residual_lens")]
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("residual_lens"):
            assert node.module in PUBLIC
            home = import_module(node.module)
            names = {alias.name for alias in node.names}
            assert names <= {*home.__all__, *(name.rpartition(".")[2] for name in PUBLIC)}


def test_it_uses_no_private_names(code: ast.Module):
    private = [node.attr for node in ast.walk(code) if isinstance(node, ast.Attribute) and node.attr.startswith("_")]
    assert not private


def test_it_needs_no_network_and_no_place_on_a_disk(code: ast.Module):
    for node in ast.walk(code):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not re.match(r"[/~]|[A-Za-z]:\\|https?:", node.value), node.value
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            options = {keyword.arg: keyword.value for keyword in node.keywords}
            assert not {"pretrained", "download"} & set(options), f"{called} in line {node.lineno} may download"
            if called in LOADERS:
                assert _beginning(node.args[0]).startswith(MADE_HERE), ast.unparse(node)


def test_links_to_other_notebooks_lead_there(notebook: NotebookNode):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert link.startswith("https://") or (FOLDER / link).is_file(), link


def test_the_documentation_lists_it(path: Path):
    pages = "\n".join(page.read_text(encoding="utf-8") for page in FOLDER.parent.rglob("*.md"))
    tables_of_contents = re.findall(r"```\{toctree\}(.*?)```", pages, flags=re.DOTALL)
    assert any(path.stem in table for table in tables_of_contents), f"{path.name} is in no toctree"


def _beginning(argument: ast.expr) -> str:
    """A string, or what an f-string begins with."""
    if isinstance(argument, ast.JoinedStr):
        argument = argument.values[0]
    return argument.value if isinstance(argument, ast.Constant) else ast.unparse(argument)
