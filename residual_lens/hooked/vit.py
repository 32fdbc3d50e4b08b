"""`HookedViT`: TransformerLens hooks around a vision transformer that the user already has."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import ActivationCache
from transformer_lens.utilities.slice import Slice

from residual_lens.data.preprocessing import Preprocessing, UnknownPreprocessing
from residual_lens.decomposition import check_center
from residual_lens.errors import InputError, UnsupportedModelError
from residual_lens.hooked.backbones import adapt
from residual_lens.hooked.cache import ViTCache, position_axis
from residual_lens.hooked.checks import Images, check_images, check_tokens
from residual_lens.hooked.decomposing import DecomposedViT
from residual_lens.hooked.devices import device_named
from residual_lens.hooked.fingerprint import fingerprint
from residual_lens.hooked.inputs import PreprocessingViT, with_inputs
from residual_lens.hooked.loading import load
from residual_lens.hooked.parts.vit import TextParts
from residual_lens.hooked.points import Point
from residual_lens.hooked.weights import WeightViews


class HookedViT(WeightViews, PreprocessingViT, DecomposedViT):
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
        >>> hvit
        HookedViT(attribute-clip: 6 layers × 6 heads, 44 units, class token, d_out 96)
    """

    def __repr__(self) -> str:
        cfg = self.cfg
        sizes = f"{cfg.n_layers} layers × {cfg.n_heads} heads, {len(self.units)} units"
        return f"HookedViT({cfg.model_name}: {sizes}, {cfg.pooling}, d_out {cfg.d_out})"

    @classmethod
    def wrap(
        cls,
        module: nn.Module,
        *,
        center: str = "own",
        head: bool = False,
        tokenizer: Callable[..., Tensor | Mapping[str, Tensor]] | None = None,
        model_name: str | None = None,
        preprocessing: Preprocessing | UnknownPreprocessing | None = None,
        image_size: tuple[int, int] | None = None,
        pixel_mean: tuple[float, float, float] | None = None,
        pixel_std: tuple[float, float, float] | None = None,
    ) -> "HookedViT":
        """Hooks around a model held in memory; no weight is copied.

        Args:
            module: a CLIP object or its image tower (open_clip), a vision model of Hugging Face, a vision transformer
                of timm: `residual-lens models` lists them.
            center: "own" gives the final norm's constant part a unit of its own, `bias`; "uniform" shares it out over
                all units as the paper's released code does.
            head: go on through the model's own linear head: the embedding is then a classifier's logits, or what a timm
                tower of CLIP projects to. Without it the embedding is what such a head would be given.
            tokenizer: texts to tokens, for `encode_text`.
            model_name: what messages and files call it; the class name by default.
            preprocessing: what images pass before the model, where the module does not say or you know better; with it
                `image_size`, `pixel_mean` and `pixel_std` are known.
            image_size: height and width to call the model's own, where it takes any (`cfg.any_size`).
            pixel_mean: channel means for `normalize`, where the module does not say.
            pixel_std: channel standard deviations for `normalize`.

        Raises:
            UnsupportedModelError: the module is no ViT that can be decomposed exactly, with the reason.
            InputError: no such centring, or a size that the model does not take.
        """
        chosen = check_center(center)
        parts = adapt(module, model_name or type(module).__name__, head=head)
        parts = with_inputs(parts, preprocessing, image_size, pixel_mean, pixel_std)
        parts.pooling.check_center(chosen)
        return cls(module, parts, chosen, tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        center: str = "own",
        head: bool = False,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "HookedViT":
        """Load a model by name and wrap it, in eval mode.

        Args:
            name: `"attribute-clip"` (shipped with the package, nothing is downloaded); the paper's `"clip-b"`,
                `"clip-l"`, `"openclip-b"`, `"openclip-l"`, `"blip-l"`, `"vit-l"`, `"dinov2-l"`; `"open_clip:NAME/TAG"`
                such as `"open_clip:ViT-L-14/openai"`, `"timm:NAME.TAG"`, `"hf:org/repo"`; also
                `"open_clip:hf-hub:org/repo"` and folders (`"open_clip:local-dir:path"`, `"hf:path"`).
                `residual-lens models` lists examples.
            center: see `wrap`.
            head: see `wrap`.
            device: where to put it.
            dtype: what to cast its weights to.

        Raises:
            InputError: no such source, model or tag; the message lists close ones. A device that is not here.
        """
        place = device_named(device)
        loaded = load(name, head=head)
        return cls.wrap(
            loaded.module.to(device=place, dtype=dtype).eval(),
            center=center,
            head=head,
            tokenizer=loaded.tokenizer,
            model_name=name,
            preprocessing=loaded.preprocessing,
        )

    def fingerprint(self) -> str:
        """Digest of the image tower's weights and wiring, by which bases know their model.

        A cast to another dtype counts as other weights.
        """
        blocks = [(block.ln1.eps, block.ln2.eps, str(block.mlp.activation)) for block in self.parts.blocks]
        wiring = f"{replace(self.cfg, model_name='')} {blocks}"
        projection = self.parts.projection
        others = {} if projection is None else {"projection": projection.matrix()}
        if projection is not None and projection.bias is not None:
            others["projection_bias"] = projection.bias()
        return fingerprint(self.parts.tower, wiring, others)

    def text_fingerprint(self) -> str:
        """Digest of the text tower: of all weights of the source outside the image tower, and of its modules."""
        image = {id(tensor) for tensor in self.parts.tower.state_dict(keep_vars=True).values()}
        every = self.source.state_dict(keep_vars=True)
        others = {name: tensor for name, tensor in every.items() if id(tensor) not in image}
        return fingerprint(nn.Module(), str(self.source), others)

    def tokenize(self, texts: Sequence[str]) -> Tensor | Mapping[str, Tensor]:
        """What the text tower is given for texts: ids, or a mapping with ids and mask.

        Raises:
            UnsupportedModelError: the model has no text tower, or was wrapped without its tokenizer.
            InputError: no texts, or a tokenizer that gives no tensors.
        """
        if self.parts.text is None or self.tokenizer is None:
            missing = "text tower" if self.parts.text is None else "tokenizer"
            raise UnsupportedModelError(
                f"{self.cfg.model_name} has no {missing}. Wrap the whole CLIP object and pass tokenizer=, or load it "
                "by name with HookedViT.from_pretrained."
            )
        if isinstance(texts, str) or len(texts) == 0:
            raise InputError(f"A text tower needs a list of at least one text, got {texts!r}.")
        tokens = self.tokenizer(list(texts))
        check_tokens(tokens)
        return tokens

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "text d_out"]:
        """Unit-norm embeddings of texts in the space of the image embedding.

        Raises:
            UnsupportedModelError, InputError: see `tokenize`.
        """
        tokens = self.tokenize(texts)
        moved = (
            tokens.to(self.device) if isinstance(tokens, Tensor) else {k: v.to(self.device) for k, v in tokens.items()}
        )
        return nn.functional.normalize(cast(TextParts, self.parts.text).encode(moved), dim=-1)

    @property
    def logit_scale(self) -> float:
        """The factor on cosines that the model was trained with."""
        if self.parts.text is None:
            raise UnsupportedModelError(f"{self.cfg.model_name} has no text tower and so no logit scale.")
        return self.parts.text.logit_scale()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory in training: a block keeps its input only and runs once more in the backward pass.

        Hooks run once more with it, and must still be in force then: call `backward()` inside their context.
        """
        self.checkpoints_gradients = enable

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
        if remove_batch_dim:
            check_images(images, self.cfg, self.dtype, self.device)
            if len(images) != 1:
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
        return embedding, ViTCache(cached, self, has_batch_dim=not remove_batch_dim, pos_slice=positions)
