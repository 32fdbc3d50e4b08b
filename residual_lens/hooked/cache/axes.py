"""Which axes an activation has, told from the name of its hook point."""


def activation_axes(name: str, ndim: int) -> tuple[str, ...]:
    """Names of the axes behind the batch that mean something: tokens, heads, neurons; in order.

    Args:
        name: full name of a hook point.
        ndim: number of axes of what it sees, batch and features included: a final norm acts on tokens or on one vector.

    Example:
        >>> activation_axes("blocks.0.attn.hook_z", 4), activation_axes("blocks.0.attn.hook_pattern", 4)
        (('pos', 'head'), ('head', 'dest_pos', 'src_pos'))
    """
    if name.endswith("attn.hook_direct"):
        return ("head",)
    if name.endswith("_direct") or name in ("hook_pooled", "hook_image_embed"):
        return ()
    if name == "pool.hook_pattern":
        return ("head", "src_pos")
    if name.startswith("pool.") and not name.startswith("pool.ln_tokens."):
        return ("neuron",) if ".mlp." in name else ()
    if name.startswith("ln_final."):
        return ("pos",) * (ndim - 2)
    if name.endswith((".attn.hook_pattern", ".attn.hook_attn_scores")):
        return ("head", "dest_pos", "src_pos")
    if ".mlp." in name:
        return ("pos", "neuron")
    return ("pos", "head") if ".attn." in name else ("pos",)


def position_axis(name: str, ndim: int) -> int | None:
    """Axis of token positions (queries, for patterns) in what a hook point sees; `None` where there is none."""
    axes = activation_axes(name, ndim)
    positions = [axes.index(axis) for axis in ("pos", "dest_pos") if axis in axes]
    return 1 + positions[0] if positions else None
