"""The atlas as one HTML file that opens from disk: no server, no network, nothing beside it."""

import base64
import hashlib
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from residual_lens.atlas.contents import Atlas

STYLES = ("base", "frame", "map", "cards", "parts", "narrow")
"""Files of `styles/`; a later one decides where two say something of the same thing."""
SCRIPTS = (
    "elements",
    "contents",
    "address",
    "colours",
    "grid",
    "searching",
    "search",
    "charts",
    "words",
    "effects",
    "directions",
    "numbers",
    "card",
    "summary",
    "app",
)
"""Files of `scripts/`, in the order in which the page runs them: each uses only what stands before it."""


def render(atlas: Atlas) -> str:
    """The page of an atlas.

    Everything is inside: style, script, plotting library, images, data. Texts of the atlas are data and never markup:
    they stand in a JSON block whose `<`, `>`, `&` and `'` are escaped, and the script writes them as text. The page's
    content security policy allows no other script than its own (by its hash) and nothing from elsewhere.

    Args:
        atlas: what `residual_lens.atlas` made.

    Returns:
        HTML, to be written as UTF-8.

    Raises:
        ValueError: a number of the atlas is NaN or infinite, which JSON has no word for.
    """
    environment = Environment(
        loader=PackageLoader("residual_lens.atlas.page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {
        "allow_nan": False,
        "ensure_ascii": False,
        "separators": (",", ":"),
    }
    style = _text("vendor/uPlot.min.css") + "".join(_text(f"styles/{name}.css") for name in STYLES)
    own = "".join(_text(f"scripts/{name}.js") for name in SCRIPTS)
    # One function around our own files: nothing of theirs is global, and one uses what another defines.
    vendored = f"/*\n{_text('vendor/uPlot.LICENSE')}*/\n{_text('vendor/uPlot.iife.min.js')}"
    script = f'{vendored}(() => {{\n"use strict";\n{own}}})();\n'
    html = environment.get_template("index.html.jinja").render(
        title=atlas.title,
        data=atlas.to_json(),
        style=style,
        script=script,
        style_hash=_source_hash(style),
        script_hash=_source_hash(script),
    )
    # Names of files that are no UTF-8 come with lone surrogates, which no page can hold.
    return html.encode(errors="replace").decode()


def _text(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


def _source_hash(text: str) -> str:
    """What a content security policy calls an inline script or style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
