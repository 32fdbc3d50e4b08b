"""Coordinates that an adapter's scales multiply, computed once: a training step is then two products."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from beartype import beartype
from jaxtyping import Float, Int, Shaped, jaxtyped
from torch import Tensor

from residual_lens.activations import Rows, Store
from residual_lens.errors import InputError, MismatchError
from residual_lens.hooked import HookedViT
from residual_lens.interventions import Adapter
from residual_lens.interventions.adapter import CachedForm
from residual_lens.training.cached.contributions import Contributions, OfMemory, OfStore
from residual_lens.training.cached.plan import Plan
from residual_lens.training.cached.samples import CachedSamples
from residual_lens.training.cached.tensor_file import Write, mapped, writing

DTYPES = (torch.float32, torch.bfloat16, torch.float64)


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Samples as an adapter sees them on the direct path: `e' = base + (values ⊙ λ[index]) @ directions`."""

    base: Float[Tensor, "sample d_out"]
    """What no scale multiplies; float32 beside values of bfloat16."""
    values: Float[Tensor, "sample component"]
    """Coordinates; of an output adapter none."""
    directions: Float[Tensor, "component d_out"]
    """What a coordinate of 1 adds to the embedding."""
    index: Int[Tensor, "component"]
    """Place of each coordinate's scale in `adapter.scales`, flattened."""
    labels: Int[Tensor, "sample"]
    """Class indices."""
    fingerprint: str | None = None
    """Digest of the model's weights, where it is known."""

    def __len__(self) -> int:
        return len(self.labels)

    def embed(self, adapter: Adapter, rows: Int[Tensor, "batch"]) -> Float[Tensor, "batch d_out"]:
        """Edited embeddings of some samples, differentiable in the adapter's parameters."""
        embedding = self.base.index_select(0, rows)
        if len(self.index):
            scales = adapter.scales.flatten()
            # A twentieth to a tenth of a step, most of it in the gradient.
            scales = scales if self._one_each and len(scales) == len(self.index) else scales[self.index]
            scaled = (self.values.index_select(0, rows) * scales).to(self.values.dtype)
            # Autocast would round the base as well.
            if scaled.dtype == embedding.dtype and not torch.is_autocast_enabled(scaled.device.type):
                embedding = torch.addmm(embedding, scaled, self.directions)
            else:
                embedding = embedding + scaled @ self.directions
        return adapter.mapped(embedding)

    @cached_property
    def _one_each(self) -> bool:
        """Whether coordinates stand in the order of the scales, each with one of its own."""
        return torch.equal(self.index, torch.arange(len(self.index), device=self.index.device))

    def require_model(self, hvit: HookedViT) -> None:
        """Refuse another model than the one that the coordinates are of.

        Raises:
            MismatchError: width or fingerprint differ.
        """
        if self.base.shape[1] != hvit.cfg.d_out:
            raise MismatchError(
                f"d_out is {self.base.shape[1]} of these coordinates, {hvit.cfg.d_out} of {hvit.cfg.model_name}: "
                "compute them from a store of this model."
            )
        actual = hvit.fingerprint()
        if self.fingerprint not in (None, actual):
            raise MismatchError(
                f"model_fingerprint is {self.fingerprint[:16]} of these coordinates, {actual[:16]} of "
                f"{hvit.cfg.model_name}: compute them from a store of this model."
            )


