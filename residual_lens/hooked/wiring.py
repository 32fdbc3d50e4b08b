"""The wiring of a pre-norm ViT around borrowed parts, with every hook point."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.decomposition import Center, TokenTerms, UnitTerms
from residual_lens.decomposition.readout import outside_autocast
from residual_lens.hooked.attention import HookedAttention, Sources
from residual_lens.hooked.block import HookedBlock
from residual_lens.hooked.checkpointing import checkpointed
from residual_lens.hooked.checks import Images, check_images
from residual_lens.hooked.norm import HookedNorm
from residual_lens.hooked.parts.config import HookedViTConfig
from residual_lens.hooked.parts.rotary import Rotation
from residual_lens.hooked.parts.vit import ViTParts
from residual_lens.hooked.points import Point
from residual_lens.hooked.pooling import Pooled, Pooling
from residual_lens.hooked.recording import BlockTerms, Recorder
from residual_lens.hooked.root import HookedRoot
from residual_lens.hooked.unchanged import Unchanged
from residual_lens.units import Units


class DirectPoint(NamedTuple):
    """A direct hook point, the units that it sees, and how their contributions come from terms."""

    point: Point
    units: slice
    contribution: Callable[[UnitTerms], Float[Tensor, "batch *head d_out"]]
    has_head_axis: bool

    def of(self, terms: UnitTerms) -> Float[Tensor, "batch unit d_out"]:
        """Contributions of the units, before the hooks."""
        values = self.contribution(terms)
        return values if self.has_head_axis else values[:, None]

    def __call__(self, values: Float[Tensor, "batch unit d_out"]) -> Float[Tensor, "batch unit d_out"]:
        """What the hooks make of the contributions."""
        return self.point(values) if self.has_head_axis else self.point(values[:, 0])[:, None]


class Streamed(NamedTuple):
    """What a forward pass gave."""

    embedding: Float[Tensor, "batch d_out"]
    """Before direct edits."""
    terms: UnitTerms | None
    """Every unit's term, where a readout was asked for."""
    tokens: TokenTerms | None
    """Where the heads' terms come from, if that was asked for."""


