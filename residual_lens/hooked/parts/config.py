"""Sizes of a wrapped model, under TransformerLens' names."""

from dataclasses import dataclass

from residual_lens.hooked.parts.vit import ViTParts


@dataclass(frozen=True)
class HookedViTConfig:
    """Sizes and kinds of a wrapped model's parts, under TransformerLens' names where it has one."""

    model_name: str
    """Where it came from, for messages and files."""
    n_layers: int
    """Number of blocks."""
    n_heads: int
    """Heads per block."""
    d_model: int
    """Width of the stream."""
    d_head: int
    """Width of one head."""
    d_mlp: int
    """Width inside the MLP."""
    d_out: int
    """Width of the image embedding."""
    n_ctx: int
    """Tokens per image of `image_size`, prefix tokens included."""
    n_prefix: int
    """Tokens before the patches: class token, registers."""
    image_size: tuple[int, int]
    """Height and width of the images it takes, in pixels."""
    patch_size: tuple[int, int]
    """Height and width of a patch, in pixels."""
    any_size: bool
    """Whether images of other sizes are taken too, if they are multiples of the patch."""
    pooling: str
    """How tokens become one vector."""
    pool_mlp: bool
    """Whether pooling has an MLP of its own, and so one more unit."""
    eps: float
    """Epsilon of the final norm."""
    act_fn: str
    """Class name of the MLPs' activation."""
    gated_mlp: bool
    """Whether the MLPs are gated (SwiGLU and its like)."""
    use_qk_norm: bool
    """Whether each head's queries and keys are normalised."""
    positional_embedding_type: str
    """"standard" (added to tokens) or "rotary" (with or without added ones)."""
    normalization_type: str
    """"LN" or "RMS", before attention and MLPs."""
    final_rms: bool
    """Whether the final norm is an RMSNorm."""
    attn_only: bool = False
    """Whether blocks lack an MLP."""

    @classmethod
    def of(cls, parts: ViTParts) -> "HookedViTConfig":
        """What the parts say."""
        block = parts.blocks[0]
        attention = block.attention
        rows, columns = (size // patch for size, patch in zip(parts.image_size, parts.patch_size, strict=True))
        pooled = parts.pooling.width(parts.ln_final)
        return cls(
            model_name=parts.model_name,
            n_layers=len(parts.blocks),
            n_heads=attention.n_heads,
            d_model=attention.out.out_features,
            d_head=attention.out.in_features // attention.n_heads,
            d_mlp=block.mlp.out.in_features,
            d_out=pooled if parts.projection is None else parts.projection.matrix().shape[1],
            n_ctx=parts.n_prefix + rows * columns,
            n_prefix=parts.n_prefix,
            image_size=parts.image_size,
            patch_size=parts.patch_size,
            any_size=parts.embedding.any_size,
            pooling=parts.pooling.describe(),
            pool_mlp=parts.pooling.has_mlp,
            eps=parts.ln_final.eps,
            act_fn=type(block.mlp.activation).__name__,
            gated_mlp=block.mlp.inputs.is_gated,
            use_qk_norm=attention.q_norm is not None,
            positional_embedding_type="standard" if parts.rotary is None else "rotary",
            normalization_type="LN" if block.ln1.centred else "RMS",
            final_rms=not parts.ln_final.centred,
        )
