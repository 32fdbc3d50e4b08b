"""The command `residual-lens`: thin, every subcommand is one library call; one file a group of subcommands."""

import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

import tyro
from rich.console import Console
from rich.markup import escape

from residual_lens.cli.atlas import atlas
from residual_lens.cli.demonstrating import demo
from residual_lens.cli.describing import describe_units
from residual_lens.cli.explain import explain
from residual_lens.cli.listing import hook_points, list_data, list_models, list_tasks
from residual_lens.cli.stores import check_store, encode_data
from residual_lens.cli.sweeping import sweep
from residual_lens.cli.tabulating import table
from residual_lens.cli.training import train
from residual_lens.errors import ResidualLensError

COMMANDS: Mapping[str, Callable[..., Any]] = {
    "demo": demo,
    "tasks": list_tasks,
    "data": list_data,
    "models": list_models,
    "hooks": hook_points,
    "encode": encode_data,
    "check": check_store,
    "describe": describe_units,
    "train": train,
    "sweep": sweep,
    "table": table,
    "explain": explain,
    "atlas": atlas,
}
"""What each subcommand calls."""


def main() -> None:
    """Entry point: errors that are the user's to mend are printed as one line, without a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        tyro.extras.subcommand_cli_from_dict(
            dict(COMMANDS),
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
