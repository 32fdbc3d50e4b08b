"""The API reference: every name in an `__all__` of the package, once, under the shortest name that a user can import.

`{public-names}` documents the names of the modules that it is given, after a table of them; a public name that no page
documents is a warning, and so ends the build. In docstrings, what stands in backticks and is a public name is a link.
"""

import ast
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from docutils import nodes
from docutils.parsers.rst.states import Inliner
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import PycodeError
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

LOGGER = logging.getLogger(__name__)
PACKAGE = "residual_lens"
FOREIGN = ("sklearn.", "torch.", "transformer_lens.")
"""What inherited docstrings may refer to."""
LONGEST_VALUE = 80
"""Characters of a constant's value that are shown."""


class Name(NamedTuple):
    """One public name."""

    full: str
    """The shortest name that a user can import it by."""
    homes: frozenset[str]
    """The modules that export or define it."""
    value: Any
    """What it stands for."""


def modules() -> Iterator[str]:
    """The package and all that lies in it, but for what runs when it is imported."""
    yield PACKAGE
    for found in pkgutil.walk_packages(import_module(PACKAGE).__path__, f"{PACKAGE}."):
        if not found.name.endswith("__main__"):
            yield found.name


@cache
def public() -> dict[str, Name]:
    """Every public name, by the name that it is documented under."""
    exported: dict[tuple[str, Any], list[str]] = {}
    for module in map(import_module, modules()):
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            exported.setdefault((name, defined(value, module.__name__, name)), []).append(module.__name__)
    found = {}
    for (name, definer), homes in exported.items():
        shortest = min(homes, key=lambda home: (home.count("."), home))
        full = f"{shortest}.{name}"
        found[full] = Name(full, frozenset([*homes, definer]), getattr(import_module(shortest), name))
    return dict(sorted(found.items()))


def defined(value: Any, module: str, name: str) -> str:
    """The module whose source defines a value that `module` exports."""
    if inspect.isclass(value) or inspect.isfunction(value):
        return value.__module__
    # A constant does not know where it comes from; the imports say it.
    for found in ast.walk(ast.parse(inspect.getsource(import_module(module)))):
        if isinstance(found, ast.ImportFrom) and found.module and name in [one.name for one in found.names]:
            return defined(value, found.module, name)
    return module


@cache
def constants(module: str) -> dict[str, str]:
    """What a module says of its constants: the string behind each."""
    try:
        documented = ModuleAnalyzer.for_module(module).find_attr_docs()
    except PycodeError:
        return {}
    return {name: "\n".join(lines) for (owner, name), lines in documented.items() if not owner}


def described(name: Name) -> str:
    """The docstring of a public name."""
    if inspect.isclass(name.value) or inspect.isfunction(name.value):
        return inspect.getdoc(name.value) or ""
    short = name.full.rpartition(".")[2]
    return next((constants(home)[short] for home in name.homes if short in constants(home)), "")


def linked(target: str) -> str | None:
    """The documented name that an annotation or a docstring means, if it means one."""
    if target in public():
        return target
    home, _, short = target.rpartition(".")
    found = [full for full, name in public().items() if full.endswith(f".{short}") and (not home or home in name.homes)]
    return found[0] if len(found) == 1 else None


class PublicNames(SphinxDirective):
    """A table of the public names of some modules, and the documentation of each."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Markdown with the table, and reStructuredText for autodoc, parsed in place."""
        wanted = set(self.arguments[0].split())
        chosen = [name for name in public().values() if wanted & name.homes]
        pages = documented(self.env)
        chosen = [name for name in chosen if pages.setdefault(name.full, self.env.docname) == self.env.docname]
        lines = ["| | |", "|---|---|"]
        for name in chosen:
            said = described(name) or f"`{name.value!r}`"
            first = said.partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")
            lines.append(f"| {{py:obj}}`~{name.full}` | {first} |")
        lines += ["", "````{eval-rst}"]
        for name in chosen:
            lines += _autodoc(name)
        lines.append("````")
        parent = nodes.Element()
        self.state.nested_parse(StringList(lines, source=str(self.get_source_info()[0])), self.content_offset, parent)
        return parent.children


def _autodoc(name: Name) -> list[str]:
    if inspect.isclass(name.value):
        return [f".. autoclass:: {name.full}", ""]
    if inspect.isfunction(name.value):
        return [f".. autofunction:: {name.full}", ""]
    value = [f"   :value: {name.value!r}"] if len(repr(name.value)) < LONGEST_VALUE else []
    return [f".. py:data:: {name.full}", *value, "", *(f"   {line}" for line in described(name).splitlines()), ""]


def backticks(
    name: str, rawtext: str, text: str, lineno: int, inliner: Inliner, options: Any = None, content: Any = None
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """The role of single backticks in docstrings: a link where the text is a public name, else code."""
    code = nodes.literal(rawtext, text, classes=["docutils"])
    target = linked(text)
    if target is None:
        return [code], []
    return [addnodes.pending_xref("", code, refdomain="py", reftype="obj", reftarget=target, refexplicit=True)], []


def resolve(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Element) -> Any:
    """Links to public names by other paths; annotations with other types (torch's, ours that are private) stay text."""
    if node.get("refdomain") != "py":
        return None
    target = linked(node["reftarget"])
    entry = env.domains.python_domain.objects.get(target or "")
    if entry is not None and target is not None:
        return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, target)
    # What a page or docstring names of ours must be there; annotations name whatever the code does.
    ours = isinstance(content, nodes.literal) and not node["reftarget"].startswith(FOREIGN)
    return None if ours else content


def sign(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returned: str
) -> tuple[str, str] | None:
    """Make signatures readable: a default without a literal as dots, none where the hub's mixin hides a class' own."""
    if signature is None:
        return None
    hidden = what == "class" and returned != ""
    return ("", "") if hidden else (re.sub(r"<[^<>]*>", "...", signature), returned)


def keep(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Set a field's docstring aside before napoleon, which would take what stands before its first colon for a type."""
    app.env.temp_data["docstring"] = list(lines)


def restore(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """And back."""
    if what in ("attribute", "data", "property"):
        lines[:] = app.env.temp_data["docstring"]


def documented(env: BuildEnvironment) -> dict[str, str]:
    """The page that documents each name, of the pages that were read so far."""
    return vars(env).setdefault("public_names", {})


def forget(app: Sphinx, env: BuildEnvironment, page: str) -> None:
    """Drop what a page documented before it is read again."""
    kept = {name: where for name, where in documented(env).items() if where != page}
    documented(env).clear()
    documented(env).update(kept)


def complain(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of public names that no page documents."""
    missing = sorted(set(public()) - set(documented(env)))
    if missing:
        LOGGER.warning("No page under api/ documents %s.", ", ".join(missing))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive, the role and the checks."""
    app.add_directive("public-names", PublicNames)
    app.add_role("public", backticks)
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-signature", sign)
    app.connect("autodoc-process-docstring", keep, priority=400)
    app.connect("autodoc-process-docstring", restore, priority=600)
    app.connect("env-purge-doc", forget)
    app.connect("env-check-consistency", complain)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
