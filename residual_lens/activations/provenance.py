"""What a store was made from, and whether that is what it is used with."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from residual_lens.errors import MismatchError


@dataclass(frozen=True)
class Provenance:
    """Everything that decides a store's contents."""

    model: str
    """Name of the model."""
    model_fingerprint: str
    """Digest of its image tower's weights and wiring."""
    model_dtype: str
    """What it computes in."""
    pooling: str
    """How tokens become one vector."""
    center: str
    """Centring of contributions."""
    preprocessing: Mapping[str, Any]
    """What was done to images."""
    data: str
    """Name of the data set."""
    split: str
    """Its split."""
    data_fingerprint: str
    """Digest of its samples' ids and labels."""
    classes: tuple[str, ...]
    """Class words; none for data without labels."""
    n_samples: int
    """Samples of the split."""
    value_format: str
    """How values lie on disk."""
    batch_size: int
    """Images in a forward pass: products of other sizes round differently."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of residual_lens and torch, for the record: no ground for refusal."""

    def as_json(self) -> dict[str, Any]:
        """Plain values, as they are after a trip through JSON."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> "Provenance":
        """What `as_json` gave."""
        return cls(**{**values, "classes": tuple(values["classes"])})

    def require(self, other: "Provenance", what: str, remedy: str) -> None:
        """Refuse to go on with something else.

        Raises:
            MismatchError: names each field that differs, with both values.
        """
        mine, theirs = self.as_json(), other.as_json()
        del mine["versions"], theirs["versions"]
        if self.model_fingerprint == other.model_fingerprint:
            # One model may go by several names.
            del mine["model"], theirs["model"]
        if mine != theirs:
            raise MismatchError(f"{what}: {'; '.join(_differences(mine, theirs))}. {remedy}")


def _differences(mine: Mapping[str, Any], theirs: Mapping[str, Any], inside: str = "") -> Iterator[str]:
    """Each field that differs, those of fields that have some of their own included."""
    for name in {**mine, **theirs}:
        a, b = mine.get(name), theirs.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from _differences(a, b, f"{inside}{name}.")
        elif a != b:
            yield f"{inside}{name} is {_short(a)}, not {_short(b)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