class WiredViT(HookedRoot):
    """The forward pass, from images to embedding; `HookedViT` adds what users ask of it."""

    def __init__(
        self, source: nn.Module, parts: ViTParts, center: Center, tokenizer: Callable[..., Any] | None
    ) -> None:
        """Use `HookedViT.wrap` or `HookedViT.from_pretrained`."""
        super().__init__()
        self.parts = parts
        self.cfg = HookedViTConfig.of(parts)
        self.center: Center = center
        self.units = self.units_of(center)
        self.tokenizer = tokenizer
        self.checkpoints_gradients = False
        self.hook_embed = Point()
        self.hook_pos_embed = Point()
        self.hook_full_embed = Point()
        self.ln_pre = HookedNorm(parts.ln_pre) if parts.ln_pre else nn.Identity()
        has_rotary = parts.rotary is not None
        self.blocks = nn.ModuleList(HookedBlock(block, has_rotary=has_rotary) for block in parts.blocks)
        self.pool: Pooling = parts.pooling
        self.hook_pooled = Point()
        self.ln_final = HookedNorm(parts.ln_final)
        self.hook_embed_direct = Point()
        # "uniform" has no such unit, and a hook point that nothing passes would swallow edits in silence.
        self.hook_bias_direct = Point() if center == "own" else None
        self.hook_image_embed = Point()
        # setup() writes a name into every submodule it finds; the source is the user's, so it joins only afterwards.
        self.setup()
        # The wrapper's own parts take the source's mode; train() on the whole would overwrite modes inside the source.
        for module in self.modules():
            module.training = source.training
        self.source = source
        self._unchanged = Unchanged.of(parts.tower)

    @property
    def dtype(self) -> torch.dtype:
        """What the image tower computes in."""
        return self.parts.embedding.dtype

    @property
    def wide_dtype(self) -> torch.dtype:
        """What contributions are computed in: float32 in models of half precision."""
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def is_half(self) -> bool:
        """Whether the forward pass rounds to half precision, by the weights' dtype or under autocast."""
        return self.dtype != self.wide_dtype or torch.is_autocast_enabled(self.device.type)

    @property
    def device(self) -> torch.device:
        """Where the image tower lies."""
        return next(self.parts.tower.parameters()).device

    def attention(self, layer: int) -> HookedAttention:
        """The attention of one block."""
        return self._blocks[layer].attn

    @property
    def _blocks(self) -> list[HookedBlock]:
        return cast(list[HookedBlock], list(self.blocks))

    def units_of(self, center: Center) -> Units:
        """The units that a centring gives."""
        cfg = self.cfg
        return Units.of_vit(cfg.n_layers, cfg.n_heads, bias=center == "own", pool_mlp=cfg.pool_mlp)

    def forward(self, images: Images) -> Float[Tensor, "batch d_out"]:
        """The source's own image embedding, with all hooks in force.

        Args:
            images: `[batch 3 height width]`, normalised with the model's mean and std (`normalize` does it).

        Returns:
            Not normalised. If nothing listens to the last block's tokens and the model reads one token, that block is
            run for this token alone: the same numbers, sooner (not in half precision or train mode, where rounding and
            dropout would differ).

        Raises:
            InputError: images of the wrong shape, dtype or range, or with NaN.
        """
        hooked = [direct for direct in self.direct_points(self.center) if direct.point.is_hooked]
        run = self.stream(images, self.center if hooked else None)
        embedding = run.embedding
        for direct in hooked:
            values = direct.of(cast(UnitTerms, run.terms))
            before = values.sum(dim=1)
            embedding = embedding + (direct(values).sum(dim=1) - before)
        return self.hook_image_embed(embedding.to(run.embedding.dtype))

    def check_unchanged(self) -> None:
        """Refuse a source that was rebuilt after wrapping.

        Raises:
            MismatchError: with what was replaced.
        """
        self._unchanged.check(self.cfg.model_name)

    def stream(self, images: Images, readout: Center | None, *, tokens: bool = False) -> Streamed:
        """The embedding before direct edits.

        Args:
            images: as for `forward`.
            readout: record every unit's term, to be read out with this centring.
            tokens: record which tokens the heads' terms come from as well.
        """
        self.check_unchanged()
        check_images(images, self.cfg, self.dtype, self.device)
        pool = self.pool
        x, rotations = self._embed(images)
        if readout is None:
            x, _ = self._run_blocks(x, rotations)
            return Streamed(self.parts.project(pool.vector(x, self.ln_final, self.hook_pooled)), None, None)
        x, recorded = self._run_blocks(x, rotations, record=True, tokens=tokens)
        pooled = pool.frozen(x, self.ln_final, self.hook_pooled)
        embedding = self.parts.project(pooled.vector)
        terms = self._terms(recorded, pooled, readout)
        if self.is_half:
            rounding = embedding.to(self.wide_dtype) - terms.contributions().sum(dim=1)
            terms = replace(terms, rounding=rounding)
        by_token = None
        if tokens:
            sources = [cast(Sources, block.attention.sources) for block in recorded]
            patterns, values = [source.pattern for source in sources], [source.values for source in sources]
            by_token = TokenTerms(patterns, values, terms.output_weights, terms.output_biases, terms.readout)
        return Streamed(embedding, terms, by_token)

    def _run_blocks(
        self,
        x: Float[Tensor, "batch pos d_model"],
        rotations: Sequence[Rotation | None],
        *,
        record: bool = False,
        tokens: bool = False,
    ) -> tuple[Float[Tensor, "batch kept d_model"], list[BlockTerms]]:
        """The stream behind the last block, and what the blocks added, if that is recorded."""
        wide = self.wide_dtype if self.is_half else None
        recorded = []
        for layer, block in enumerate(self._blocks):
            is_last = layer == self.cfg.n_layers - 1
            # Half precision rounds otherwise in fewer rows, and dropout draws otherwise: there the source's numbers are
            # worth more than the time.
            is_training = self.parts.blocks[layer].attention.module.training
            may_shorten = is_last and not (self.is_half or is_training or block.is_token_hooked())
            recorder = Recorder(self.pool, wide, embed=layer == 0, tokens=tokens) if record else None
            run_block = partial(block, only=self.pool.token if may_shorten else None, recorder=recorder)
            if self.checkpoints_gradients and torch.is_grad_enabled():
                run_block = checkpointed(block, run_block)
            x, terms = run_block(x, rotations[layer])
            if terms is not None:
                recorded.append(terms)
        return x, recorded

    @outside_autocast
    def _terms(self, recorded: list[BlockTerms], pooled: Pooled, readout: Center) -> UnitTerms:
        parts, wide = self.parts, self.wide_dtype
        attentions = [block.attention for block in parts.blocks]
        projection, bias = parts.projection_matrix(wide), parts.projection_bias(wide)
        of_heads = [terms.attention for terms in recorded]
        attn_outs = [terms.attn_out for terms in of_heads if terms.attn_out is not None]
        return UnitTerms(
            embed=cast(Tensor, of_heads[0].embed).to(wide),
            heads=[terms.heads.to(wide) for terms in of_heads],
            mlps=[terms.mlp.to(wide) for terms in recorded],
            output_weights=[part.output_weight().to(wide) for part in attentions],
            output_biases=[part.output_bias().to(wide) for part in attentions],
            written=[terms.written for terms in of_heads],
            readout=self.pool.readout(pooled, parts.ln_final, projection, bias, readout),
            attn_outs=attn_outs or None,
            pool_mlp=None if pooled.mlp_out is None else pooled.mlp_out.to(wide),
        )

    def _embed(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch pos d_model"], Sequence[Rotation | None]]:
        embedding, rotary = self.parts.embedding, self.parts.rotary
        rows, columns = (size // patch for size, patch in zip(images.shape[2:], self.cfg.patch_size, strict=True))
        tokens = self.hook_embed(embedding.tokens(images))
        positions = embedding.positions(rows, columns).to(tokens.dtype).expand_as(tokens)
        if self.hook_pos_embed.is_hooked:
            # A clone, because a hook may write in place and this is a view of the user's parameter.
            positions = self.hook_pos_embed(positions.clone())
        rotations = [None] * self.cfg.n_layers if rotary is None else rotary.rotations(images, rows, columns)
        return self.ln_pre(self.hook_full_embed(embedding.drop(tokens + positions))), rotations

    def direct_points(self, center: Center) -> Iterator[DirectPoint]:
        """Direct hook points in the order of the units."""
        heads = self.cfg.n_heads
        yield DirectPoint(self.hook_embed_direct, slice(0, 1), UnitTerms.embed_contribution, False)
        for layer, block in enumerate(self._blocks):
            start = 1 + layer * (heads + 1)
            stop = start + heads
            of_heads = partial(UnitTerms.head_contributions, layer=layer)
            yield DirectPoint(block.attn.hook_direct, slice(start, stop), of_heads, True)
            of_mlp = partial(UnitTerms.mlp_contribution, layer=layer)
            yield DirectPoint(block.hook_mlp_direct, slice(stop, stop + 1), of_mlp, False)
        last = 1 + self.cfg.n_layers * (heads + 1)
        if self.pool.has_mlp:
            point = cast(Point, self.pool.hook_mlp_direct)
            yield DirectPoint(point, slice(last, last + 1), UnitTerms.pool_contribution, False)
            last += 1
        if center == "own":
            point = self.hook_bias_direct or Point()
            yield DirectPoint(point, slice(last, last + 1), UnitTerms.bias_contribution, False)
