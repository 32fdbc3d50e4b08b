"""Blocks of timm's `VisionTransformer` and `Eva` families."""

from typing import Any

from timm.layers.attention import Attention, AttentionRope
from timm.layers.layer_scale import LayerScale
from timm.layers.mlp import GluMlp, Mlp, SwiGLU
from timm.models.eva import EvaAttention, EvaBlock
from timm.models.vision_transformer import Block
from torch import nn

from residual_lens.errors import UnsupportedModelError
from residual_lens.hooked.parts.attention import AttentionParts, FusedProjections, JoinedBias, SeparateProjections
from residual_lens.hooked.parts.mlp import GatedInput, MLPInput, MLPParts, PackedInput, PlainInput
from residual_lens.hooked.parts.norm import NormParts
from residual_lens.hooked.parts.reference import Ref, plain_linear
from residual_lens.hooked.parts.vit import BlockParts


def block_parts(block: nn.Module, model_name: str) -> BlockParts:
    """The parts of one block.

    Raises:
        UnsupportedModelError: not a sequential pre-norm block, with the reason.
    """
    if type(block) not in (Block, EvaBlock):
        raise UnsupportedModelError(
            f"{model_name}: blocks are {type(block).__name__}. Supported are the sequential pre-norm Block and "
            "EvaBlock: with a norm behind attention or MLP, or both in parallel, the stream has other terms."
        )
    parts: Any = block
    return BlockParts(
        ln1=NormParts.of(parts.norm1, model_name),
        attention=_attention(parts.attn, _gain(parts, 1), parts.drop_path1, model_name),
        ln2=NormParts.of(parts.norm2, model_name),
        mlp=_mlp(parts.mlp, _gain(parts, 2), parts.drop_path2, model_name),
    )


def _gain(block: Any, number: int) -> Ref | None:
    """LayerScale, which is a module of a `Block` and a parameter of an `EvaBlock`."""
    if isinstance(block, EvaBlock):
        name = f"gamma_{number}"
        return None if getattr(block, name) is None else Ref(block, name)
    scale = getattr(block, f"ls{number}")
    return Ref(scale, "gamma") if isinstance(scale, LayerScale) else None


def _attention(attention: Any, gain: Ref | None, drop_path: nn.Module, model_name: str) -> AttentionParts:
    if type(attention) not in (Attention, EvaAttention, AttentionRope):
        raise UnsupportedModelError(
            f"{model_name}: attention is {type(attention).__name__}; supported are timm's Attention, EvaAttention and "
            "AttentionRope."
        )
    if attention.qkv is not None:
        qkv = plain_linear(attention.qkv, "attention's input projection", model_name)
        biases = (Ref(attention, "q_bias"), Ref(attention, "k_bias"), Ref(attention, "v_bias"))
        bias = JoinedBias(biases) if isinstance(attention, EvaAttention) else Ref(qkv, "bias")
        inputs = FusedProjections(Ref(qkv, "weight"), bias, attention.num_heads)
    else:
        layers = (attention.q_proj, attention.k_proj, attention.v_proj)
        q, k, v = (plain_linear(layer, "an input projection of attention", model_name) for layer in layers)
        inputs = SeparateProjections(q, k, v, attention.num_heads)
    return AttentionParts(
        module=attention,
        inputs=inputs,
        out=plain_linear(attention.proj, "attention's output projection", model_name),
        n_heads=attention.num_heads,
        dropout=Ref(attention.attn_drop, "p"),
        gain=gain,
        drops=(attention.proj_drop, drop_path),
        q_norm=_present(attention.q_norm),
        k_norm=_present(attention.k_norm),
        inner_norm=_present(attention.norm),
        gate=attention.gate,
    )


def _mlp(mlp: Any, gain: Ref | None, drop_path: nn.Module, model_name: str) -> MLPParts:
    def linear(layer: nn.Module) -> nn.Linear:
        return plain_linear(layer, "a layer of the MLP", model_name)

    inputs: MLPInput
    if type(mlp) is Mlp:
        inputs = PlainInput(linear(mlp.fc1))
    elif type(mlp) is GluMlp:
        inputs = PackedInput(linear(mlp.fc1), mlp.gate_last)
    elif type(mlp) is SwiGLU:
        inputs = GatedInput(linear(mlp.fc1_g), linear(mlp.fc1_x))
    else:
        raise UnsupportedModelError(
            f"{model_name}: the MLP is {type(mlp).__name__}; supported are timm's Mlp, GluMlp and SwiGLU."
        )
    return MLPParts(
        inputs=inputs,
        activation=mlp.act,
        out=linear(mlp.fc2),
        inner=(mlp.drop1, mlp.norm),
        gain=gain,
        drops=(mlp.drop2, drop_path),
    )


def _present(module: nn.Module) -> nn.Module | None:
    return None if isinstance(module, nn.Identity) else module
