"""Ablation: units that give nothing, what they give on average, or what they gave for another image."""

from collections.abc import Iterable, Sequence

from residual_lens.activations import Store
from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.interventions.adapter import Path
from residual_lens.interventions.edit import AffineEdit, Edit, checked_path, edited_units
from residual_lens.interventions.reference import Reference, means_of, samples_of
from residual_lens.interventions.replacement import MeanEdit, ResampleEdit
from residual_lens.units import Unit


def ablate(
    hvit: HookedViT,
    units: str | Unit | Iterable[str | Unit],
    how: str | None = None,
    *,
    reference: Reference | None = None,
    path: str = "direct",
    by_position: bool = True,
    seed: int = 0,
) -> Edit:
    """Take away what units contribute, while a `with` block runs.

    On the direct path a unit's contribution to the embedding is replaced, and nothing else. On the stream path what the
    unit adds to the stream is replaced at every token, a head's even share of the output bias included, so that later
    layers respond. `"zero"` puts 0 there; `"mean"` the unit's mean over a reference, so that the layers behind it read
    what they are used to; `"resample"` the unit's value for another sample (Chan et al. 2022, "Causal Scrubbing";
    Heimersheim & Nanda 2024, arXiv 2404.15255).

    In the stream `embed` is the tokens and positions that all layers start from: without it nothing of the image is
    left. `bias` is not in the stream.

    Args:
        hvit: the model.
        units: which units (`Units.select`).
        how: `"zero"`, `"mean"` or `"resample"`; by default `"mean"` if there is a reference, and else `"zero"`.
        reference: for `"mean"` and `"resample"`: images (one normalised tensor, or an iterable of batches), which the
            model runs over at once, or a store of the model. For `"resample"` what the units gave for these images
            stays in memory; a store is read when the model runs, and serves the direct path only.
        path: `"direct"` or `"stream"`.
        by_position: of means in the stream: one for each token position; or else one for all tokens, over samples and
            positions (over the pooled token of a store's samples, which have no other).
        seed: of `"resample"`. Each image of each forward pass takes one sample of the reference, drawn with
            replacement, for all units of this edit together, so that what holds between them stays. Draws begin anew
            whenever the context is entered. An image that is in the reference may be given its own values.

    Raises:
        InputError: no or unknown units, no such `how` or path, a missing, empty or unusable reference, `bias` in the
            stream.
        MismatchError: a store of another model, or hooks in force that reference images would run into.

    Example:
        >>> import torch
        >>> hvit = HookedViT.from_pretrained("attribute-clip")
        >>> images = torch.rand(8, 3, *hvit.cfg.image_size, generator=torch.Generator().manual_seed(0))
        >>> before = hvit.decompose(images)
        >>> with ablate(hvit, ["L3H5"]):
        ...     ablated = hvit(images)
        >>> torch.allclose(ablated, before.total() - before["L3H5"], atol=1e-4)
        True
        >>> with ablate(hvit, "L3", "mean", reference=images, path="stream"):
        ...     ablated = hvit(images)

        On samples that the model ran over once, an ablation is measured without running it again:

        >>> from residual_lens import ZeroShotClassifier, cache_samples, evaluate
        >>> samples = cache_samples(hvit, images, torch.arange(8) % 2)
        >>> classifier = ZeroShotClassifier(hvit.encode_text(["red", "blue"]), ("red", "blue"), 100.0)
        >>> with ablate(hvit, "L3H5", "mean", reference=images):
        ...     accuracy = evaluate(hvit, classifier, samples)
    """
    checked = checked_path(path)
    return _ablation(hvit, edited_units(hvit, units, checked), how, reference, checked, by_position, seed)


def keep_only(
    hvit: HookedViT,
    units: str | Unit | Iterable[str | Unit],
    how: str | None = None,
    *,
    reference: Reference | None = None,
    path: str = "direct",
    by_position: bool = True,
    seed: int = 0,
) -> Edit:
    """Ablate all other units, while a `with` block runs.

    On the direct path the embedding is what the units contribute, plus means or resampled values of the others; `bias`
    is one of these others unless it is named. On the stream path later layers read what the units write alone: name
    `embed` too, or nothing of the image reaches them. `bias` is not in the stream, and always stays.

    Args:
        hvit: the model.
        units: which units are kept (`Units.select`); of all of them, nothing is ablated.
        how: as for `ablate`, like all that follow.
        reference: of the others.
        path: `"direct"` or `"stream"`.
        by_position: of means in the stream.
        seed: of `"resample"`.

    Raises:
        InputError: as for `ablate`.
        MismatchError: as for `ablate`.

    Example:
        >>> import torch
        >>> hvit = HookedViT.from_pretrained("attribute-clip")
        >>> images = torch.rand(8, 3, *hvit.cfg.image_size, generator=torch.Generator().manual_seed(0))
        >>> with keep_only(hvit, ["L3H5", "5_mlp_out"]):
        ...     kept = hvit(images)
        >>> torch.allclose(kept, hvit.decompose(images).select(["L3H5", "5_mlp_out"]).sum(dim=1), atol=1e-4)
        True
    """
    checked = checked_path(path)
    kept = edited_units(hvit, units, "direct")
    others = tuple(unit for unit in hvit.units if unit not in kept and (checked == "direct" or unit.kind != "bias"))
    return _ablation(hvit, others, how, reference, checked, by_position, seed)


def _ablation(
    hvit: HookedViT,
    units: Sequence[Unit],
    how: str | None,
    reference: Reference | None,
    path: Path,
    by_position: bool,
    seed: int,
) -> Edit:
    how = how or ("zero" if reference is None else "mean")
    if how not in ("zero", "mean", "resample"):
        raise InputError(f"how must be 'zero', 'mean' or 'resample', got {how!r}.")
    if how == "zero" or not units:
        return AffineEdit(hvit, path, f"{how} ablation", factors=dict.fromkeys(units, 0.0))
    if reference is None:
        raise InputError(
            f"how={how!r} needs reference=: images (a tensor or batches of them), or a store of the model."
        )
    if how == "mean":
        return MeanEdit(hvit, units, path, means_of(hvit, units, reference, path, by_position=by_position))
    if not isinstance(reference, Store):
        return ResampleEdit(hvit, units, path, samples_of(hvit, units, reference, path), seed)
    if path == "stream":
        raise InputError(
            f"{reference!r} holds samples where the embedding reads them, and not at every token: give reference "
            "images, or use path='direct'."
        )
    reference.require_model(hvit)
    return ResampleEdit(hvit, units, path, reference, seed)
