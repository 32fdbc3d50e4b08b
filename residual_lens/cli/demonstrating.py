"""The command `demo`."""

from pathlib import Path

from residual_lens.cli.places import require_folders


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
    require_folders(out=out)
    from residual_lens.demo import run_demo

    run_demo(out, seed=seed, tasks=tasks or None)
