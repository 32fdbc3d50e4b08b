"""The command `atlas`."""

from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from rich.console import Console

from residual_lens.cli.places import file_in_the_way
from residual_lens.errors import InputError

PAGE = "index.html"
MARK = b'<script type="application/json" id="atlas">'
"""In every atlas, and in no other page."""


def atlas(
    *,
    store: tuple[Path, ...],
    out: Path,
    run: Path | None = None,
    dictionary: str = "auto",
    units: tuple[str, ...] = ("heads", "mlps"),
    components: int = 4,
    ends: int = 5,
    images: int = 1000,
    classifier: Literal["auto", "text", "means", "none"] = "auto",
    templates: str = "auto",
    model: str | None = None,
    data: str | None = None,
    root: Path | None = None,
    data_seed: int = 42,
    image_column: str | None = None,
    label_column: str | None = None,
    n_null: int = 39,
    seed: int = 0,
    cache: Path | None = None,
    device: str | None = None,
) -> None:
    """Make a page that shows every head and MLP of a model: what it is about, how much depends on it, where it looks.

    The first store gives spectra, components with the images at both ends, and descriptions. Each store with labels is
    a task: what is lost when a unit's mean takes the place of the unit. Each further store is compared with the first.
    The page is one file that opens from disk.

    In a shell:
        residual-lens atlas --store digits.h5 --out atlas
        residual-lens atlas --store scenes.h5 colour.h5 shape.h5 --run runs/attribute-clip--digits--residual--0
            --out atlas
        residual-lens atlas --store imagenet.h5 --root /data/imagenet --dictionary words:3500 --units L22 L23 --out late

    Args:
        store: files that `residual-lens encode` or `train` wrote with one model.
        out: folder to write index.html to.
        run: folder of a finished run of residual or residual*: shows its λ.
        dictionary: words:N (the N most frequent English ones), imagenet (its classes in 80 templates), attributes (all
            that attribute-clip knows), a text file with one description a line, or a .safetensors of Dictionary.save;
            auto is attributes for attribute-clip, else words:3500; none is for no texts.
        units: heads, mlps, layers like L3, or units' names.
        components: components to show of each unit.
        ends: images to show at each end of a component.
        images: how many to choose these from; drawn if the first store has more. It bounds the size of the page.
        classifier: prompts through the text tower, class means of every other sample, none for no tasks, or auto, which
            is text where there is a text tower.
        templates: imagenet (CLIP's 80), imagenet-simple (7 of them), or a text with one {} for the class; auto is the
            captions' own for digits and attributes, else imagenet.
        model: its name, where the stores' own name for it does not find it.
        data: name of the first store's images, where the store's own does not find them: folder:PATH for a folder.
        root: folder that holds them.
        data_seed: of their splits and of what was drawn, the --seed that the store was encoded with.
        image_column: of a Hugging Face data set with several image columns.
        label_column: of a Hugging Face data set with several label columns.
        n_null: random dictionaries that descriptions are compared with.
        seed: of these, and of which images are drawn.
        cache: folder of text embeddings made before; ~/.cache/residual_lens/dictionaries by default.
        device: where the model runs; a GPU if there is one.
    """
    from residual_lens.activations import Store
    from residual_lens.atlas import atlas as make_atlas
    from residual_lens.atlas import images_of, model_of
    from residual_lens.atlas.page import render
    from residual_lens.files import write_atomically
    from residual_lens.hooked.devices import device_named

    page = out / PAGE
    if page.is_dir() or file_in_the_way(out):
        raise InputError(f"--out is the folder that {PAGE} is written to, and {out} cannot be: give another one.")
    if page.exists() and MARK not in page.read_bytes():
        raise InputError(f"{page} is there and is no atlas, and would be lost: give another --out.")
    if not store:
        raise InputError("--store names no store: give at least one that residual-lens encode wrote.")
    waiting = Console(stderr=True).is_terminal
    with ExitStack() as opened:
        stores = [opened.enter_context(Store(path)) for path in store]
        first = stores[0]
        first.units.select(units)
        hvit = model_of(first, name=model, device=device_named(device))
        found = make_atlas(
            stores,
            hvit=hvit,
            images=images_of(
                first,
                hvit.cfg.image_size[0],
                data=data,
                root=root,
                seed=data_seed,
                image_column=image_column,
                label_column=label_column,
            ),
            dictionary=None if dictionary == "none" else dictionary,
            run=run,
            units=units,
            n_components=components,
            n_ends=ends,
            n_images=images,
            classifier=classifier,
            templates=templates,
            n_null=n_null,
            seed=seed,
            cache=cache,
            progress=waiting,
        )
    written = render(found).encode()
    write_atomically(page, written)
    Console().print(
        f"{page}: {len(found.units)} units, {len(found.images):,} images, {len(written) / 1e6:.1f} MB",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
