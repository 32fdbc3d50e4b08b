"""Activation patching between images: which activation carries the difference between two inputs."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import ActivationCache
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities.components_utils import get_act_name

from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.hooked.cache.axes import activation_axes
from residual_lens.hooked.cache.lookup import NotCachedError, how_to_cache
from residual_lens.hooked.checks import Images, check_images

Metric = Callable[[Float[Tensor, "batch d_out"]], Tensor | float]


@torch.no_grad()
def activation_patch(
    hvit: HookedViT,
    corrupted_images: Images,
    clean_cache: ActivationCache,
    metric: Metric,
    *,
    hook: str = "z",
    index: str | Sequence[str] = ("layer", "head"),
    only: Mapping[str, Sequence[int]] | None = None,
    progress: bool = False,
) -> Float[Tensor, "..."]:
    """A metric of the corrupted images' embeddings after each patch of an activation from the clean images.

    For every entry `i` of `index`, the corrupted images run with `activation[i]` replaced by the clean run's, and all
    that follows responds (Meng et al. 2022, arXiv 2202.05262; Heimersheim & Nanda 2024, arXiv 2404.15255). Compare with
    `metric(hvit(corrupted))` and `metric(hvit(clean))`. TransformerLens' `patching` does the same for token models.

    Args:
        hvit: the model, in eval mode.
        corrupted_images: images to patch into, as for `hvit(images)`.
        clean_cache: from `hvit.run_with_cache` on as many clean images, partners of the corrupted ones.
        metric: embeddings `[batch d_out]` to a number, or to a tensor such as one number an image.
        hook: what to patch: TransformerLens' short name of an activation in blocks ("z", "q", "k", "v", "pattern",
            "resid_pre", "attn_out", "mlp_out", "attn.hook_direct", ...), or the full name of one hook point
            ("hook_pooled", "blocks.3.attn.hook_z"), whose index then has no "layer".
        index: axes of the map, in this order: "layer" and axes of the activation ("pos", "head", "neuron"; for patterns
            "head", "dest_pos", "src_pos"). Axes that are left out are patched whole; `()` is one patch of everything.
        only: entries of an axis that take part, all by default. `only={"pos": [0]}` patches the class token alone.
        progress: whether to show a progress bar.

    Returns:
        `[*index]`, then what axes the metric has. One forward pass an entry.

    Raises:
        InputError: no such hook point or axis, entries out of range, another number of images, a cache that was cut to
            some positions, a metric of changing shape, or a model in train mode.
        NotCachedError: the cache lacks a hook point to patch from, with the filter that caches it.

    Example:
        >>> from residual_lens import HookedViT, activation_patch
        >>> hvit = HookedViT.from_pretrained("attribute-clip")
        >>> clean, corrupted = torch.rand(2, 1, 3, *hvit.cfg.image_size, generator=torch.Generator().manual_seed(0))
        >>> target, cache = hvit.run_with_cache(clean, names_filter=lambda name: name.endswith("hook_z"))
        >>> def distance(embedding):
        ...     return (embedding - target).norm()
        >>> effect = activation_patch(hvit, corrupted, cache, distance) - distance(hvit(corrupted)).detach()
        >>> effect.shape == (hvit.cfg.n_layers, hvit.cfg.n_heads)
        True
        >>> by_token = activation_patch(
        ...     hvit, corrupted, cache, distance, index=("layer", "pos"), only={"layer": [5], "pos": [0, 1]}
        ... )
        >>> list(by_token.shape)
        [1, 2]
    """
    swept = (index,) if isinstance(index, str) else tuple(index)
    names = _hook_names(hvit, hook, swept)
    only = dict(only or {})
    layers = _entries("layer", only.pop("layer", None), len(names)) if "layer" in swept else [0]
    clean = _clean_activations([names[layer] for layer in layers], clean_cache)
    _check_run(hvit, corrupted_images, clean[names[layers[0]]])
    regions = _regions(names[layers[0]], clean[names[layers[0]]], swept, only)
    shape = [len(layers) if axis == "layer" else len(regions[axis]) for axis in swept]
    places = product(*(layers if axis == "layer" else regions[axis] for axis in swept))
    results: list[Tensor] = []
    for place in tqdm(places, total=math.prod(shape), disable=not progress, desc=hook):
        at = dict(zip(swept, place, strict=True))
        name = names[at.pop("layer", 0)]
        mask = _mask(clean[name], regions | {axis: [entry] for axis, entry in at.items()})
        with hvit.hooks([(name, _patch(clean[name], mask))]):
            embedding = hvit(corrupted_images)
        # Outside, because a metric may run the model itself.
        results.append(torch.as_tensor(metric(embedding)))
        if results[-1].shape != results[0].shape:
            shapes = [list(result.shape) for result in (results[0], results[-1])]
            raise InputError(f"The metric gave shape {shapes[0]} and then {shapes[1]}: it must keep its shape.")
    values = torch.stack(results)
    return values.reshape([*shape, *values.shape[1:]])


def _hook_names(hvit: HookedViT, hook: str, swept: tuple[str, ...]) -> list[str]:
    """The hook point in every layer, or the one whose full name is given."""
    if "layer" not in swept:
        if hook not in hvit.hook_dict and any(name in hvit.hook_dict for name in _in_block(hook, 0)):
            raise InputError(f"{hook!r} is an activation of every block: give its full name, or index with 'layer'.")
        return hvit.names_of(hook)
    for candidate in range(2):
        names = [_in_block(hook, layer)[candidate] for layer in range(hvit.cfg.n_layers)]
        # Shorthand with a layer of its own ("z3") would name one hook point for all layers.
        if all(name in hvit.hook_dict for name in names) and len(set(names)) == len(names):
            return names
    known = sorted({name.split(".", 2)[2] for name in hvit.hook_dict if name.startswith("blocks.0.")})
    raise InputError(
        f"{hook!r} names no activation of every block, which index={swept!r} asks for. Short names are 'z', 'pattern', "
        f"'resid_pre'; in full: {', '.join(known)}. Leave 'layer' out to patch one hook point by its full name."
    )


def _in_block(hook: str, layer: int) -> tuple[str, str]:
    return f"blocks.{layer}.{hook}", get_act_name(hook, layer)


def _clean_activations(names: Sequence[str], cache: ActivationCache) -> dict[str, Float[Tensor, "batch *rest"]]:
    """What to patch from, with a batch axis."""
    missing = [name for name in names if name not in cache.cache_dict]
    if missing:
        raise NotCachedError(how_to_cache(missing, names))
    return {name: cache[name] if cache.has_batch_dim else cache[name][None] for name in names}


def _check_run(hvit: HookedViT, images: Images, clean: Float[Tensor, "batch *rest"]) -> None:
    """Refuse runs that cannot be compared."""
    check_images(images, hvit.cfg, hvit.dtype, hvit.device)
    if len(images) != len(clean):
        raise InputError(
            f"Got {len(images)} corrupted images and a cache of {len(clean)} clean ones: patching goes from image to "
            "image, so give each corrupted image its clean partner."
        )
    if hvit.training:
        raise InputError("The model is in train mode, where dropout would change the map: call hvit.eval() first.")


def _regions(
    name: str, clean: Float[Tensor, "batch *rest"], swept: tuple[str, ...], only: Mapping[str, Sequence[int]]
) -> dict[str, list[int]]:
    """Entries that take part, of every axis of the activation in order."""
    axes = activation_axes(name, clean.ndim)
    unknown = [axis for axis in (*swept, *only) if axis not in axes and (axis != "layer" or axis in only)]
    if unknown or len(set(swept)) < len(swept):
        raise InputError(
            f"index={swept!r}, only={dict(only)!r}: {name} has the axes {', '.join(axes) or '(none)'}; index takes "
            "each at most once, and 'layer' where the hook is named in short."
        )
    return {axis: _entries(axis, only.get(axis), size) for axis, size in zip(axes, clean.shape[1:], strict=False)}


def _entries(axis: str, chosen: Sequence[int] | None, size: int) -> list[int]:
    """Entries of an axis, counted from 0."""
    entries = list(range(size) if chosen is None else chosen)
    if not entries or not all(-size <= entry < size for entry in entries):
        raise InputError(f"only[{axis!r}] = {entries}: expected some of 0 to {size - 1}.")
    return [entry % size for entry in entries]


def _mask(clean: Float[Tensor, "batch *rest"], regions: Mapping[str, Sequence[int]]) -> Bool[Tensor, "..."]:
    """Where the activation is patched, to be broadcast against it."""
    mask = torch.ones((), dtype=torch.bool, device=clean.device)
    for entries, size in zip(regions.values(), clean.shape[1:], strict=False):
        member = torch.zeros(size, dtype=torch.bool, device=clean.device)
        member[list(entries)] = True
        mask = mask[..., None] & member
    return mask.reshape(*mask.shape, *(1,) * (clean.ndim - 1 - mask.ndim))


def _patch(clean: Float[Tensor, "batch *rest"], mask: Bool[Tensor, "..."]) -> Callable[..., Tensor]:
    """A hook that writes the clean activation where the mask says so."""

    def patch(activation: Tensor, hook: HookPoint) -> Tensor:
        if activation.shape != clean.shape:
            raise InputError(
                f"{hook.name} is {list(activation.shape)} in the corrupted run and {list(clean.shape)} in the cache: "
                "cache whole activations (no pos_slice), of such a model and of images of the same size."
            )
        return torch.where(mask.to(activation.device), clean.to(activation), activation)

    return patch
