"""Writing edits of the stream into a model's weights, and taking them out again."""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from residual_lens.errors import InputError, MismatchError
from residual_lens.hooked import HookedViT
from residual_lens.interventions.adapter import Adapter
from residual_lens.interventions.affine import AffineMap
from residual_lens.interventions.edit import Edit
from residual_lens.interventions.residual import ResiDual
from residual_lens.interventions.weights_of_units import Layout, OutputLayer

KEPT = "_weights_before_bake"
"""Attribute of a baked model: for each bake, in order, parameter names with original (on the CPU) and digest of what
was written. Plain containers, so that a pickle of the model does not ask for this package."""


@torch.no_grad()
def bake(hvit: HookedViT, edit: Edit | Adapter | Sequence[Edit | Adapter]) -> nn.Module:
    """Write an edit of the stream into the weights, so that the plain model computes it without hooks or wrapper.

    A unit writes `c = (x W + b / n) ⊙ g` into the stream: `x` is a head's `z` or what the MLP's last layer is given,
    `g` LayerScale, `n` the heads that share the bias. An edit `c ↦ c M + t` is then `W' = (W ⊙ g) M ⊘ g` and
    `b' = Σ_unit ((b ⊙ g) M / n + t) ⊘ g`. It is computed in float64 and rounded once to the weights' dtype: the same
    outputs as under the edit's hooks to 1e-5 in float32; bfloat16 weights hold 8 bits, and so does what is written.

    Parameters keep their identity (optimizers, tied references and the wrapper see the edit), and the model's
    `state_dict` its names, so that its library saves and loads it as ever. Since the bias of a layer's heads is one
    vector, it is split evenly over them again: the heads' sum is the edited one, the constants of single heads are not.
    Bake several edits together rather than one after another where that matters.

    Args:
        hvit: the model; weights are those of `hvit.source`.
        edit: a ResiDual (variant "residual"), what `ablate`, `keep_only`, `scale`, `steer` or `project_out` gave with
            path="stream", or several of these, which act in this order as nested contexts do.

    Returns:
        `hvit.source`, changed in place. It keeps what was there before, on the CPU, for `unbake`.

    Raises:
        InputError: an edit that no weights compute, hooks in force, weights that cannot be written (shared, computed
            from others, quantised), or a constant for a layer without bias; nothing is changed then.
        MismatchError: the edit belongs to another model, or the model was rebuilt after wrapping.
        UnsupportedModelError: a layer carries torch hooks.

    Example:
        >>> from residual_lens.interventions import scale
        >>> hvit = HookedViT.from_pretrained("attribute-clip")
        >>> images = torch.rand(8, 3, *hvit.cfg.image_size, generator=torch.Generator().manual_seed(0))
        >>> louder = scale(hvit, {"L3H5": 3.0, "4_mlp_out": 0.5}, path="stream")
        >>> with louder:
        ...     edited = hvit(images)
        >>> clip = bake(hvit, louder)
        >>> torch.allclose(clip.encode_image(images), edited, atol=1e-4)
        True
        >>> unbake(clip)
    """
    hvit.check_unchanged()
    if hvit.hooked_points():
        raise InputError(
            f"Hooks are in force at {', '.join(hvit.hooked_points())}: what they do would not be in the weights, or be "
            "there twice. Leave their contexts, then bake."
        )
    maps = [_stream_maps(hvit, each) for each in (edit if isinstance(edit, Sequence) else [edit])]
    units = dict.fromkeys(hvit.units[name] for each in maps for name in each)
    if not units:
        raise InputError("There is no edit to bake: give at least one that changes a unit.")
    layout = Layout.of(hvit.source)
    values: dict[str, Tensor] = {}
    # The heads of a layer write through one.
    layers = {layer.name: layer for layer in (OutputLayer.of(hvit, unit) for unit in units)}
    for layer in layers.values():
        names = layout.parameter_names(layer, hvit.cfg.model_name)
        values |= {names[key]: value for key, value in layer.edited(maps).items()}
    digests = {name: _digest(value) for name, value in values.items()}
    originals = _write(hvit.source, values)
    kept = vars(hvit.source).setdefault(KEPT, [])
    kept.append({name: (originals[name], digests[name]) for name in values})
    return hvit.source


@torch.no_grad()
def unbake(module: nn.Module) -> None:
    """Put back the weights, bit for bit, that the last `bake` replaced.

    Args:
        module: what `bake` returned, on any device, or a copy of it. Models that were baked several times are unbaked
            step by step, the last first.

    Raises:
        InputError: nothing is baked into the module.
        MismatchError: its weights are no longer those that `bake` wrote (training, loading, a cast); they are left as
            they are.
    """
    module = module.source if isinstance(module, HookedViT) else module
    kept = vars(module).get(KEPT)
    if not kept:
        raise InputError(
            f"Nothing is baked into this {type(module).__name__}: give unbake the model that bake returned. What was "
            "saved and loaded again holds the edited weights only."
        )
    for name, (original, digest) in kept[-1].items():
        _check_as_written(module, name, original, digest)
    _write(module, {name: original for name, (original, _) in kept[-1].items()})
    kept.pop()
    if not kept:
        delattr(module, KEPT)


def _stream_maps(hvit: HookedViT, edit: Edit | Adapter) -> Mapping[str, AffineMap]:
    """The edit's maps by unit."""
    if isinstance(edit, ResiDual):
        return edit.stream_maps(hvit)
    if not isinstance(edit, Edit):
        raise InputError(
            f"bake takes a ResiDual, what ablate, keep_only, scale, steer or project_out give, or several of these, "
            f"got {type(edit).__name__}: attach it as hooks, or write it as one of these (coarse factors as scale)."
        )
    if edit.hvit.parts.tower is not hvit.parts.tower:
        raise MismatchError(
            f"{edit!r} was made for another model object: make it with the wrapper that is given to bake."
        )
    return edit.stream_maps()


def _write(module: nn.Module, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Set parameters to values, all or none, and give what they were before, on the CPU."""
    parameters = {name: module.get_parameter(name) for name in values}
    before = {name: parameter.detach().to("cpu", copy=True) for name, parameter in parameters.items()}
    try:
        for name, value in values.items():
            parameters[name].copy_(value)
    except BaseException:
        for name, value in before.items():
            parameters[name].copy_(value)
        raise
    return before


def _check_as_written(module: nn.Module, name: str, original: Tensor, digest: str) -> None:
    """Refuse a parameter that is not what `bake` wrote."""
    try:
        parameter = module.get_parameter(name)
    except AttributeError as error:
        raise MismatchError(
            f"{name}, into which an edit was baked, is no longer a parameter of this {type(module).__name__}: undo "
            "what replaced it (merge or remove adapters, parametrizations), then unbake."
        ) from error
    if parameter.dtype != original.dtype:
        raise MismatchError(
            f"{name} was {original.dtype} when an edit was baked into it and is {parameter.dtype}: cast the model "
            "back, then unbake. A model that was cast to a narrower dtype has lost what was written: load it anew."
        )
    if parameter.shape != original.shape or _digest(parameter) != digest:
        raise MismatchError(
            f"{name} has changed since an edit was baked into it (training, loading, another bake by another wrapper, "
            "a cast to a narrower dtype and back). Undo that first, or load the model anew: unbake would overwrite it."
        )


def _digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    return hashlib.sha256(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()
