"""The command `residual-lens`: thin, every subcommand is one library call."""

import logging
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Column, Table

from residual_lens.errors import InputError, ResidualLensError


def demo(out: Path = Path("demo"), seed: int = 0, tasks: tuple[str, ...] = ()) -> None:
    """Decompose, analyse and adapt the shipped model on real and rendered tasks; write a table and a figure.

    In a shell:
        residual-lens demo
        residual-lens demo --tasks digits attributes:position --out two-tasks

    Args:
        out: folder for results.json and figure.png.
        seed: of data, initial scales and the order of samples.
        tasks: task names; all of the demo's by default (residual-lens tasks lists what there is).
    """
    from residual_lens.demo import run_demo

    run_demo(out, seed=seed, tasks=tasks or None)


def list_tasks() -> None:
    """List the tasks by name.

    In a shell:
        residual-lens tasks
    """
    from residual_lens.data import task_names

    Console().print("\n".join(task_names()))


def list_data() -> None:
    """List the image data sets that encode takes by name; folder:PATH and hf:ORG/REPO work as well.

    In a shell:
        residual-lens data
    """
    from residual_lens.data import image_set_names

    Console().print("\n".join(image_set_names()))


def list_models(filter: str = "") -> None:
    """List the models that can be loaded by name, with their units; nothing is downloaded.

    In a shell:
        residual-lens models
        residual-lens models --filter dinov2

    Args:
        filter: only models whose name or kind contains this text.
    """
    from residual_lens.hooked.catalogue import ENTRIES, entries, listing

    chosen = entries(filter)
    console = Console()
    waiting = track(chosen, f"{len(chosen)} of {len(ENTRIES)} models", transient=True, disable=not console.is_terminal)
    table = Table("short", Column("name", overflow="fold"), "layers × heads", "pooling", "units", "image", "kind")
    for one in map(listing, waiting):
        name = one.entry.checkpoint
        table.add_row(
            one.entry.name if one.entry.name != name else "",
            f"{name}, head=True" if one.entry.head else name,
            f"{one.n_layers} × {one.n_heads}",
            one.pooling,
            str(one.n_units),
            " × ".join(str(side) for side in one.image_size),
            one.entry.kind,
        )
    # In a pipe or file each model stays on one line, however long its name.
    (console if console.is_terminal else Console(width=200)).print(table)
    console.print(
        "Load one with HookedViT.from_pretrained(name), by either name; wrap a model that you hold in memory with "
        "HookedViT.wrap(module). Other models of these kinds work as well.",
        highlight=False,
        soft_wrap=True,
    )


def hook_points(model: str = "attribute-clip") -> None:
    """List a model's hook points with the shape of what they see, for one image.

    In a shell:
        residual-lens hooks
        residual-lens hooks --model open_clip:ViT-B-16/openai

    Args:
        model: a name as in `residual-lens models`; weights that are not here are downloaded.
    """
    import torch

    from residual_lens.hooked import HookedViT

    hvit = HookedViT.from_pretrained(model)
    images = torch.zeros(1, 3, *hvit.cfg.image_size)
    with torch.no_grad():
        _, cache = hvit.run_with_cache(images)
    table = Table("hook point", "shape", title=f"{model}: {hvit.cfg.n_layers} layers × {hvit.cfg.n_heads} heads")
    for name, activation in cache.items():
        table.add_row(name, " × ".join(str(size) for size in activation.shape))
    Console().print(table)


def encode_data(
    model: str,
    data: str,
    out: Path,
    *,
    split: str = "train",
    root: Path | None = None,
    download: bool = False,
    limit: int | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    format: Literal["int16", "float16", "bfloat16", "float32"] = "int16",
    batch_size: int = 32,
    on_corrupt: Literal["raise", "skip"] = "raise",
    workers: int | None = None,
    device: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    center: Literal["own", "uniform"] = "own",
    seed: int = 42,
) -> None:
    """Run a model once over a data set and write what every unit gave for every sample, as one HDF5 file.

    A run that was stopped goes on where it was when the same command is given again. On several processes or nodes each
    writes a shard, and the file presents them as one.

    In a shell:
        residual-lens encode --model attribute-clip --data digits --out digits.h5
        residual-lens encode --model clip-l --data imagenet --root /data/imagenet --limit 80000 --out imagenet.h5
        accelerate launch --num_processes 8 --module residual_lens encode --model clip-l --data hf:org/repo --out a.h5

    Args:
        model: a name as in `residual-lens models`.
        data: a name as in `residual-lens data`, `folder:PATH` or `hf:ORG/REPO`.
        out: the file to write.
        split: train, validation or test.
        root: folder that holds the data, or is to hold them.
        download: fetch the data if they are not there.
        limit: only so many samples, in proportion to the classes.
        image_column: of a Hugging Face data set with several image columns.
        label_column: of a Hugging Face data set with several label columns.
        format: how values lie on disk. int16 comes with scales: as short as float16, ten times as exact.
        batch_size: images in a forward pass.
        on_corrupt: stop at an image that cannot be read, or skip it with a warning.
        workers: processes that load images; one for each CPU on a GPU, else none.
        device: where to run; a GPU if there is one.
        dtype: what to run in.
        center: centring of the contributions.
        seed: of splits and of what is drawn or rendered.
    """
    import torch
    from accelerate import PartialState

    from residual_lens.activations import encode
    from residual_lens.data.images import open_images
    from residual_lens.hooked import HookedViT

    processes = PartialState(cpu=device == "cpu")
    console = Console(stderr=True)
    hvit = HookedViT.from_pretrained(
        model, center=center, device=device or str(processes.device), dtype=getattr(torch, dtype)
    )
    images = open_images(
        data,
        split=split,
        root=root,
        download=download,
        limit=limit,
        seed=seed,
        image_size=hvit.cfg.image_size[0],
        image_column=image_column,
        label_column=label_column,
    )
    store = encode(
        hvit,
        images,
        out,
        value_format=format,
        batch_size=batch_size,
        on_corrupt=on_corrupt,
        workers=workers,
        process=processes.process_index,
        n_processes=processes.num_processes,
        progress=processes.is_local_main_process,
    )
    if store is None:
        return
    with store:
        skipped = f", {len(store.skipped_ids):,} skipped" if store.skipped_ids else ""
        console.print(
            f"{out}: {len(store):,} samples{skipped}, {len(store.units)} units", highlight=False, soft_wrap=True
        )


