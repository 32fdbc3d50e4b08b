"""The head atlas of the shipped model, made while the site is built, as docs/atlas.md does it."""

from contextlib import ExitStack
from pathlib import Path

from sphinx.application import Sphinx

from residual_lens import HookedViT, Store, encode, open_images
from residual_lens.atlas import atlas
from residual_lens.atlas.page import render
from residual_lens.files import write_atomically
from residual_lens.training.runs import Resources, RunConfig, run, run_folder

MODEL = "attribute-clip"
SCENES = 1500
"""Images of the first data set, which components and descriptions are of."""
TASKS = ("colour", "background", "shape", "texture", "digit", "letter", "size", "position", "orientation")
OF_A_TASK = 500
"""Images of each task."""


def make(page: Path, workshop: Path) -> None:
    """Encode, train, and write the page; what lies in the workshop already is taken from there."""
    hvit = HookedViT.from_pretrained(MODEL)
    wanted = [("attributes", SCENES), *((f"attributes:{task}", OF_A_TASK) for task in TASKS), ("digits", None)]
    with ExitStack() as opened:
        stores: list[Store] = []
        for data, limit in wanted:
            images = open_images(data, split="test", limit=limit, image_size=hvit.cfg.image_size[0])
            store = encode(hvit, images, workshop / f"{data.replace(':', '-')}.h5")
            assert store is not None  # noqa: S101 - of one process, which writes the whole file
            stores.append(opened.enter_context(store))
        config = RunConfig(MODEL, "digits", "residual")
        run(config, workshop / "runs", Resources(stores=workshop / "stores"))
        found = atlas(stores, hvit=hvit, run=run_folder(config, workshop / "runs"), cache=workshop / "dictionaries")
    write_atomically(page, render(found).encode())


def add(app: Sphinx, error: Exception | None) -> None:
    """Put the page beside the site's own, at atlas/index.html; what it is made of stays outside of the site."""
    if error is None and app.builder.name == "html":
        site = Path(app.outdir)
        make(site / "atlas" / "index.html", site.parent / ".head_atlas")


def setup(app: Sphinx) -> dict[str, bool]:
    """Make the atlas when all pages are written."""
    app.connect("build-finished", add)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
