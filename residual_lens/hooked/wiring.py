"""The wiring of a pre-norm ViT around borrowed parts, with every hook point."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.decomposition import Center, UnitTerms
from residual_lens.hooked.attention import HookedAttention
from residual_lens.hooked.block import HookedBlock
from residual_lens.hooked.checks import Images, check_images
from residual_lens.hooked.norm import HookedLayerNorm
from residual_lens.hooked.parts import HookedViTConfig, ViTParts
from residual_lens.hooked.points import Point
from residual_lens.hooked.root import HookedRoot
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


class WiredViT(HookedRoot):
    """The forward pass, from images to embedding; `HookedViT` adds what users ask of it."""

    def __init__(
        self, source: nn.Module, parts: ViTParts, center: Center, tokenizer: Callable[..., Tensor] | None
    ) -> None:
        """Use `HookedViT.wrap` or `HookedViT.from_pretrained`."""
        super().__init__()
        self.parts = parts
        self.cfg: HookedViTConfig = parts.config
        self.center: Center = center
        self.units = Units.of_vit(self.cfg.n_layers, self.cfg.n_heads, bias=center == "own")
        self.tokenizer = tokenizer
        self.hook_embed = Point()
        self.hook_pos_embed = Point()
        self.hook_full_embed = Point()
        self.ln_pre = HookedLayerNorm(parts.ln_pre) if parts.ln_pre else nn.Identity()
        self.blocks = nn.ModuleList(HookedBlock(block) for block in parts.blocks)
        self.hook_pooled = Point()
        self.ln_final = HookedLayerNorm(parts.ln_final)
        self.hook_embed_direct = Point()
        # "uniform" has no such unit, and a hook point that nothing passes would swallow edits in silence.
        self.hook_bias_direct = Point() if center == "own" else None
        self.hook_image_embed = Point()
        # setup() writes a name into every submodule it finds; the source is the user's, so it joins only afterwards.
        self.setup()
        self.source = source
        self.training = source.training

    @property
    def dtype(self) -> torch.dtype:
        """What the image tower computes in."""
        return self.parts.embedding.dtype

    @property
    def device(self) -> torch.device:
        """Where the image tower lies."""
        return next(self.parts.tower.parameters()).device

    def attention(self, layer: int) -> HookedAttention:
        """The attention of one block."""
        return cast(HookedBlock, self.blocks[layer]).attn

    def forward(self, images: Images) -> Float[Tensor, "batch d_out"]:
        """The source's own image embedding, with all hooks in force.

        Args:
            images: `[batch 3 height width]`, normalised with the model's mean and std (`normalize` does it).

        Returns:
            Not normalised. If nothing listens to the last block's tokens and the model reads one token, that block is
            run for this token alone: the same numbers, sooner.

        Raises:
            InputError: images of the wrong shape, dtype or range, or with NaN.
        """
        hooked = [direct for direct in self.direct_points(self.center) if direct.point.is_hooked]
        embedding, terms = self.stream(images, self.center if hooked else None)
        for direct in hooked:
            values = direct.of(cast(UnitTerms, terms))
            before = values.sum(dim=1)
            embedding = embedding + (direct(values).sum(dim=1) - before)
        return self.hook_image_embed(embedding)

    def stream(self, images: Images, readout: Center | None) -> tuple[Float[Tensor, "batch d_out"], UnitTerms | None]:
        """The embedding before direct edits, with every unit's term where a readout is asked for."""
        check_images(images, self.cfg, self.dtype, self.device)
        pooling = self.parts.pooling
        x = self._embed(images)
        embed, heads, written, mlps = x, [], [], []
        for layer, block in enumerate(cast(Sequence[HookedBlock], self.blocks)):
            is_last = layer == self.cfg.n_layers - 1
            run = block(x, pooling.token if is_last and not block.is_token_hooked() else None)
            x = run.resid_post
            if readout is not None:
                embed = pooling.keep(run.resid_pre) if layer == 0 else embed
                heads.append(pooling.keep(run.heads))
                written.append(run.written)
                mlps.append(pooling.keep(run.mlp_out))
        projection = self.parts.projection_matrix()
        if readout is None:
            return pooling.vector(x, self.ln_final, self.hook_pooled) @ projection, None
        pooled = pooling.frozen(x, self.ln_final, self.hook_pooled)
        attentions = [block.attention for block in self.parts.blocks]
        terms = UnitTerms(
            embed=embed,
            heads=heads,
            mlps=mlps,
            output_weights=[part.output_weight() for part in attentions],
            output_biases=[part.output_bias() for part in attentions],
            written=written,
            readout=pooling.readout(pooled, self.ln_final, projection, readout),
        )
        return pooled.vector @ projection, terms

    def _embed(self, images: Images) -> Float[Tensor, "batch pos d_model"]:
        embedding = self.parts.embedding
        tokens = self.hook_embed(embedding.tokens(images))
        positions = embedding.positions().to(tokens.dtype).expand_as(tokens)
        if self.hook_pos_embed.is_hooked:
            # A clone, because a hook may write in place and this is a view of the user's parameter.
            positions = self.hook_pos_embed(positions.clone())
        return self.ln_pre(self.hook_full_embed(embedding.drop(tokens + positions)))

    def direct_points(self, center: Center) -> Iterator[DirectPoint]:
        """Direct hook points in the order of the units."""
        heads = self.cfg.n_heads
        yield DirectPoint(self.hook_embed_direct, slice(0, 1), UnitTerms.embed_contribution, False)
        for layer, block in enumerate(cast(Sequence[HookedBlock], self.blocks)):
            start = 1 + layer * (heads + 1)
            stop = start + heads
            of_heads = partial(UnitTerms.head_contributions, layer=layer)
            yield DirectPoint(block.attn.hook_direct, slice(start, stop), of_heads, True)
            of_mlp = partial(UnitTerms.mlp_contribution, layer=layer)
            yield DirectPoint(block.hook_mlp_direct, slice(stop, stop + 1), of_mlp, False)
        if center == "own":
            last = 1 + self.cfg.n_layers * (heads + 1)
            point = self.hook_bias_direct or Point()
            yield DirectPoint(point, slice(last, last + 1), UnitTerms.bias_contribution, False)
