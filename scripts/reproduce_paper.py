"""The paper's four studies, for given models and data, from one file of settings.

    python scripts/reproduce_paper.py --dry-run                         # the commands, with the paper's settings
    python scripts/reproduce_paper.py --models clip-b --data dtd svhn imagenet
    python scripts/reproduce_paper.py my-settings.toml

Intrinsic dimension, head similarity, unit selection, and ResiDual beside its baselines: each is a script or a command
of its own, run one after another. `scripts/paper.toml` holds the paper's settings. A section of the file is a study,
and its keys are options of the study's command; a study without a section is left out. What fails does not stop the
others. A run that was stopped goes on where it was when it is started again.
"""

import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from studies import file_name

from residual_lens.errors import InputError
from residual_lens.training.runs.sweep import PRESETS

SCRIPTS = Path(__file__).resolve().parent
PYTHON, LENS = [sys.executable], [sys.executable, "-m", "residual_lens"]


@dataclass(frozen=True)
class Config:
    """What is run."""

    settings: Annotated[Path, tyro.conf.Positional] = SCRIPTS / "paper.toml"
    """File of settings."""
    models: tuple[str, ...] = ()
    """Of its models only these."""
    data: tuple[str, ...] = ()
    """Of its data sets only these."""
    dry_run: bool = False
    """Print the commands, and run none."""


def main(config: Config) -> None:
    """Run the studies."""
    try:
        commands = list(planned(tomllib.loads(config.settings.read_text(encoding="utf-8")), config))
    except KeyError as error:
        raise InputError(f"{config.settings} lacks the setting {error}.") from None
    failed = []
    for command in commands:
        print(shlex.join(command), flush=True)
        if not config.dry_run and status(command):
            failed.append(command)
    if failed:
        raise SystemExit("\n".join([f"{len(failed)} of {len(commands)} commands failed:", *map(shlex.join, failed)]))


def planned(settings: Mapping[str, Any], config: Config) -> Iterator[list[str]]:
    """The commands of all studies, in the paper's order.

    Raises:
        InputError: sections, models or data that there are not.
    """
    sections = {name: only(section, config) for name, section in settings.items() if isinstance(section, Mapping)}
    common = {name: value for name, value in settings.items() if name not in sections}
    studies = {
        "intrinsic-dimension": partial(together, "intrinsic_dimension.py"),
        "head-similarity": similarity,
        "unit-selection": partial(together, "unit_selection.py"),
        "training": training,
    }
    found = {name for section in sections.values() for name in (*section["models"], *section["data"])}
    if unknown := [*(set(sections) - set(studies)), *(set((*config.models, *config.data)) - found)]:
        raise InputError(f"{', '.join(unknown)}: not in {config.settings}, whose sections may be {', '.join(studies)}.")
    out = Path(common.pop("out"))
    for name, study in studies.items():
        if name in sections and sections[name]["models"] and sections[name]["data"]:
            yield from study(sections[name], common, out / name)


def together(script: str, section: Mapping[str, Any], shared: Mapping[str, Any], out: Path) -> Iterator[list[str]]:
    """One script for all models and data."""
    yield [*PYTHON, str(SCRIPTS / script), *flags({**section, **shared, "out": out})]


def similarity(section: Mapping[str, Any], shared: Mapping[str, Any], out: Path) -> Iterator[list[str]]:
    """One script a model; it compares two data sets or more."""
    others = {name: value for name, value in section.items() if name != "models"}
    for model in section["models"] if len(section["data"]) > 1 else ():
        options = {"model": model, **others, **shared, "out": out / file_name(model)}
        yield [*PYTHON, str(SCRIPTS / "head_similarity.py"), *flags(options)]


def training(section: Mapping[str, Any], shared: Mapping[str, Any], out: Path) -> Iterator[list[str]]:
    """The images that bases are fitted on, then a sweep, a model at a time; a table of all of them."""
    own = ("models", "bases", "bases_limit", "options")
    swept = {name: value for name, value in section.items() if name not in own} | {"out": out / "runs"}
    data = section.get("bases", "own")
    for model in section["models"]:
        options = {**section.get("options", {}), **shared}
        if data != "own":
            limit = section["bases_limit"]
            # Called as the studies call it, which have it by then where they are on the same images.
            store = Path(shared["stores"]) / f"{file_name(model, data)}--train-{limit}-42.h5"
            encoded = {name: value for name, value in shared.items() if name != "stores"}
            yield [*LENS, "encode", *flags({"model": model, "data": data, "limit": limit, "out": store, **encoded})]
            options["bases"] = store
        yield [*LENS, "sweep", *flags({"models": [model], **swept}), "--", *flags(options)]
    kinds = {"markdown": "md", "csv": "csv", "latex": "tex"}
    yield [*LENS, "table", str(out / "runs"), *flags({kind: out / f"table.{end}" for kind, end in kinds.items()})]


def only(section: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """A section with those of its models and data that are asked for; names that stand for several are spelt out."""
    chosen = dict(section)
    for kind, asked in (("models", config.models), ("data", config.data)):
        names = [one for name in section[kind] for one in PRESETS[kind].get(name, (name,))]
        chosen[kind] = [name for name in names if name in asked or not asked]
    return chosen


def flags(options: Mapping[str, Any]) -> list[str]:
    """Settings as a command takes them."""
    texts: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            texts.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            texts += [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
    return texts


def status(command: Sequence[str]) -> int:
    """Exit status of a command; an interruption is the command's own to end on."""
    with subprocess.Popen(command) as process:  # noqa: S603 - our own command
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise


if __name__ == "__main__":
    main(tyro.cli(Config))
