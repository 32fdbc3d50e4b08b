"""What units say, in words: texts that span their contributions, and how far chance would get with as many."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from residual_lens.activations import Rows, Store
from residual_lens.bases.assembling import analysed_units
from residual_lens.errors import InputError
from residual_lens.files import write_atomically
from residual_lens.spectral import somp
from residual_lens.text import Dictionary

KIND = "residual_lens.Descriptions"
FORMAT_VERSION = 1
LABEL = 5
"""So many first texts are a unit's label: what people read, and what is compared with chance."""
SIGNIFICANT = 0.05
"""Chance does as well as the dictionary in at most this share of draws, for a label to mean something."""
TIE_TOL = 1e-6
"""Shares of variance and cosines this close are equal: few texts span the same whatever their mirror image."""


@dataclass(frozen=True)
class AgainstChance:
    """A score, and the same score under random dictionaries."""

    score: float
    """With the dictionary."""
    mean: float
    """Under random ones."""
    sd: float
    """Their standard deviation."""
    p: float
    """`(1 + #{random ≥ score}) / (1 + #random)` (Phipson & Smyth 2010)."""

    @classmethod
    def of(cls, score: float, random: Sequence[float]) -> "AgainstChance":
        """The score among those of at least two random dictionaries."""
        draws = torch.tensor(random, dtype=torch.float64)
        # Draws that differ by rounding alone have reached it.
        reached = sum(draw >= score - TIE_TOL for draw in random)
        return cls(score, float(draws.mean()), float(draws.std()), (1 + reached) / (1 + len(random)))


@dataclass(frozen=True)
class Description:
    """Texts that stand for what a unit writes."""

    unit: str
    """Its name."""
    texts: tuple[str, ...]
    """In the order in which matching pursuit picked them; fewer than asked for where nothing was left to explain."""
    explained: tuple[float, ...]
    """Share of the unit's variance that the texts up to each one explain together."""
    fit: AgainstChance
    """Share of the variance that the first five texts explain."""
    coherence: AgainstChance
    """Mean cosine between the first five texts, centred on the dictionary's mean: whether they speak of one thing."""

    @property
    def means_something(self) -> bool:
        """Whether random dictionaries rarely explain the unit as well; else the label is the luck of many tries."""
        return self.fit.p <= SIGNIFICANT

    def explained_by(self, n_texts: int) -> float:
        """Share of the variance that the first texts explain, 0 where there are none.

        Args:
            n_texts: how many, at least one; all that there are, if they are fewer.
        """
        return _share(self.explained, n_texts)