@jaxtyped(typechecker=beartype)
@torch.no_grad()
def coordinates(
    adapter: Adapter,
    source: Store | CachedSamples,
    *,
    rows: Rows = None,
    labels: Int[Tensor, "_"] | None = None,
    dtype: torch.dtype = torch.float32,
    file: str | Path | None = None,
    progress: bool = False,
) -> Coordinates:
    """What an adapter's scales multiply, for every sample, in one streaming pass.

    With a unit's contribution `x`, mean `μ` and directions `Φ`, its coordinates are `(x − μ) Φᵀ`, computed in float64
    (of a store's heads by one small matrix, without making `x`). The base is the embedding less what the coordinates
    give with scales of 1, or, for "residual*", only the means that are kept.

    Args:
        adapter: whose scales are to be trained; their values do not matter.
        source: a store of the model, or samples cached in memory.
        rows: which samples, in any order; all by default.
        labels: one for each of `rows`; the source's own by default.
        dtype: of values and directions. bfloat16 takes half the memory, and less time where the processor multiplies
            it; each coordinate is then rounded to 8 bits, and embeddings likewise where scales are not 1.
        file: keep what is computed in this safetensors file, and read it through a memory map: for values that do not
            fit in memory. A file that holds the same already is used as it is. What was interrupted leaves no file.
        progress: show a progress bar.

    Returns:
        On the CPU.

    Raises:
        InputError: an adapter that is trained live, no such rows, no samples, not one label each, samples without a
            label (−1), or contributions that are not finite.
        MismatchError: the adapter does not belong to the model that the contributions are of, or the file holds
            something else.
        StoreError: what is read of a store is damaged.

    Example:
        >>> from residual_lens import HookedViT, ResiDual, fit_bases
        >>> from residual_lens.training import cache_samples
        >>> hvit = HookedViT.from_pretrained("attribute-clip")
        >>> images = torch.rand(40, 3, *hvit.cfg.image_size, generator=torch.Generator().manual_seed(0))
        >>> adapter = ResiDual.from_bases(fit_bases(hvit, images), keep_mean=True, scales="ones")
        >>> cached = coordinates(adapter, cache_samples(hvit, images, torch.arange(40) % 2))
        >>> torch.allclose(cached.embed(adapter, torch.arange(3)), hvit(images[:3]), atol=1e-4)
        True
    """
    of = OfStore(source) if isinstance(source, Store) else OfMemory(source)
    form = _form(adapter, of)
    if dtype not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}.")
    # torch takes no array with a negative stride, such as a reversed slice gives.
    places = np.ascontiguousarray(of.places(rows))
    chosen = _checked_labels(of, places, labels)
    plan = Plan.of(form, of, dtype)
    shapes = plan.shapes(len(places))

    def fill(write: Write) -> None:
        for name, tensor in (("directions", plan.directions), ("index", plan.index), ("labels", chosen)):
            write(name, 0, tensor)
        plan.write_samples(of, places, write, progress=progress)

    if file is None:
        tensors = {name: torch.empty(shape, dtype=kind) for name, (kind, shape) in shapes.items()}
        fill(partial(_put, tensors))
    else:
        digest = plan.digest(of, places, chosen)
        path = Path(file)
        if not path.exists():
            with writing(path, shapes, digest) as write:
                fill(write)
        tensors = mapped(path, digest)
    return Coordinates(**tensors, fingerprint=of.origin.fingerprint)


def width(adapter: Adapter, source: Store | CachedSamples) -> int:
    """Columns of `Coordinates.values`, known before they are computed.

    Raises:
        InputError, MismatchError: see `coordinates`.
    """
    of = OfStore(source) if isinstance(source, Store) else OfMemory(source)
    return Plan.width(_form(adapter, of), of)


def _form(adapter: Adapter, of: Contributions) -> CachedForm:
    form = adapter.cached_form(of.origin)
    if form is None:
        raise InputError(
            f"{type(adapter).__name__} changes more than direct contributions tell of: train it live, on images."
        )
    return form


def _put(tensors: Mapping[str, Tensor], name: str, row: int, rows: Shaped[Tensor, "row *rest"]) -> None:
    tensors[name][row : row + len(rows)] = rows


def _checked_labels(
    of: Contributions, places: Int[np.ndarray, "_"], labels: Int[Tensor, "_"] | None
) -> Int[Tensor, "sample"]:
    if len(places) == 0:
        raise InputError("No samples were chosen: the split is empty.")
    found = of.labels[torch.from_numpy(places)] if labels is None else labels.cpu()
    if len(found) != len(places):
        raise InputError(f"Expected one label a sample, got {len(found)} labels for {len(places)} samples.")
    if int(found.min()) < 0:
        raise InputError(
            f"{int((found < 0).sum())} of {len(found)} samples have no label (they have −1): leave them out with rows="
            ", or give labels=."
        )
    return found.long()
