"""`HookedViT`: TransformerLens hooks around a vision transformer that the user already has."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import cast

import torch
from beartype import beartype
from jaxtyping import Float, jaxtyped
from torch import Tensor, nn
from transformer_lens import ActivationCache
from transformer_lens.utilities.slice import Slice

from residual_lens.decomposition import Decomposition, HeadFrames, UnitTerms, check_center
from residual_lens.errors import InputError, MismatchError, UnsupportedModelError
from residual_lens.hooked.backbones import adapt
from residual_lens.hooked.cache import ViTCache, position_axis
from residual_lens.hooked.checks import Images, check_unit_interval
from residual_lens.hooked.fingerprint import fingerprint
from residual_lens.hooked.loading import load
from residual_lens.hooked.points import Point
from residual_lens.hooked.wiring import WiredViT
from residual_lens.units import Units

# Gap between the units' sum and the embedding that rounding explains, relative to a sample's largest coordinate.
SUM_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 5e-2, torch.bfloat16: 2e-1}


class HookedViT(WiredViT):
    """A pre-norm ViT with TransformerLens' hook points, exact, around borrowed weights.

    The wiring is ours; every weight stays in the model that was wrapped (`source`), which remains usable and is trained
    when this is trained. `hvit(images)` is the source's own image embedding, not normalised.

    Example:
        >>> hvit = HookedViT.from_pretrained("attribute-clip")
        >>> images = torch.zeros(2, 3, *hvit.cfg.image_size)
        >>> embedding, cache = hvit.run_with_cache(images, names_filter="blocks.0.attn.hook_z")
        >>> cache["blocks.0.attn.hook_z"].shape == (2, hvit.cfg.n_ctx, hvit.cfg.n_heads, hvit.cfg.d_head)
        True
        >>> torch.allclose(hvit.decompose(images).total(), embedding, atol=1e-4)
        True
    """

    @classmethod
    def wrap(
        cls,
        module: nn.Module,
        *,
        center: str = "own",
        tokenizer: Callable[..., Tensor] | None = None,
        model_name: str | None = None,
    ) -> "HookedViT":
        """Hooks around a model held in memory; no weight is copied.

        Args:
            module: an open_clip CLIP object or its image tower.
            center: "own" gives the final norm's constant part a unit of its own, `bias`; "uniform" shares it out over
                all units as the paper's released code does.
            tokenizer: texts to tokens, for `encode_text`.
            model_name: what messages and files call it; the class name by default.

        Raises:
            UnsupportedModelError: the module is no ViT that can be decomposed exactly, with the reason.
            InputError: no such centring.
        """
        chosen = check_center(center)
        parts = adapt(module, model_name or type(module).__name__)
        parts.pooling.check_center(chosen)
        return cls(module, parts, chosen, tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        center: str = "own",
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "HookedViT":
        """Load a model by name and wrap it, in eval mode.

        Args:
            name: `"attribute-clip"` (shipped with the package, nothing is downloaded) or `"open_clip:NAME/TAG"` such as
                `"open_clip:ViT-L-14/openai"`; also `"open_clip:hf-hub:org/repo"`, `"open_clip:local-dir:path"`.
            center: see `wrap`.
            device: where to put it.
            dtype: what to cast its weights to.

        Raises:
            InputError: no such source, model or tag; the message lists close ones.
        """
        source, tokenizer = load(name)
        source = source.to(device=device, dtype=dtype).eval()
        return cls.wrap(source, center=center, tokenizer=tokenizer, model_name=name)

    def fingerprint(self) -> str:
        """Digest of the image tower's weights and wiring, by which bases know their model.

        A cast to another dtype counts as other weights.
        """
        wiring = f"{replace(self.cfg, model_name='')} {type(self.parts.pooling).__name__}"
        return fingerprint(self.parts.tower, wiring)

    def normalize(self, images: Images) -> Float[Tensor, "batch 3 height width"]:
        """Images in [0, 1] to what the model was trained on: minus its channel means, over its channel deviations.

        Args:
            images: `[batch 3 height width]`, float in [0, 1].

        Raises:
            InputError: values outside [0, 1], or a model whose mean and std are unknown.
        """
        if self.parts.pixel_mean is None or self.parts.pixel_std is None:
            raise InputError(f"{self.cfg.model_name} does not say which mean and std it takes: normalise yourself.")
        check_unit_interval(images)
        mean, std = (images.new_tensor(x)[:, None, None] for x in (self.parts.pixel_mean, self.parts.pixel_std))
        return ((images - mean) / std).to(self.dtype)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "text d_out"]:
        """Unit-norm embeddings of texts in the space of the image embedding.

        Raises:
            UnsupportedModelError: the model has no text tower, or was wrapped without its tokenizer.
        """
        if self.parts.text is None or self.tokenizer is None:
            missing = "text tower" if self.parts.text is None else "tokenizer"
            raise UnsupportedModelError(
                f"{self.cfg.model_name} has no {missing}. Wrap the whole CLIP object and pass tokenizer=, or load it "
                "by name with HookedViT.from_pretrained."
            )
        if isinstance(texts, str) or len(texts) == 0:
            raise InputError(f"encode_text needs a list of at least one text, got {texts!r}.")
        return nn.functional.normalize(self.parts.text.encode(self.tokenizer(list(texts)).to(self.device)), dim=-1)

    @property
    def logit_scale(self) -> float:
        """The factor on cosines that the model was trained with."""
        if self.parts.text is None:
            raise UnsupportedModelError(f"{self.cfg.model_name} has no text tower and so no logit scale.")
        return self.parts.text.logit_scale()

    def extract(self, images: Images, *, center: str | None = None) -> UnitTerms:
        """Every unit's term at the positions the embedding reads, before the readout: the cheapest full record.

        Args:
            images: as for `forward`.
            center: the readout's centring, the wrapper's own by default.

        Raises:
            MismatchError: an active hook writes into the stream where no unit owns it, so that units do not sum to the
                embedding.
        """
        embedding, terms = self.stream(images, check_center(center or self.center))
        terms = cast(UnitTerms, terms)
        if any(point.is_hooked for point in cast(dict[str, Point], self.hook_dict).values()):
            _check_sum(terms, embedding)
        return terms

    def decompose(self, images: Images, *, center: str | None = None) -> Decomposition:
        """The image embedding as a sum of direct contributions, one per unit.

        With pooled stream `r = Σ_u c_u`, `σ = sqrt(var(r) + eps)`, final norm `(γ, β)` and projection `P`:
        "own" gives `u = P[γ ⊙ (c_u − mean(c_u)) / σ]` and `bias = Pβ`; "uniform" gives each unit an even share of
        `P[β − γ mean(r)/σ]` instead. Differentiable. Hooks in force are respected, those at direct points included;
        `hook_image_embed` sees the sum only and is left out.

        Args:
            images: as for `forward`.
            center: "own" or "uniform"; the wrapper's own by default.

        Raises:
            MismatchError: an active hook writes into the stream where no unit owns it, so that units do not sum to the
                embedding; or direct points are hooked and `center` is not the wrapper's.
        """
        chosen = check_center(center or self.center)
        points = list(self.direct_points(chosen))
        if chosen != self.center and any(direct.point.is_hooked for direct in points):
            raise MismatchError(f"Direct hooks see center={self.center!r} contributions; decompose with that centring.")
        values = self.extract(images, center=chosen).contributions()
        edited = [
            direct(values[:, direct.units]) if direct.point.is_hooked else values[:, direct.units] for direct in points
        ]
        return Decomposition(
            torch.cat(edited, dim=1), Units.of_vit(self.cfg.n_layers, self.cfg.n_heads, bias=chosen == "own")
        )

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
        for name, point in cast(dict[str, Point], self.hook_dict).items():
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
        self.parts.pooling.check_center(chosen)
        projection = self.parts.projection_matrix().detach().double()
        maps, rows = self.parts.pooling.constant_part(self.ln_final, projection, chosen)
        attentions = [block.attention for block in self.parts.blocks]
        weights, biases = [part.output_weight() for part in attentions], [part.output_bias() for part in attentions]
        return HeadFrames.of_weights(weights, biases, maps, rows, chosen)

    def direct_map(self) -> Float[Tensor, "d_model d_out"]:
        """The linear map `G` of a stream term's direct contribution `c G / σ`: centring, final gain, projection.

        Returns:
            In float64, centred there: float32 would leave a little of the direction that centring removes, which a
            pseudo-inverse blows up.

        Raises:
            UnsupportedModelError: attention pooling has a map for each of its heads instead of one.
        """
        projection = self.parts.projection_matrix().detach().double()
        maps, _ = self.parts.pooling.constant_part(self.ln_final, projection, "own")
        if len(maps) > 1:
            raise UnsupportedModelError(
                f"{self.cfg.model_name} pools by attention with {len(maps)} heads: no single map leads from the stream "
                "to the embedding. Use path='direct'."
            )
        return maps[0]

    def run_with_cache(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        images: Images,
        *,
        names_filter: str | Iterable[str] | Callable[[str], bool] | None = None,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
        pos_slice: int | tuple[int, ...] | list[int] | Slice | None = None,
        clear_contexts: bool = False,
    ) -> tuple[Float[Tensor, "batch d_out"], ActivationCache]:
        """The embedding and a TransformerLens `ActivationCache`.

        Args:
            images: as for `forward`.
            names_filter: hook points by name, several names, or a predicate on names. Without it everything is cached,
                what each head writes at every token included: large.
            device: where to keep what is cached; where it was computed by default.
            remove_batch_dim: drop the batch axis from what is cached (a batch of one).
            pos_slice: token positions to keep, of activations that have a position axis: one, `(start, stop)`, a list.
            clear_contexts: clear the `ctx` of the hook points afterwards.

        Raises:
            InputError: unknown names, `remove_batch_dim` with more than one image, or images that the model refuses.
        """
        if remove_batch_dim and images.ndim == 4 and len(images) != 1:
            raise InputError(f"remove_batch_dim needs a batch of one image, got {len(images)}.")
        cached: dict[str, Tensor] = {}
        positions = Slice.unwrap(cast(Slice, pos_slice))

        def keep(activation: Tensor, hook: Point) -> None:
            kept = activation.detach()
            axis = position_axis(str(hook.name), kept.ndim)
            if positions.mode != "empty" and axis is not None:
                # A copy: a view of some tokens would keep all of them in memory.
                kept = positions.apply(kept, dim=axis).clone()
            kept = kept if device is None else kept.to(device)
            cached[str(hook.name)] = kept[0] if remove_batch_dim else kept

        hooks = [(name, keep) for name in self.names_of(names_filter)]
        with self.hooks(hooks, clear_contexts=clear_contexts):
            embedding = self(images)
        return embedding, ViTCache(cached, self, has_batch_dim=not remove_batch_dim)


@torch.no_grad()
def _check_sum(terms: UnitTerms, embedding: Float[Tensor, "batch d_out"]) -> None:
    """Refuse terms that do not add up to the embedding."""
    gap = (terms.contributions().sum(dim=1) - embedding).abs().amax(dim=1) / embedding.abs().amax(dim=1)
    # Written so that a gap of NaN is refused as well.
    if not bool((gap <= SUM_TOLERANCE[embedding.dtype]).all()):
        raise MismatchError(
            f"Units sum to the embedding only within {float(gap.max()):.1e}: a hook in force edits the stream where no "
            "unit owns the change (hook_attn_out, hook_resid_*, hook_pooled, ln_final). Edit a unit's own hook point "
            "(attn.hook_z, attn.hook_result, hook_mlp_out, blocks.0.hook_resid_pre) or leave the context."
        )