def describe_units(
    store: Path,
    dictionary: str,
    out: Path,
    *,
    units: tuple[str, ...] = ("heads",),
    model: str | None = None,
    n_atoms: int = 20,
    n_null: int = 39,
    seed: int = 0,
    cache: Path | None = None,
    markdown: Path | None = None,
    device: str = "cpu",
) -> None:
    """Describe units in words: the texts that explain most of what each writes, and whether chance would do as well.

    In a shell:
        residual-lens describe --store digits.h5 --dictionary attributes --out descriptions.json
        residual-lens describe --store imagenet.h5 --dictionary words:3500 --units heads mlps --out words.json
        residual-lens describe --store imagenet.h5 --dictionary descriptions.txt --units L11 --out L11.json

    Args:
        store: a file that `residual-lens encode` wrote.
        dictionary: words:N (the N most frequent English ones), imagenet (its classes in 80 templates), attributes (all
            that attribute-clip knows), a text file with one description a line, or a .safetensors of Dictionary.save.
        out: the JSON file to write.
        units: heads, mlps, layers like L3, units' names, or all.
        model: what encodes the texts, where the store's own name for its model does not find it; the same model.
        n_atoms: texts a unit.
        n_null: random dictionaries that labels are compared with.
        seed: of these.
        cache: folder of embeddings made before; ~/.cache/residual_lens/dictionaries by default.
        markdown: write the table to this file as well.
        device: where texts are encoded.
    """
    import torch

    from residual_lens.activations import Store
    from residual_lens.descriptions import describe
    from residual_lens.files import write_atomically
    from residual_lens.hooked import HookedViT
    from residual_lens.report import descriptions_markdown, descriptions_table
    from residual_lens.text import CACHE, Dictionary, open_dictionary

    written = [path for path in (out, markdown) if path is not None]
    for path in written:
        # A store that took a day must not be replaced by a table.
        if path.is_dir() or path.resolve() in (store.resolve(), Path(dictionary).resolve()):
            raise InputError(f"{path} is a folder or one of the inputs: give another file to write.")
        path.parent.mkdir(parents=True, exist_ok=True)
    if len({path.resolve() for path in written}) < len(written):
        raise InputError(f"--out and --markdown are both {out}: give two files.")
    waiting = Console(stderr=True).is_terminal
    with Store(store) as opened:
        made = opened.provenance
        opened.units.select(units)
        if dictionary.endswith(".safetensors"):
            atoms = Dictionary.load(dictionary)
        else:
            dtype = getattr(torch, made.model_dtype.removeprefix("torch."))
            hvit = HookedViT.from_pretrained(model or made.model, center=made.center, device=device, dtype=dtype)
            opened.require_model(hvit)
            atoms = open_dictionary(hvit, dictionary, cache=cache or CACHE, progress=waiting)
        found = describe(opened, atoms, units, n_atoms, n_null=n_null, seed=seed, progress=waiting)
    found.save(out)
    if markdown is not None:
        write_atomically(markdown, descriptions_markdown(found).encode())
    console = Console()
    # In a pipe or file labels stay on one line.
    (console if console.is_terminal else Console(width=160)).print(descriptions_table(found))


def check_store(store: Annotated[Path, tyro.conf.Positional]) -> None:
    """Read a store whole and compare it with its checksums.

    In a shell:
        residual-lens check digits.h5

    Args:
        store: a file that `residual-lens encode` wrote.
    """
    from residual_lens.activations import Store, check

    console = Console()
    check(store, progress=console.is_terminal)
    with Store(store) as opened:
        size = f"{len(opened):,} samples, {len(opened.units)} units"
        console.print(f"{store}: all well. {size}", highlight=False, soft_wrap=True)


def main() -> None:
    """Entry point: errors that are the user's to mend are printed as one line, without a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        tyro.extras.subcommand_cli_from_dict(
            {
                "demo": demo,
                "tasks": list_tasks,
                "data": list_data,
                "models": list_models,
                "hooks": hook_points,
                "encode": encode_data,
                "check": check_store,
                "describe": describe_units,
            },
            description="Take a vision transformer apart: heads and MLPs as hooks, their spectra, ResiDual on top.",
        )
    except ResidualLensError as error:
        # Escaped, because shapes and lists in messages look like markup; one line, however narrow the terminal.
        Console(stderr=True).print(
            f"[bold red]residual-lens:[/bold red] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        sys.exit(2)
    except OSError as error:
        Console(stderr=True, soft_wrap=True).print(f"residual-lens: {error}", highlight=False, markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
