"""The image embedding as a sum of its units' direct contributions."""

from typing import cast

import torch
from beartype import beartype
from jaxtyping import Float, jaxtyped
from torch import Tensor

from residual_lens.decomposition import Center, Decomposition, HeadFrames, TokenTerms, UnitTerms, check_center
from residual_lens.errors import InputError, MismatchError, UnsupportedModelError
from residual_lens.hooked.checks import Images
from residual_lens.hooked.points import Point
from residual_lens.hooked.wiring import Streamed, WiredViT

# Gap between the units' sum and the embedding that rounding explains, relative to a sample's largest coordinate.
SUM_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 1e-1}


class DecomposedViT(WiredViT):
    """A wired model whose embedding can be taken apart and put together again."""

    def extract(self, images: Images, *, center: str | None = None) -> UnitTerms:
        """Every unit's term at the positions the embedding reads, before the readout: the cheapest full record.

        Args:
            images: as for `forward`.
            center: the readout's centring, the wrapper's own by default.

        Returns:
            In float32 for models of half precision.

        Raises:
            MismatchError: an active hook writes into the stream where no unit owns it, or dropout behind an output
                projection is in force, so that units do not sum to the embedding.
        """
        return cast(UnitTerms, self._checked_stream(images, check_center(center or self.center)).terms)

    def decompose(self, images: Images, *, center: str | None = None, tokens: bool = False) -> Decomposition:
        """The image embedding as a sum of direct contributions, one per unit.

        With pooled stream `r = Σ_u c_u`, `σ = sqrt(var(r) + eps)`, final norm `(γ, β)`, projection `P` with bias `b`,
        "own" gives `u = P[γ ⊙ (c_u − mean(c_u)) / σ]` and `bias = Pβ + b`; "uniform" gives each unit an even share of
        `P[β − γ mean(r)/σ] + b` instead. With attention pooling a term flows linearly through the frozen pattern (see
        `AttentionPooling`). Differentiable. Hooks in force are respected, those at direct points included;
        `hook_image_embed` sees the sum only and is left out.

        Args:
            images: as for `forward`.
            center: "own" or "uniform"; the wrapper's own by default.
            tokens: also record which tokens heads' contributions come from, for dense maps (`Decomposition.tokens`).

        Returns:
            In float32 for models of half precision.

        Raises:
            MismatchError: an active hook writes into the stream where no unit owns it, or dropout behind an output
                projection is in force, so that units do not sum to the embedding; or direct points are hooked and
                `center` is not the wrapper's, or `tokens` is wanted.
            UnsupportedModelError: `tokens` for a model whose heads' outputs pass a norm or gate before `W_O`.
        """
        chosen = check_center(center or self.center)
        points = list(self.direct_points(chosen))
        hooked = any(direct.point.is_hooked for direct in points)
        if chosen != self.center and hooked:
            raise MismatchError(f"Direct hooks see center={self.center!r} contributions; decompose with that centring.")
        if tokens:
            self._check_tokens_wanted(chosen, hooked)
        run = self._checked_stream(images, chosen, tokens=tokens)
        values = cast(UnitTerms, run.terms).contributions()
        if run.tokens is not None:
            self._check_tokens(run.tokens, values)
        edited = [
            direct(values[:, direct.units]) if direct.point.is_hooked else values[:, direct.units] for direct in points
        ]
        return Decomposition(torch.cat(edited, dim=1), self.units_of(chosen), run.tokens)

    @jaxtyped(typechecker=beartype)
    def recompose(self, decomposition: Decomposition) -> Float[Tensor, "batch d_out"]:
        """The embedding of a stored decomposition, direct hook points and `hook_image_embed` in force.

        A frozen backbone runs once; whatever acts on direct contributions is then trained or evaluated on what it gave,
        through the same hooks and with the same numbers as `forward`.

        Raises:
            MismatchError: the decomposition has other units than this wrapper, or a hook is in force that would act
                before the decomposition.
        """
        if decomposition.units != self.units:
            raise MismatchError(
                f"The decomposition has {decomposition.units!r}, this model (center={self.center!r}) {self.units!r}."
            )
        points = list(self.direct_points(self.center))
        replayed = [self.hook_image_embed, *(direct.point for direct in points)]
        for name, point in self._points_by_name.items():
            if point.is_hooked and point not in replayed:
                raise MismatchError(
                    f"A hook at {name} is in force, which a stored decomposition cannot answer: only direct points and "
                    "hook_image_embed are replayed. Run the model on images (LiveSamples in training), or leave the "
                    "context."
                )
        values = decomposition.values
        sums = []
        for direct in points:
            seen = values[:, direct.units]
            # A clone, because a hook may write in place and the decomposition is the caller's.
            sums.append((direct(seen.clone()) if direct.point.is_hooked else seen).sum(dim=1))
        return self.hook_image_embed(torch.stack(sums).sum(dim=0))

    def head_frames(self, *, center: str | None = None) -> HeadFrames:
        """Low-rank coordinates of every head's contribution, from the weights as they are (see `HeadFrames`)."""
        chosen = check_center(center or self.center)
        self.pool.check_center(chosen)
        maps, rows = self._constant_part(chosen)
        attentions = [block.attention for block in self.parts.blocks]
        weights, biases = [part.output_weight() for part in attentions], [part.output_bias() for part in attentions]
        return HeadFrames.of_weights(weights, biases, maps, rows, chosen)

    def direct_map(self) -> Float[Tensor, "d_model d_out"]:
        """The linear map `G` of a stream term's direct contribution `c G / σ`: centring, final gain, projection.

        Attention pooling has a map for each of its heads; what is given is their sum, the map of a term that all
        pooling heads gather alike (such as one that is the same at every token).

        Returns:
            In float64, centred there: float32 would leave a little of the direction that centring removes, which a
            pseudo-inverse blows up.
        """
        return self._constant_part("own")[0].sum(dim=0)

    def _constant_part(
        self, center: Center
    ) -> tuple[Float[Tensor, "route d_model d_out"], Float[Tensor, "constant d_out"]]:
        with torch.no_grad():
            projection = self.parts.projection_matrix(torch.float64)
            bias = self.parts.projection_bias(torch.float64)
            return self.pool.constant_part(self.parts.ln_final, projection, bias, center)

    @property
    def _points_by_name(self) -> dict[str, Point]:
        return cast(dict[str, Point], self.hook_dict)

    def _checked_stream(self, images: Images, center: Center, *, tokens: bool = False) -> Streamed:
        """A recorded forward pass whose units add up to its embedding."""
        self.pool.check_center(center)
        self._check_dropout()
        run = self.stream(images, center, tokens=tokens)
        # Edits in the stream, and dropout in train mode, may add what no unit's term tells of.
        if self.parts.tower.training or any(point.is_hooked for point in self._points_by_name.values()):
            _check_sum(cast(UnitTerms, run.terms), run.embedding, self._sum_tolerance, self.training)
        return run

    @property
    def _sum_tolerance(self) -> float:
        kind = self.device.type
        return SUM_TOLERANCE[torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.dtype]

    def _check_dropout(self) -> None:
        """Refuse dropout between the heads' z and what they add to the stream, and before the projection."""
        drops = [drop for block in self.parts.blocks for drop in block.attention.drops]
        for drop in (*drops, *self.parts.final_drops):
            rate = getattr(drop, "p", None) or getattr(drop, "drop_prob", None)
            if drop.training and rate:
                raise MismatchError(
                    f"{type(drop).__name__}({rate}) in train mode stands between terms and the embedding, so that "
                    "units do not sum to it: call eval()."
                )

    def _check_tokens_wanted(self, center: Center, direct_hooked: bool) -> None:
        """Refuse what has no contributions by token, before any work."""
        if center == "uniform":
            raise InputError("Contributions by token are those of center='own': an even share comes from no token.")
        if direct_hooked:
            raise MismatchError(
                "A direct hook is in force, which edits contributions as wholes and not by token: leave its context, "
                "or decompose without tokens."
            )
        attentions = [block.attention for block in self.parts.blocks]
        if any(part.inner_norm is not None or part.gate is not None for part in attentions):
            raise UnsupportedModelError(
                f"{self.cfg.model_name} puts a norm or gate between a head's values "
                "and W_O, so that its contribution is no sum over tokens. Decompose without tokens."
            )

    @torch.no_grad()
    def _check_tokens(self, tokens: TokenTerms, values: Float[Tensor, "batch unit d_out"]) -> None:
        """Refuse tokens' contributions that do not add up to the heads', where something may have come between."""
        attentions = [self.attention(layer) for layer in range(self.cfg.n_layers)]
        for layer, attention in enumerate(attentions):
            if not (self.training or attention.hook_z.is_hooked or attention.hook_result.is_hooked):
                continue
            start = self.units.position(f"L{layer}H0")
            heads = values[:, start : start + self.cfg.n_heads]
            gap = (tokens.layer(layer).sum(dim=2) - heads).abs().amax() / heads.abs().amax()
            if not bool(gap <= self._sum_tolerance):
                raise MismatchError(
                    f"Layer {layer}'s contributions by token add up to the heads' only within {float(gap):.1e}: hook_z "
                    "or hook_result is edited behind the sum over tokens. Edit hook_v or hook_pattern instead."
                )


@torch.no_grad()
def _check_sum(terms: UnitTerms, embedding: Float[Tensor, "batch d_out"], tolerance: float, training: bool) -> None:
    """Refuse terms that do not add up to the embedding, or that rounding alone does not explain."""
    missing = terms.rounding
    missing = terms.contributions().sum(dim=1) - embedding if missing is None else missing
    gap = missing.abs().amax(dim=1) / embedding.abs().amax(dim=1)
    # Written so that a gap of NaN is refused as well.
    if not bool((gap <= tolerance).all()):
        dropout = " Dropout in train mode may be the reason too: call eval()." if training else ""
        raise MismatchError(
            f"Units sum to the embedding only within {float(gap.max()):.1e}: a hook in force edits the stream where no "
            "unit owns the change (hook_attn_out, hook_resid_*, hook_pooled, ln_final). Edit a unit's own hook point "
            f"(attn.hook_z, attn.hook_result, hook_mlp_out, blocks.0.hook_resid_pre) or leave the context.{dropout}"
        )
