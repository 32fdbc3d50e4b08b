"""The PCA of units' direct contributions, with what it belongs to."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from residual_lens.bases.saving import read_bases, write_bases
from residual_lens.decomposition import Center
from residual_lens.errors import InputError


@dataclass(frozen=True, eq=False)
class Basis:
    """The PCA of one unit's direct contributions."""

    mean: Float[Tensor, "d_out"]
    """Mean contribution μ."""
    components: Float[Tensor, "component d_out"]
    """Principal directions Φ: orthonormal rows, largest variance first."""
    variances: Float[Tensor, "component"]
    """Variance along each component."""
    total_variance: float
    """Sum over all directions, those left out of `components` included."""


@dataclass(frozen=True, eq=False, repr=False)
class Bases(Mapping[str, Basis]):
    """Bases by unit name, with what they belong to.

    Example:
        >>> import torch
        >>> from residual_lens import HookedViT, fit_bases
        >>> hvit = HookedViT.from_pretrained("attribute-clip")
        >>> images = torch.rand(64, 3, *hvit.cfg.image_size, generator=torch.Generator().manual_seed(0))
        >>> bases = fit_bases(hvit, hvit.normalize(images), units="L3")
        >>> bases["L3H5"].components.shape[0] == hvit.cfg.d_head + 1
        True
        >>> bases
        Bases(7 units L3H0 … 3_mlp_out of attribute-clip, center='own', 64 samples)
    """

    by_unit: Mapping[str, Basis]
    """The bases."""
    d_head: int
    """Width of one head: how many of a head's components "residual" rescales."""
    center: Center
    """Centring of the contributions they were fitted on."""
    scale: float
    """Harmonic mean of the final norm's σ over the samples: what turns contributions into stream terms."""
    n_samples: int
    """Samples they were fitted on."""
    model_name: str
    """Model they were fitted on."""
    fingerprint: str
    """Digest of its image tower's weights."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What else is known of the data, as JSON can hold it: data set, split, their fingerprints."""

    def __getitem__(self, name: str) -> Basis:
        if name not in self.by_unit:
            raise InputError(f"These bases have no unit {name!r}; they cover {', '.join(self.by_unit)}.")
        return self.by_unit[name]

    def __contains__(self, name: object) -> bool:
        return name in self.by_unit

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_unit)

    def __len__(self) -> int:
        return len(self.by_unit)

    def __repr__(self) -> str:
        names = list(self.by_unit)
        covered = f" {names[0]} … {names[-1]}" if len(names) > 1 else "".join(f" {name}" for name in names)
        return (
            f"Bases({len(names)} unit{'' if len(names) == 1 else 's'}{covered} of {self.model_name}, "
            f"center={self.center!r}, {self.n_samples:,} samples)"
        )

    def save(self, path: str | Path) -> None:
        """Write one HDF5 file, whole or not at all, which `load` and plain h5py read.

        Units of one shape lie together in a group: `mean` `[unit d_out]`, `components` `[unit component d_out]`,
        `variances` `[unit component]`, `total_variance` `[unit]`, and their names `units`. All else is
        JSON in `about`.

        Raises:
            InputError: provenance that JSON cannot hold.
        """
        about = {
            "units": list(self.by_unit),
            "d_head": self.d_head,
            "center": self.center,
            "scale": self.scale,
            "n_samples": self.n_samples,
            "model_name": self.model_name,
            "fingerprint": self.fingerprint,
            "provenance": dict(self.provenance),
        }
        write_bases(Path(path), about, {name: vars(basis) for name, basis in self.by_unit.items()})

    @classmethod
    def load(cls, path: str | Path) -> "Bases":
        """Read what `save` wrote, on the CPU.

        Raises:
            InputError: missing, another kind of file, a newer format, cut short or changed; the message names the file.
        """
        about, by_unit = read_bases(Path(path))
        names = about.pop("units")
        return cls({name: Basis(**by_unit[name]) for name in names}, **about)