@dataclass(frozen=True)
class Descriptions:
    """Descriptions of units, and what they were made from."""

    by_unit: Mapping[str, Description]
    """In the order of the model."""
    provenance: Mapping[str, Any]
    """Of the store, its samples, the dictionary, and the settings."""

    def __getitem__(self, unit: str) -> Description:
        if unit not in self.by_unit:
            raise InputError(f"There is no description of {unit!r}, only of {', '.join(self.by_unit)}.")
        return self.by_unit[unit]

    def __iter__(self) -> Iterator[Description]:
        return iter(self.by_unit.values())

    def __len__(self) -> int:
        return len(self.by_unit)

    def save(self, path: str | Path) -> None:
        """Write one JSON file, whole or not at all."""
        path = Path(path)
        values = {
            "kind": KIND,
            "format": FORMAT_VERSION,
            "provenance": dict(self.provenance),
            "descriptions": [asdict(description) for description in self],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, f"{json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)}\n".encode())

    @classmethod
    def load(cls, path: str | Path) -> "Descriptions":
        """Read what `save` wrote.

        Raises:
            InputError: missing, no JSON, or another kind or format of file.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"There is no file {path}: give one that Descriptions.save wrote.")
        try:
            values = json.loads(path.read_bytes())
        except ValueError as error:
            raise InputError(f"{path} is not JSON: {error}.") from error
        header = values if isinstance(values, dict) else {}
        if (header.get("kind"), header.get("format")) != (KIND, FORMAT_VERSION):
            raise InputError(
                f"{path} holds kind={header.get('kind')!r}, format={header.get('format')!r}; expected kind={KIND!r}, "
                f"format={FORMAT_VERSION}."
            )
        try:
            return cls({one["unit"]: _description(one) for one in values["descriptions"]}, values["provenance"])
        except (KeyError, TypeError) as error:
            raise InputError(f"{path} lacks fields or has others, so it was changed: {error}.") from error


@torch.no_grad()
def describe(
    store: Store,
    dictionary: Dictionary,
    units: str | Iterable[str] = "heads",
    n_atoms: int = 20,
    *,
    rows: Rows = None,
    n_null: int = 39,
    seed: int = 0,
    progress: bool = False,
) -> Descriptions:
    """Describe units by the texts that explain most of what they write, and say which descriptions are chance.

    The texts are picked by simultaneous orthogonal matching pursuit (`somp`) on the unit's direct contributions. Some
    atoms out of thousands explain some variance of anything, so that a list of words comes out of noise as well.
    Therefore the pursuit is run again with random dictionaries, and two scores of the first five picks are compared:

    * `fit`, the share of the variance that they explain. A unit whose fit random dictionaries reach in more than one of
      20 draws has a label that means nothing (`means_something`).
    * `coherence`, `mean_{i<j} cos(d_i − m, d_j − m)`, m being the dictionary's mean: whether the label has one theme. A
      unit may write about unrelated things, so that this is no ground for dismissing a label.

    A random dictionary is the real one mirrored at random along its principal axes (`mirrored`): it has the same size,
    the same angles between its atoms, as much of them in every direction, and its words elsewhere. Weaker opponents
    call chance meaning: embeddings of texts share a mean, lie in few directions and in clusters, so that they explain
    more of anything written there than even directions do, and more than Gaussian vectors with their mean and
    covariance. A unit that writes Gaussian mixtures of all words, or evenly into a random subspace, is as likely as its
    mirror image, so that p is exact for it: of such units one in 20 passes. A unit that writes along one principal axis
    and nothing else has no meaning by this test, since mirrored words reach as far along it.

    It takes `1 + n_null` pursuits a unit.

    Args:
        store: an activation store.
        dictionary: texts embedded by the same model.
        units: which units (`Units.select`); `bias`, which no unit writes, is left out of "all" and refused by name.
        n_atoms: texts a unit, at most; no more than the dictionary has.
        rows: which samples; all by default.
        n_null: random dictionaries, at least 19, since p is at least `1 / (1 + n_null)`.
        seed: of the random dictionaries.
        progress: show a progress bar.

    Returns:
        A description of each unit, in the order of the model. A unit that does not vary has no texts and scores of 0.

    Raises:
        InputError: no such units or rows, fewer than two samples, numbers out of range.
        MismatchError: a dictionary of another model.
        StoreError: what is read is damaged.

    Example:
        >>> with Store("digits.h5") as store:  # doctest: +SKIP
        ...     describe(store, Dictionary.of_attributes(hvit))["L5H2"].texts[:3]
        ('navy', 'black', 'brown')
    """
    require_numbers(n_atoms, n_null)
    names = [unit.name for unit in analysed_units(store.units, units)]
    n_samples = len(store.inverse_scales(rows))
    if n_samples < 2:
        raise InputError(f"Descriptions need at least two samples, got {n_samples} of {store.path}.")
    dictionary.require_space(store.layout.d_out, store.provenance.model, store.provenance.model_fingerprint)
    n_picks = min(n_atoms, len(dictionary))
    n_label = min(LABEL, n_picks)

    with tqdm(total=len(names) * (1 + n_null), desc="describing", unit="pursuit", disable=not progress) as bar:

        def pursued(unit: str, atoms: Float[Tensor, "atom d_out"], n_picks: int) -> tuple[list[int], list[float]]:
            bar.update()
            x, frame = store.coordinates(unit, rows)
            found = somp(x, atoms, n_picks, frame=frame)
            return found.indices.tolist(), found.explained_variance.tolist()

        def scores(atoms: Float[Tensor, "atom d_out"], found: tuple[list[int], list[float]]) -> tuple[float, float]:
            return _share(found[1], n_label), coherence(atoms, found[0][:n_label])

        real = {unit: pursued(unit, dictionary.embeddings, n_picks) for unit in names}
        random: dict[str, list[tuple[float, float]]] = {unit: [] for unit in names}
        for atoms in mirrored(dictionary.embeddings, n_null, seed):
            for unit in names:
                random[unit].append(scores(atoms, pursued(unit, atoms, n_label)))
    by_unit = {}
    for unit, found in real.items():
        both = zip(scores(dictionary.embeddings, found), zip(*random[unit], strict=True), strict=True)
        texts = tuple(dictionary.texts[pick] for pick in found[0])
        by_unit[unit] = Description(unit, texts, tuple(found[1]), *(AgainstChance.of(*one) for one in both))
    about = {"store": store.provenance.as_json(), "dictionary": dict(dictionary.provenance)}
    settings = {"n_texts": len(dictionary), "n_samples": n_samples, "n_atoms": n_atoms, "n_null": n_null, "seed": seed}
    return Descriptions(by_unit, {**about, **settings, "version": version("residual_lens")})


def require_numbers(n_atoms: int, n_null: int) -> None:
    """Refuse what `describe` would, before dictionaries are embedded.

    Args:
        n_atoms: texts a unit.
        n_null: random dictionaries.

    Raises:
        InputError: too few of either.
    """
    if n_atoms < 1 or n_null < 1 / SIGNIFICANT - 1:
        raise InputError(f"Expected n_atoms of at least 1 and n_null of at least 19, got {n_atoms} and {n_null}.")


def mirrored(embeddings: Float[Tensor, "atom d_out"], n: int, seed: int) -> Iterator[Float[Tensor, "atom d_out"]]:
    """Random mirror images of a dictionary: `D V diag(±1) Vᵀ`, V being the eigenvectors of `DᵀD`, the signs drawn.

    `D Dᵀ` and `DᵀD` stay as they are, exactly: the angles between atoms, and how much of them lies in which direction.

    Args:
        embeddings: the dictionary.
        n: how many.
        seed: of the signs.

    Returns:
        Dictionaries one by one, in the dtype of the first.
    """
    generator = torch.Generator().manual_seed(seed)
    exact = embeddings.double()
    axes = torch.linalg.eigh(exact.mT @ exact).eigenvectors
    along = exact @ axes
    for _ in range(n):
        signs = 2.0 * torch.randint(0, 2, (len(axes),), generator=generator) - 1
        yield (along * signs @ axes.mT).to(embeddings)


def coherence(embeddings: Float[Tensor, "atom d_out"], picks: Sequence[int]) -> float:
    """`mean_{i<j} cos(d_i − m, d_j − m)` of some atoms, m being the mean of all; 0 for fewer than two.

    Args:
        embeddings: the dictionary.
        picks: atoms.

    >>> coherence(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]), [0, 1, 2])
    -0.333...
    """
    n = len(picks)
    if n < 2:
        return 0.0
    centred = normalize(embeddings[list(picks)].double() - embeddings.double().mean(dim=0), dim=1)
    cosines = centred @ centred.mT
    return float((cosines.sum() - cosines.diagonal().sum()) / (n * (n - 1)))


def _share(explained: Sequence[float], n_texts: int) -> float:
    return explained[min(n_texts, len(explained)) - 1] if explained else 0.0


def _description(values: Mapping[str, Any]) -> Description:
    """What `asdict` gave."""
    scores = {name: AgainstChance(**values[name]) for name in ("fit", "coherence")}
    lists = {name: tuple(values[name]) for name in ("texts", "explained")}
    return Description(**{**values, **scores, **lists})
