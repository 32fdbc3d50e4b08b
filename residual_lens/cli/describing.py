"""The command `describe`."""

from pathlib import Path

from rich.console import Console

from residual_lens.cli.places import require_files, require_folders
from residual_lens.errors import InputError


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
    from residual_lens.descriptions import describe, require_numbers
    from residual_lens.files import write_atomically
    from residual_lens.hooked import HookedViT
    from residual_lens.hooked.devices import device_named
    from residual_lens.report import descriptions_markdown, descriptions_table
    from residual_lens.text import CACHE, Dictionary, open_dictionary

    device_named(device)
    require_files(out=out, markdown=markdown)
    require_folders(cache=cache)
    require_numbers(n_atoms, n_null)
    written = [path for path in (out, markdown) if path is not None]
    for path in written:
        # A store that took a day must not be replaced by a table.
        if path.resolve() in (store.resolve(), Path(dictionary).resolve()):
            raise InputError(f"{path} is one of the inputs: give another file to write.")
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
