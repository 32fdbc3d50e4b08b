"""BLIP for image-text retrieval: the contrastive half, whose projections have biases."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from residual_lens.errors import UnsupportedModelError
from residual_lens.hooked.backbones.huggingface.layers import ConvEmbedding, encoder_block, size_pair
from residual_lens.hooked.backbones.refusals import refuse_head
from residual_lens.hooked.parts.attention import FusedProjections
from residual_lens.hooked.parts.norm import NormParts
from residual_lens.hooked.parts.reference import Ref, plain_linear
from residual_lens.hooked.parts.vit import BlockParts, Projection, TextParts, ViTParts
from residual_lens.hooked.pooling import TokenPooling


@dataclass(frozen=True)
class BlipText(TextParts):
    """The text encoder without cross-attention, read at its first token."""

    model: Any

    def encode(self, tokens: Tensor | Mapping[str, Tensor]) -> Float[Tensor, "text d_out"]:
        inputs = {"input_ids": tokens} if isinstance(tokens, Tensor) else tokens
        wanted = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
        return self.model.text_proj(self.model.text_encoder(**wanted, return_dict=True).last_hidden_state[:, 0])

    def logit_scale(self) -> float:
        raise UnsupportedModelError(
            "BLIP's temperature is not part of its published weights: give a logit scale yourself (such as 100)."
        )


def adapt(model: Any, model_name: str, head: bool) -> ViTParts:
    """The parts of `BlipForImageTextRetrieval`: what it compares with texts if `use_itm_head=False`."""
    refuse_head(head, model_name)
    tower = model.vision_model
    embeddings = tower.embeddings
    return ViTParts(
        model_name=model_name,
        tower=tower,
        image_size=size_pair(embeddings.image_size),
        patch_size=size_pair(embeddings.patch_size),
        n_prefix=1,
        embedding=ConvEmbedding(
            embeddings=embeddings,
            conv=embeddings.patch_embedding,
            prefix=(Ref(embeddings, "class_embedding"),),
            table=Ref(embeddings, "position_embedding"),
        ),
        blocks=[_block(layer, model_name) for layer in tower.encoder.layers],
        ln_final=NormParts.of(tower.post_layernorm, model_name),
        pooling=TokenPooling(0),
        projection=Projection.of(plain_linear(model.vision_proj, "the projection", model_name)),
        text=BlipText(model),
    )


def _block(layer: Any, model_name: str) -> BlockParts:
    attention = layer.self_attn
    qkv = plain_linear(attention.qkv, "attention's input projection", model_name)
    inputs = FusedProjections(Ref(qkv, "weight"), Ref(qkv, "bias"), attention.num_heads)
    dropout = Ref(attention.dropout, "p")
    return encoder_block(layer, inputs, attention.projection, attention.num_heads, dropout, model_name, eager=True)
