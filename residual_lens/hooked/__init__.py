"""Hooks around vision transformers."""

from residual_lens.hooked.vit import HookedViT

__all__ = ["HookedViT"]
