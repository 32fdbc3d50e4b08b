"""The commands `tasks`, `data`, `models` and `hooks`: what there is to work with."""

from rich.console import Console
from rich.progress import track
from rich.table import Column, Table


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
