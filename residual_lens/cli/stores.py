"""The commands `encode` and `check`: activation stores."""

from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from residual_lens.cli.places import require_files


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
    require_files(out=out)
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
            f"{out}: {len(store):,} samples{skipped}, {len(store.units)} units",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


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
        console.print(f"{store}: all well. {size}", highlight=False, markup=False, soft_wrap=True)
