"""Every method of the paper's tables, and more, by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from types import MappingProxyType
from typing import Literal

from residual_lens.bases import Bases, Basis
from residual_lens.errors import InputError, did_you_mean
from residual_lens.hooked import HookedViT
from residual_lens.interventions import Adapter, Path, ResiDual
from residual_lens.text import ZeroShotClassifier
from residual_lens.training.methods.coarse import Coarse
from residual_lens.training.methods.finetune import FineTune
from residual_lens.training.methods.lora import LoRA
from residual_lens.training.methods.options import Options
from residual_lens.training.methods.output import LinearAdapter, SpectralOutput, ZeroShot
from residual_lens.training.methods.probe import LinearProbe
from residual_lens.training.methods.saving import kind_of
from residual_lens.training.methods.svd import SingularValues

Make = Callable[[HookedViT, Bases | Basis | None, ZeroShotClassifier, Options], Adapter]
Needs = Literal["units", "embedding"]


@dataclass(frozen=True)
class Method:
    """One way to adapt a model to a task."""

    name: str
    """What it is called in commands and tables."""
    path: Path
    """What `train_adapter` and `attached` are given: `"direct"` or `"stream"`."""
    learning_rate: float | None
    """Of schedule-free AdamW; `None` where nothing is trained."""
    needs_bases: Needs | None
    """`"units"`: `make` takes the `Bases` of units; `"embedding"`: the `Basis` of whole embeddings."""
    cached: bool
    """Whether the frozen model's contributions, computed once, are all that training needs."""
    has_scales: bool
    """Whether `Adapter.scales` are what it trains, which l1 penalises."""
    options: tuple[str, ...]
    """Those of `Options` that `make` reads, besides the seed."""
    make: Make
    """The adapter before training, from model, bases, classifier and options."""


def method_named(name: str) -> Method:
    """A method of `METHODS`.

    Raises:
        InputError: there is none of that name.
    """
    if name not in METHODS:
        raise InputError(f"Unknown method {name!r}.{did_you_mean(name, METHODS)} Methods are {', '.join(METHODS)}.")
    return METHODS[name]


def _residual(variant: str) -> Make:
    """A ResiDual of the chosen units."""

    def make(hvit: HookedViT, bases: Bases | Basis | None, classifier: ZeroShotClassifier, options: Options) -> Adapter:
        return ResiDual.from_bases(
            _of_units(hvit, bases, options.units),
            variant=variant,
            scales=options.scales,
            explained_variance=options.explained_variance,
            keep_mean=options.keep_mean,
            seed=options.seed,
        )

    return make


def _of_units(hvit: HookedViT, bases: Bases | Basis | None, units: tuple[str, ...]) -> Bases:
    """Bases of the chosen units.

    Raises:
        InputError: no bases of units, or not of all that are chosen.
    """
    if not isinstance(bases, Bases):
        raise InputError(f"This method needs bases of units (fit_bases), got {type(bases).__name__}.")
    if not units:
        return bases
    return replace(bases, by_unit={unit.name: bases[unit.name] for unit in hvit.units.select(units)})


def _spectral_output(
    hvit: HookedViT, bases: Bases | Basis | None, classifier: ZeroShotClassifier, options: Options
) -> Adapter:
    if not isinstance(bases, Basis):
        raise InputError(f"This method needs the basis of embeddings (embedding_basis), got {type(bases).__name__}.")
    return SpectralOutput(bases, scales=options.scales, keep_mean=options.keep_mean, seed=options.seed)


def _cached(
    name: str,
    rate: float | None,
    make: Make,
    needs_bases: Needs | None = None,
    *,
    has_scales: bool = False,
    options: tuple[str, ...] = (),
) -> Method:
    return Method(name, "direct", rate, needs_bases, True, has_scales, options, make)


def _live(
    name: str,
    rate: float,
    make: Make,
    needs_bases: Needs | None = None,
    *,
    has_scales: bool = False,
    options: tuple[str, ...] = (),
) -> Method:
    return Method(name, "stream", rate, needs_bases, False, has_scales, options, make)


_OF_SCALES = ("scales", "keep_mean")
_OF_UNITS = ("units", *_OF_SCALES)


_ALL = (
    _cached("zero-shot", None, lambda hvit, bases, classifier, options: ZeroShot()),
    _cached(
        "coarse",
        Coarse.learning_rate,
        lambda hvit, bases, classifier, options: Coarse(hvit.cfg.n_layers, hvit.cfg.n_heads),
        has_scales=True,
    ),
    _cached(
        "residual*",
        ResiDual.learning_rate,
        _residual("residual*"),
        "units",
        has_scales=True,
        options=(*_OF_UNITS, "explained_variance"),
    ),
    _cached("residual", ResiDual.learning_rate, _residual("residual"), "units", has_scales=True, options=_OF_UNITS),
    _live(
        "residual-stream", ResiDual.learning_rate, _residual("residual"), "units", has_scales=True, options=_OF_UNITS
    ),
    _cached(
        "spectral-output",
        SpectralOutput.learning_rate,
        _spectral_output,
        "embedding",
        has_scales=True,
        options=_OF_SCALES,
    ),
    _cached(
        "linear",
        LinearAdapter.learning_rate,
        lambda hvit, bases, classifier, options: LinearAdapter(hvit.cfg.d_out),
    ),
    _cached(
        "linear-probe",
        LinearProbe.learning_rate,
        lambda hvit, bases, classifier, options: LinearProbe(classifier),
    ),
    _live(
        "lora",
        LoRA.learning_rate,
        lambda hvit, bases, classifier, options: LoRA(hvit, rank=options.rank, seed=options.seed),
        options=("rank",),
    ),
    _live("svd", SingularValues.learning_rate, lambda hvit, bases, classifier, options: SingularValues(hvit)),
    _live("finetune", FineTune.learning_rate, lambda hvit, bases, classifier, options: FineTune(hvit)),
)
METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _ALL})
"""All methods, in the order of tables."""

_OUTPUT = (ZeroShot, LinearAdapter, LinearProbe, SpectralOutput)
_BY_THEMSELVES = {each.__name__: each for each in (Coarse, ResiDual, *_OUTPUT)}
_OF_A_MODEL = {each.__name__: each for each in (LoRA, SingularValues, FineTune)}


def load_adapter(folder: str | FilePath, hvit: HookedViT) -> Adapter:
    """An adapter of any method, as its `save` wrote it.

    Args:
        folder: where.
        hvit: the model that it is for; it decides the device.

    Raises:
        InputError: no such folder, not an adapter, or damaged files.
        MismatchError: changed weights of another model. (Others say so when they are attached.)
    """
    kind = kind_of(folder)
    if kind in _OF_A_MODEL:
        return _OF_A_MODEL[kind].load(folder, hvit)
    if kind in _BY_THEMSELVES:
        return _BY_THEMSELVES[kind].load(folder).to(hvit.device)
    raise InputError(f"{folder} holds {kind!r}; adapters are {', '.join([*_BY_THEMSELVES, *_OF_A_MODEL])}.")
