"""ResiDual: learned factors on the principal components of units (Basile et al., arXiv 2411.00246)."""

from collections.abc import Mapping
from functools import partial
from itertools import accumulate, groupby
from pathlib import Path as FilePath
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.bases import Bases
from residual_lens.errors import InputError, MismatchError
from residual_lens.hooked import HookedViT
from residual_lens.hooked.root import Hook
from residual_lens.interventions.adapter import (
    Adapter,
    CachedForm,
    Origin,
    Path,
    ScaledUnit,
    embedding_maps,
    heads_in_stream,
)
from residual_lens.interventions.affine import AffineMap, AffineMaps
from residual_lens.interventions.components import initial_scales
from residual_lens.interventions.config import ResiDualConfig
from residual_lens.interventions.rescaling import Frame, Rescaling
from residual_lens.interventions.saving import load_folder, save_folder
from residual_lens.units import Unit


class ResiDual(Adapter):
    """`RD(x) = Φᵀ diag(λ) Φ (x − μ)` on every unit's contribution, as hooks.

    Two published forms. `variant="residual*"`: heads only, components up to a share of the variance; components beyond
    and all other units (MLPs, `embed`, `bias`) are dropped. `variant="residual"`: heads (first `d_head` components) and
    MLPs (all); what lies beyond passes with factor 1, `embed` and `bias` are unchanged. The mean is not added back in
    the paper; `keep_mean=True` does, and then λ = 1 leaves "residual" as the identity.

    On the stream path the same bases are used; "residual*" edits heads in the stream and drops the other units from the
    embedding only, since later layers need them.

    Example:
        >>> from residual_lens.bases import fit_bases
        >>> hvit = HookedViT.from_pretrained("attribute-clip")
        >>> images = torch.rand(64, 3, *hvit.cfg.image_size, generator=torch.Generator().manual_seed(0))
        >>> images = hvit.normalize(images)
        >>> residual = ResiDual.from_bases(fit_bases(hvit, images), variant="residual", scales="ones", keep_mean=True)
        >>> with residual.attached(hvit), torch.no_grad():
        ...     edited = hvit(images)
        >>> torch.allclose(edited, hvit(images), atol=1e-4)
        True
    """

    # The paper's.
    learning_rate = 0.8

    def __init__(self, config: ResiDualConfig) -> None:
        """Empty bases and λ = 1 for a configuration; use `from_bases` or `load`."""
        super().__init__()
        self.config = config
        units = [Unit.named(name) for name in config.units]
        firsts = [0, *accumulate(config.counts)]
        self.rescalings = nn.ModuleList()
        for _, group in groupby(range(len(units)), key=lambda row: units[row].direct_hook_name):
            rows = list(group)
            counts = [config.counts[row] for row in rows]
            self.rescalings.append(Rescaling([units[row] for row in rows], counts, firsts[rows[0]], config.d_out))
        self.scales = nn.Parameter(torch.ones(sum(config.counts)))

    @classmethod
    def from_bases(
        cls,
        bases: Bases,
        *,
        variant: str = "residual",
        scales: str = "randn",
        explained_variance: float = 0.9,
        keep_mean: bool = False,
        seed: int = 0,
    ) -> "ResiDual":
        """λ to be trained on the components of fitted bases.

        Args:
            bases: from `fit_bases`.
            variant: `"residual*"` or `"residual"`.
            scales: where λ starts: `"randn"` is `1 + N(0, 1)`, seeded, as in the paper; `"ones"`; `"spectrum"` is each
                component's standard deviation over that of its unit's first.
            explained_variance: for `"residual*"`: a head keeps the first k components whose cumulative share
                reaches it.
            keep_mean: add the mean back.
            seed: of `"randn"`.

        Raises:
            InputError: unknown options, bases without heads, or bases whose components do not reach the share.
        """
        config = ResiDualConfig.of_bases(
            bases, variant=variant, explained_variance=explained_variance, keep_mean=keep_mean
        )
        kept = [bases[unit] for unit in config.units]
        residual = cls(config)
        for rescaling in residual._rescalings:
            rescaling.fill([bases[unit.name] for unit in rescaling.units])
        residual.scales.data.copy_(initial_scales(scales, kept, config.counts, seed))
        return residual.to(kept[0].components.device)

    @property
    def _rescalings(self) -> list[Rescaling]:
        return cast(list[Rescaling], list(self.rescalings))

    def scales_of(self, unit: str) -> Float[Tensor, "component"]:
        """λ of one unit, as a view.

        Raises:
            InputError: the unit is not rescaled.
        """
        if unit not in self.config.units:
            raise InputError(f"ResiDual does not rescale {unit!r}; it rescales {', '.join(self.config.units)}.")
        place = self.config.units.index(unit)
        first = sum(self.config.counts[:place])
        return self.scales[first : first + self.config.counts[place]]

    def hooks(self, hvit: HookedViT, path: Path) -> list[Hook]:
        self._check_fits(hvit)
        if path == "direct":
            hooks = [self._direct_hook(rescaling) for rescaling in self._rescalings]
        else:
            hooks = [self._stream_hook(rescaling, frame, hvit) for rescaling, frame in self._stream_frames(hvit)]
        if self.config.variant == "residual*":
            hooks += self._dropping_hooks(hvit)
        return hooks

    def cached_form(self, origin: Origin) -> CachedForm:
        self.config.require(origin)
        config, units = self.config, {}
        places = [(rescaling, row) for rescaling in self._rescalings for row in range(len(rescaling.units))]
        firsts = accumulate(config.counts, initial=0)
        for (rescaling, row), name, count, first in zip(places, config.units, config.counts, firsts, strict=False):
            units[name] = ScaledUnit(first, rescaling.components[row, :count], rescaling.mean[row])
        total = torch.cat([rescaling.mean for rescaling in self._rescalings]).double().sum(dim=0)
        passes = config.variant == "residual"
        # What lies beyond the components brings its share of the mean along, unless everything beyond is dropped.
        constant = {(True, False): -total, (False, True): total}.get((passes, config.keep_mean))
        return CachedForm(units, passes, constant)

    def save(self, folder: str | FilePath) -> None:
        """Write `config.json` and `model.safetensors` (λ and bases) into a folder, replacing an older save."""
        save_folder(folder, kind="ResiDual", config=self.config, tensors=self.state_dict())

    @classmethod
    def load(cls, folder: str | FilePath) -> "ResiDual":
        """Read what `save` wrote, onto the CPU.

        Raises:
            InputError: no such folder, not a ResiDual, or damaged files.
        """
        config, tensors = load_folder(folder, kind="ResiDual", config_type=ResiDualConfig)
        residual = cls(config)
        try:
            residual.load_state_dict(tensors)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{folder}: config.json and model.safetensors do not belong together ({reason})."
            ) from error
        return residual

    def _direct_hook(self, rescaling: Rescaling) -> Hook:
        frame = rescaling.direct_frame()

        def edit(values: Tensor, hook: object) -> Tensor:
            return self._edited(rescaling, frame, values)

        return rescaling.units[0].direct_hook_name, edit

    def stream_maps(self, hvit: HookedViT) -> Mapping[str, AffineMap]:
        """What `attached(hvit, path="stream")` does to each unit's term in the stream (see `Rescaling.stream_map`).

        Returns:
            By unit name, float64, for λ as they are; each is made when it is asked for.

        Raises:
            InputError: "residual*", which also drops units from the embedding alone, or bases with center="uniform".
            MismatchError: the adapter does not belong to this model.
        """
        if self.config.variant == "residual*":
            raise InputError(
                "'residual*' takes MLPs, embed and bias out of the embedding while they stay in the stream, which is "
                "no edit of the stream. Make the ResiDual with variant='residual', or attach this one as hooks."
            )
        self._check_fits(hvit)
        scales, keep_mean = self.scales.detach(), self.config.keep_mean
        makers = {}
        for rescaling, frame in self._stream_frames(hvit):
            for row, unit in enumerate(rescaling.units):
                makers[unit.name] = partial(rescaling.stream_map, row, frame, scales, keep_mean=keep_mean)
        return AffineMaps(makers)

    def _stream_frames(self, hvit: HookedViT) -> list[tuple[Rescaling, Frame]]:
        if self.config.center != "own":
            raise InputError(
                "The stream path needs bases with center='own': a 'uniform' contribution includes a share of the final "
                "norm's mean and offset, which is not in the stream. Wrap with center='own' and fit bases anew."
            )
        to_embedding, from_embedding = embedding_maps(hvit)
        return [(r, r.stream_frame(to_embedding, from_embedding, self.config.scale)) for r in self._rescalings]

    def _stream_hook(self, rescaling: Rescaling, frame: Frame, hvit: HookedViT) -> Hook:
        unit = rescaling.units[0]
        if unit.kind == "head":
            return heads_in_stream(hvit, cast(int, unit.layer), lambda terms: self._edited(rescaling, frame, terms))

        def edit_mlp(values: Tensor, hook: object) -> Tensor:
            return self._edited(rescaling, frame, values)

        return f"blocks.{unit.layer}.hook_mlp_out", edit_mlp

    def _dropping_hooks(self, hvit: HookedViT) -> list[Hook]:
        """Hooks that take every unit that is not rescaled out of the embedding."""
        by_point: dict[str, list[Unit]] = {}
        for unit in hvit.units:
            if unit.name not in self.config.units:
                by_point.setdefault(unit.direct_hook_name, []).append(unit)
        return [_dropping_hook(name, [unit.index for unit in units]) for name, units in by_point.items()]

    def _edited(
        self, rescaling: Rescaling, frame: Frame, values: Float[Tensor, "*leading d"]
    ) -> Float[Tensor, "*leading d"]:
        """All values at a hook point after the edit of those that the bases cover."""
        rescale = partial(
            rescaling.rescale,
            frame=frame,
            scales=self.scales,
            pass_rest=self.config.variant == "residual",
            keep_mean=self.config.keep_mean,
        )
        heads = [unit.index for unit in rescaling.units]
        if heads == [None]:
            return rescale(values[..., None, :])[..., 0, :]
        if heads == list(range(values.shape[-2])):
            return rescale(values)
        out = values.clone()
        out[..., heads, :] = rescale(values[..., heads, :])
        return out

    def _check_fits(self, hvit: HookedViT) -> None:
        """Refuse a model that the bases were not fitted on."""
        self.config.require(Origin.of_model(hvit))
        if self.scales.device != hvit.device:
            raise MismatchError(
                f"λ lies on {self.scales.device}, the model on {hvit.device}: call residual.to(hvit.device)."
            )


def _dropping_hook(point: str, heads: list[int | None]) -> Hook:
    """A hook that removes contributions at a direct point: those of some heads, or the only one there is."""

    def drop(values: Tensor, hook: object) -> Tensor:
        if heads == [None]:
            return torch.zeros_like(values)
        out = values.clone()
        out[..., heads, :] = 0
        return out

    return point, drop
