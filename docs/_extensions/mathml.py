"""Formulas as MathML, which browsers draw themselves: no script, no font and no network in the page.

The converter is docutils' own; Sphinx comes with it, but offers renderers only that load MathJax or run LaTeX.
"""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)


def inline(writer: Any, node: nodes.math) -> None:
    """A formula in running text."""
    writer.body.append(_converted(node, as_block=False))
    raise nodes.SkipNode


def block(writer: Any, node: nodes.math_block) -> None:
    """A formula on lines of its own; wide ones are scrolled, not the page."""
    writer.body.append(f'<div class="math">{_converted(node, as_block=True)}</div>')
    raise nodes.SkipNode


def _converted(node: nodes.Element, *, as_block: bool) -> str:
    try:
        converted = tex2mathml(node.astext(), as_block=as_block)
    except MathError as error:
        # A warning ends the build, as every warning does.
        LOGGER.warning("No MathML for %r: %s", node.astext(), error, location=node)
        return ""
    # Angle brackets grow only where they were written with \left and \right, as in TeX.
    return re.sub(r"<mo>([⟨⟩])</mo>", r'<mo stretchy="false">\1</mo>', converted)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer in MathJax's place."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
