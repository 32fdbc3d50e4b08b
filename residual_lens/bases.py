"""Principal bases of a model's units, and the pass over images that fits them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from residual_lens.decomposition import Center
from residual_lens.errors import InputError, MismatchError
from residual_lens.hooked import HookedViT
from residual_lens.spectral import StreamingPCA


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


@dataclass(frozen=True, eq=False)
class Bases(Mapping[str, Basis]):
    """Bases by unit name, with what they belong to.

    Example:
        >>> hvit = HookedViT.from_pretrained("attribute-clip")
        >>> images = torch.rand(64, 3, *hvit.cfg.image_size, generator=torch.Generator().manual_seed(0))
        >>> bases = fit_bases(hvit, hvit.normalize(images), units="L3")
        >>> bases["L3H5"].components.shape[0] == hvit.cfg.d_head + 1
        True
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


@torch.no_grad()
def fit_bases(
    hvit: HookedViT,
    images: Float[Tensor, "batch 3 height width"] | Iterable[Float[Tensor, "_ 3 height width"]],
    *,
    units: str | Iterable[str] = ("heads", "mlps"),
    batch_size: int = 256,
    progress: bool = False,
) -> Bases:
    """Principal bases of units' direct contributions, exact, in one streaming pass.

    Heads are fitted in their low-rank coordinates (`HeadFrames`): the same components and variances as those of their
    `d_out`-dimensional contributions.

    Args:
        hvit: the model.
        images: one tensor, or an iterable of batches for data that does not fit in memory; normalised.
        units: which units (`Units.select`); `bias`, which no unit writes, is left out of "all" and refused by name.
        batch_size: images per forward pass where one tensor is given.
        progress: show a progress bar.

    Returns:
        In float32 on the model's device. A head has `d_head + 1` components ("own"), another unit `d_out`.

    Raises:
        InputError: no or unknown units, fewer than two images, or images that the model refuses.
        MismatchError: hooks in force that bases would not show (direct points) or that no unit owns (see `decompose`).
    """
    if any(direct.point.is_hooked for direct in hvit.direct_points(hvit.center)):
        raise MismatchError(
            "A direct hook is in force, and bases are fitted on contributions before direct hooks: leave its context."
        )
    chosen = [unit for unit in hvit.units.select(units) if units != "all" or unit.kind != "bias"]
    if not chosen:
        raise InputError("No units were named: give 'heads', 'mlps', a layer like 'L3' or units' names.")
    if any(unit.kind == "bias" for unit in chosen):
        raise InputError("The unit 'bias' is what no unit writes, and is not analysed: leave it out.")
    frames = hvit.head_frames()
    pca_heads, pca_others = StreamingPCA(), StreamingPCA()
    others = [unit for unit in chosen if unit.kind != "head"]
    has_heads = len(others) < len(chosen)
    inverse_scale = torch.zeros((), dtype=torch.float64)
    count = 0
    batches = images.split(batch_size) if isinstance(images, Tensor) else images
    for batch in tqdm(batches, desc="fitting bases", unit="batch", disable=not progress):
        terms = hvit.extract(batch)
        if has_heads:
            pca_heads.partial_fit(frames.coordinates(terms.head_features().double()))
        if others:
            pca_others.partial_fit(torch.stack([terms.contribution(unit) for unit in others], dim=1))
        # One route's weights sum to the pooled 1/σ; attention pooling has several, each a pattern over the tokens.
        inverse_scale += terms.readout.weights.sum(dim=-1).mean(dim=1).double().sum().cpu()
        count += len(batch)
    if count < 2:
        raise InputError(f"fit_bases needs at least two images, got {count}.")
    by_unit = {unit.name: _basis(pca_others, i, None) for i, unit in enumerate(others)}
    for unit in chosen:
        if unit.kind == "head":
            i = frames.units.index(unit.name)
            by_unit[unit.name] = _basis(pca_heads, i, frames.frames[i])
    ordered = {unit.name: by_unit[unit.name] for unit in chosen}
    scale = float(count / inverse_scale)
    return Bases(ordered, hvit.cfg.d_head, hvit.center, scale, count, hvit.cfg.model_name, hvit.fingerprint())


def _basis(pca: StreamingPCA, index: int, frame: Float[Tensor, "rank d_out"] | None) -> Basis:
    mean, components = pca.mean_[index], pca.components_[index]
    if frame is not None:
        mean, components = mean @ frame, components @ frame
    return Basis(
        mean=mean.float(),
        components=components.float(),
        variances=pca.explained_variance_[index].float(),
        total_variance=float(pca.total_variance_[index]),
    )
