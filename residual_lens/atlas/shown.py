"""What a page shows of images: thumbnails of what the model sees, and where its heads look."""

import base64
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import cast

import torch
from einops import einsum
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import cosine_similarity
from tqdm import tqdm

from residual_lens.activations import Store
from residual_lens.data.images import ImageSet
from residual_lens.decomposition import TokenTerms
from residual_lens.errors import MismatchError
from residual_lens.figures.images import rows_of
from residual_lens.hooked import HookedViT
from residual_lens.units import Unit

SIDE = 64
"""Longest side of a thumbnail in pixels."""
QUALITY = 75
"""Of WebP."""
LEAST_COSINE = 0.999
"""Between an image's embedding and the stored one: other images are far below, rounding of any store is far above."""


@dataclass(frozen=True)
class Shown:
    """Images of a store for a page, by place in the store."""

    thumbnails: Mapping[int, str]
    """Data URIs."""
    attention: Mapping[str, Mapping[int, str]]
    """By head first: see `UnitEntry.attention`."""


@torch.no_grad()
def show(
    hvit: HookedViT,
    store: Store,
    images: ImageSet,
    by_unit: Mapping[str, Collection[int]],
    *,
    batch_size: int = 32,
    progress: bool = False,
) -> Shown:
    """Thumbnails of images, and heads' attention to their patches, in one forward pass an image.

    Attention `A` is that of the token that the embedding is read at. Where it is read at several, it is their mean
    `Σ_p w_p A[p]`, with the weights `w` that pooling and final norm read them with (see `TokenTerms`).

    Args:
        hvit: the model.
        store: what it made of the images.
        images: those of the store, all of them.
        by_unit: places in the store of what to show with each unit; only heads attend.
        batch_size: images in a forward pass.
        progress: show a progress bar.

    Raises:
        MismatchError: an image is not there, or has another embedding than the store says.
        CorruptImageError: an image cannot be read.
    """
    heads = {name: frozenset(places) for name, places in by_unit.items() if Unit.named(name).kind == "head"}
    every = sorted({place for places in by_unit.values() for place in places})
    rows = rows_of(store, images, every)
    thumbnails: dict[int, str] = {}
    attention: dict[str, dict[int, str]] = {name: {} for name in heads}
    for start in tqdm(range(0, len(every), batch_size), desc="images", unit="batch", disable=not progress):
        places = every[start : start + batch_size]
        pixels = hvit.preprocess([images[rows[place]][0] for place in places])
        thumbnails |= zip(places, map(_data_uri, _pictures(hvit, pixels)), strict=True)
        run = hvit.stream(pixels, "own", tokens=True)
        _check_embeddings(store, places, run.embedding)
        layers = _attention(hvit, cast(TokenTerms, run.tokens))
        for name, wanted in heads.items():
            unit = Unit.named(name)
            of_head = layers[cast(int, unit.layer)][:, cast(int, unit.index)].numpy()
            here = [(at, place) for at, place in enumerate(places) if place in wanted]
            attention[name] |= {place: base64.b64encode(of_head[at].tobytes()).decode() for at, place in here}
    return Shown(thumbnails, attention)


def _check_embeddings(store: Store, places: Sequence[int], embeddings: Float[Tensor, "batch d_out"]) -> None:
    cosines = cosine_similarity(embeddings.float().cpu(), store.embeddings(places), dim=1)
    worst = int(cosines.argmin())
    if not cosines[worst] >= LEAST_COSINE:
        raise MismatchError(
            f"{store.sample_ids[places[worst]]} of {store.path} is another image than the one that was encoded: their "
            f"embeddings have a cosine of {float(cosines[worst]):.3f}. Give the data that the store was made from."
        )


def _attention(hvit: HookedViT, tokens: TokenTerms) -> list[UInt8[Tensor, "batch head patch"]]:
    """By layer; the largest over an image's patches is 255."""
    weights = tokens.readout.weights
    layers = []
    for pattern in tokens.patterns:
        read = einsum(weights, pattern.to(weights), "batch route kept, batch kept head pos -> batch head pos")
        patches = read[:, :, hvit.cfg.n_prefix :]
        layers.append((255 * patches / patches.amax(dim=-1, keepdim=True)).round().to("cpu", torch.uint8))
    return layers


def _pictures(hvit: HookedViT, pixels: Float[Tensor, "batch 3 height width"]) -> list[Image.Image]:
    """What the model sees: cut and scaled as it was preprocessed."""
    mean, std = (pixels.new_tensor(x)[:, None, None] for x in (hvit.preprocessing.mean, hvit.preprocessing.std))
    levels = ((pixels * std + mean).float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    pictures = [Image.fromarray(image.movedim(0, -1).numpy()) for image in levels]
    for picture in pictures:
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return pictures


def _data_uri(picture: Image.Image) -> str:
    file = BytesIO()
    picture.save(file, "WEBP", quality=QUALITY, method=6)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
