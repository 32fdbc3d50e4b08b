"""Pages that the code writes: hook points, models and the command line, as they are when the site is built."""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout

import torch
import tyro
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from residual_lens import HookedViT
from residual_lens.cli import COMMANDS
from residual_lens.hooked.catalogue import ENTRIES, listing

COLUMNS = "82"
"""Width of the help texts in characters: what fits beside the contents on a desktop."""

MEANINGS = {
    "hook_embed": "tokens before positions are added: the class token, then the patches",
    "hook_pos_embed": "what is added to them for their positions",
    "hook_full_embed": "their sum",
    "hook_scale": "what the norm divides by: the standard deviation of each token",
    "hook_normalized": "what the norm gives, before its gain and offset",
    "hook_resid_pre": "the stream before the block",
    "hook_q": "queries of each head",
    "hook_k": "keys",
    "hook_v": "values",
    "hook_attn_scores": "attention before the softmax",
    "hook_pattern": "attention: how much each query takes from each token",
    "hook_z": "the values that each head has taken together",
    "hook_result": "what each head writes into the stream, LayerScale included, without the output bias",
    "hook_attn_out": "what all heads write, with the output bias",
    "hook_resid_mid": "the stream between attention and MLP",
    "hook_pre": "the MLP's hidden layer before its activation",
    "hook_post": "and after it",
    "hook_mlp_out": "what the MLP writes into the stream",
    "hook_resid_post": "the stream after the block",
    "hook_pooled": "what the pooling takes from the stream: here the class token",
    "hook_embed_direct": "direct contribution of `embed`",
    "hook_direct": "direct contribution of each head",
    "hook_mlp_direct": "direct contribution of the MLP",
    "hook_bias_direct": "direct contribution of `bias`",
    "hook_image_embed": "the embedding",
}
"""What is seen at a hook point, by the last part of its name."""


def hook_points() -> Iterator[str]:
    """What `residual-lens hooks` prints; of the layers, which are alike, only the first."""
    hvit = HookedViT.from_pretrained("attribute-clip")
    with torch.no_grad():
        _, cache = hvit.run_with_cache(torch.zeros(1, 3, *hvit.cfg.image_size))
    shown = {
        name.replace("blocks.0.", "blocks.{i}."): activation
        for name, activation in cache.items()
        if not name.startswith("blocks.") or name.startswith("blocks.0.")
    }
    cfg = hvit.cfg
    yield (
        f"Shapes are those of the shipped model, `{cfg.model_name}`, for one image: {cfg.n_ctx} tokens, {cfg.n_layers} "
        f"layers × {cfg.n_heads} heads, `d_model` {cfg.d_model}, `d_head` {cfg.d_head}, `d_mlp` {cfg.d_mlp}, `d_out` "
        f"{cfg.d_out}. Layers are alike, and one is shown: `blocks.{{i}}`."
    )
    yield ""
    yield from table(
        ("hook point", "shape", "what it sees"),
        (
            (f"`{name}`", " × ".join(map(str, activation.shape)), MEANINGS[name.rpartition(".")[2]])
            for name, activation in shown.items()
        ),
    )


def models() -> Iterator[str]:
    """What `residual-lens models` prints."""
    rows = []
    for entry in ENTRIES:
        one = listing(entry)
        short = f"`{entry.name}` = " if entry.name != entry.checkpoint else ""
        name = f"{short}`{entry.checkpoint}`" + (", `head=True`" if entry.head else "")
        size = " × ".join(map(str, dict.fromkeys(one.image_size)))  # One side of a square.
        kind = f"{entry.kind}; {one.pooling}"
        rows.append((name, kind, f"{one.n_layers} × {one.n_heads}", str(one.n_units), size))
    yield from table(("name", "kind; pooling", "layers × heads", "units", "image"), rows)


def commands() -> Iterator[str]:
    """A section for each subcommand, with what its `--help` prints."""
    for name in COMMANDS:
        yield from (f"## {name}", "", "```text", *help_text(name).splitlines(), "```", "")


def help_text(command: str) -> str:
    """The help of a subcommand, without colours and in a fixed width."""
    before = {key: os.environ.get(key) for key in ("COLUMNS", "NO_COLOR")}
    os.environ.update(COLUMNS=COLUMNS, NO_COLOR="1")
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            tyro.extras.subcommand_cli_from_dict(dict(COMMANDS), prog="residual-lens", args=[command, "--help"])
    except SystemExit:
        pass  # How a parser ends after help.
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
    return "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())


def table(head: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> Iterator[str]:
    """A table in Markdown."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


CONTENTS = {"hook-points": hook_points, "models": models, "commands": commands}


class Generated(SphinxDirective):
    """One of `CONTENTS`, in place."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The Markdown that the code writes, parsed."""
        lines = list(CONTENTS[self.arguments[0]]())
        parent = nodes.section()
        parent.document = self.state.document
        source = str(self.get_source_info()[0])
        self.state.nested_parse(StringList(lines, source=source), self.content_offset, parent, match_titles=True)
        return parent.children


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("generated", Generated)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
