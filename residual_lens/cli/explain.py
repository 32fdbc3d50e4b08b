"""The command `explain`."""

from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from residual_lens.cli.places import require_folders
from residual_lens.training.runs.config import Resources


def explain(
    run: Annotated[Path, tyro.conf.Positional],
    resources: Annotated[Resources, tyro.conf.arg(name="")] = Resources(),  # noqa: B008 - frozen
    dictionary: str = "auto",
    out: Path | None = None,
    n_components: int = 20,
    n_texts: int = 5,
    cache: Path | None = None,
) -> None:
    """Say what a run learned: units and components that λ amplifies or silences, in words, and how few of them matter.

    Everything is measured on the run's test split. Writes explanation.json, explanation.md and explanation.png.

    In a shell:
        residual-lens explain runs/attribute-clip--digits--residual--0
        residual-lens explain runs/clip-l--eurosat--residual--0 --dictionary words:10000 --out eurosat

    Args:
        run: folder of a finished run of residual or residual*.
        resources: where things lie and run.
        dictionary: words:N (the N most frequent English ones), imagenet (its classes in 80 templates), attributes (all
            that attribute-clip knows), a text file with one description a line, or a .safetensors of Dictionary.save;
            auto is attributes for attribute-clip, else words:3500.
        out: folder to write to; explanation in the run's by default.
        n_components: components to describe.
        n_texts: texts a description.
        cache: folder of text embeddings made before; ~/.cache/residual_lens/dictionaries by default.
    """
    out = out or run / "explanation"
    require_folders(out=out, cache=cache, stores=resources.stores)
    from residual_lens.explain import explain_run
    from residual_lens.figures import save
    from residual_lens.files import write_atomically
    from residual_lens.report.explain import explanation_markdown, explanation_tables
    from residual_lens.report.explain_figure import explanation_figure

    waiting = Console(stderr=True).is_terminal
    found = explain_run(
        run, dictionary, resources, n_components=n_components, n_texts=n_texts, cache=cache, progress=waiting
    )
    found.save(out / "explanation.json")
    write_atomically(out / "explanation.md", explanation_markdown(found).encode())
    save(explanation_figure(found), out / "explanation.png")
    console = Console()
    # In a pipe or file rows stay on one line.
    console = console if console.is_terminal else Console(width=200)
    console.print(explanation_tables(found))
    console.print(f"Wrote {out / 'explanation.json'}, .md and .png.", highlight=False, markup=False, soft_wrap=True)
