"""Principal bases from a model that runs over images."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from residual_lens.bases.assembling import analysed_units, bases_of_moments
from residual_lens.bases.basis import Bases
from residual_lens.errors import InputError, MismatchError
from residual_lens.hooked import HookedViT
from residual_lens.spectral import StreamingPCA

Images = Float[Tensor, "batch 3 height width"] | Iterable[Float[Tensor, "_ 3 height width"]]


def bases_of_images(
    hvit: HookedViT, images: Images, units: str | Iterable[str], *, batch_size: int, progress: bool
) -> Bases:
    """See `fit_bases`."""
    if any(direct.point.is_hooked for direct in hvit.direct_points(hvit.center)):
        raise MismatchError(
            "A direct hook is in force, and bases are fitted on contributions before direct hooks: leave its context."
        )
    chosen = analysed_units(hvit.units, units)
    others = [unit for unit in chosen if unit.kind != "head"]
    frames = hvit.head_frames()
    places = [frames.units.index(unit.name) for unit in chosen if unit.kind == "head"]
    heads_pca, others_pca = StreamingPCA(), StreamingPCA()
    inverse_scale = torch.zeros((), dtype=torch.float64)
    count = 0
    batches = images.split(batch_size) if isinstance(images, Tensor) else images
    for batch in tqdm(batches, desc="fitting bases", unit="batch", disable=not progress):
        terms = hvit.extract(batch)
        if places:
            heads_pca.partial_fit(terms.head_features()[:, places])
        if others:
            others_pca.partial_fit(torch.stack([terms.contribution(unit) for unit in others], dim=1))
        # One route's weights sum to the pooled 1/σ; attention pooling has several, each a pattern over the tokens.
        inverse_scale += terms.readout.weights.sum(dim=-1).mean(dim=1).double().sum().cpu()
        count += len(batch)
    if count < 2:
        raise InputError(f"fit_bases needs at least two images, got {count}.")
    return bases_of_moments(
        chosen,
        heads=heads_pca,
        frames=frames,
        others=others_pca,
        d_head=hvit.cfg.d_head,
        center=hvit.center,
        scale=float(count / inverse_scale),
        model_name=hvit.cfg.model_name,
        fingerprint=hvit.fingerprint(),
    )
