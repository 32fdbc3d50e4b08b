"""Weight methods compute what a plain model with their weights does, and leave no trace."""

import pytest
import torch
from torch import Tensor

from residual_lens.errors import InputError, MismatchError
from residual_lens.hooked import HookedViT
from tests.backbones.backbone import Backbone, images_of
from tests.backbones.models import BACKBONES, BY_NAME
from tests.interventions.drawn_edits import bits, same_bits
from tests.tiny_models import tiny_clip, tiny_images, tiny_tower
from tests.tolerances import FLOAT32_TOL, GRADIENT_TOL, assert_changed, assert_close
from tests.training.methods.weight_methods import MAKE, by_hand, drawn, with_weights

FEW = (
    "open_clip: ViT-B-16",
    "open_clip: coca_ViT-B-32 (CoCa)",
    "open_clip: EVA02-B-16 (tower of timm, rotary, sub-norm, SwiGLU)",
    "Hugging Face: CLIPModel",
    "Hugging Face: BlipForImageTextRetrieval (projection with bias)",
    "Hugging Face: DINOv3ViTModel (rotary, registers, gated MLP)",
    "timm: vit_giant_patch14_dinov2 (packed SwiGLU)",
    "timm: vit_base_patch16_sapiens2 (grouped queries, qk-norm, RMSNorm, SwiGLU)",
)
"""Each way in which a source lays out its weights."""
ROWS = [pytest.param(row, id=row.name, marks=() if row.name in FEW else pytest.mark.slow) for row in BACKBONES]


def test_the_few_are_rows():
    assert set(FEW) <= set(BY_NAME)


@pytest.mark.parametrize("backbone", ROWS)
@torch.no_grad()
def test_every_source_computes_with_the_changed_weights_and_then_again_with_its_own(backbone: Backbone, tmp_path):
    source = backbone.build()
    hvit = HookedViT.wrap(source, head=backbone.head)
    images, before = images_of(hvit.cfg.image_size), bits(source)
    plain, modules = hvit(images), [type(module) for module in source.modules()]
    for name in MAKE:
        adapter = drawn(name, hvit)
        weights = by_hand(name, adapter, hvit.parts.tower, tmp_path / name)
        expected = backbone.embedding(with_weights(source, hvit, weights), images)
        with adapter.attached(hvit):
            assert_close(hvit(images), expected, FLOAT32_TOL)
            assert_close(backbone.embedding(source, images), expected, FLOAT32_TOL)
            assert_close(hvit.decompose(images).total(), expected, FLOAT32_TOL)
        assert_changed(expected, plain)
        assert torch.equal(hvit(images), plain)
    assert same_bits(source, before)
    assert [type(module) for module in source.modules()] == modules


def gradients_of(embedding: Tensor, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    found = torch.autograd.grad(embedding.square().sum(), list(parameters.values()))
    return dict(zip(parameters, found, strict=True))


@pytest.mark.parametrize("name", MAKE)
def test_gradients_are_those_of_the_plain_models_weights(name, tmp_path):
    """With `G` the gradient of a changed weight: `s Bᵀ G`, `s G Aᵀ`; `diag(Uᵀ G V)`; `G`."""
    source = tiny_tower("ViT-B-16").double()
    hvit, images = HookedViT.wrap(source), tiny_images(source).double()
    adapter = drawn(name, hvit)
    with adapter.attached(hvit):
        loss = (hvit(images) ** 2).sum()
        ours = dict(
            zip(dict(adapter.named_parameters()), torch.autograd.grad(loss, list(adapter.parameters())), strict=True)
        )
    weights = by_hand(name, adapter, source, tmp_path)
    twin = with_weights(source, hvit, weights)
    gradients = gradients_of(twin(images), {key: twin.get_parameter(key) for key in weights})
    expected = {}
    for weight, gradient in gradients.items():
        key = weight.replace(".", "/")
        if name == "finetune":
            expected[f"weights.{key}"] = gradient
        elif name == "svd":
            parts = len(adapter.changes[key])
            pairs = zip(source.get_parameter(weight).detach().chunk(parts), gradient.chunk(parts), strict=True)
            svds = [(torch.linalg.svd(part, full_matrices=False), g) for part, g in pairs]
            expected[f"changes.{key}"] = torch.stack([(u.mT @ g @ v.mT).diagonal() for (u, _, v), g in svds])
        else:
            module = (
                key.removesuffix("/weight").removesuffix("/in_proj_weight").replace("attn/out", "attn/base_layer/out")
            )
            a, b = (f"{module}/lora_{side}/default/weight" for side in "AB")
            expected[f"trained.{a}"] = 2 * adapter.trained[b].mT @ gradient
            expected[f"trained.{b}"] = 2 * gradient @ adapter.trained[a].mT
    assert set(ours) == set(expected)
    for key, gradient in ours.items():
        assert_close(gradient, expected[key], GRADIENT_TOL)


@pytest.mark.parametrize("name", MAKE)
def test_the_model_gathers_no_gradients_and_keeps_its_parameters(name, hvit, images):
    before, adapter = bits(hvit.source), drawn(name, hvit)
    parameters = [id(parameter) for parameter in hvit.parameters()]
    with adapter.attached(hvit):
        hvit(images).square().sum().backward()
        assert [id(parameter) for parameter in hvit.parameters()] == parameters
        assert same_bits(hvit.source, before)
    assert all(parameter.grad is not None for parameter in adapter.parameters())
    changed = {key.replace("/", ".") for key in getattr(adapter, "weights", {})}
    unchanged = [p for key, p in hvit.source.named_parameters() if name == "finetune" and key in changed]
    assert all(parameter.grad is None for parameter in unchanged)


@pytest.mark.parametrize("name", MAKE)
def test_training_starts_at_the_model_itself_to_the_last_bit(name, hvit, images):
    with MAKE[name](hvit).attached(hvit):
        edited = hvit(images)
    assert torch.equal(edited, hvit(images))


@pytest.mark.parametrize("name", MAKE)
@torch.no_grad()
def test_written_weights_are_the_models_own(name, hvit, images):
    adapter = drawn(name, hvit)
    with adapter.attached(hvit):
        expected = hvit(images)
    fingerprint = hvit.fingerprint()
    assert adapter.write(hvit) is hvit.source
    assert torch.equal(hvit(images), expected)
    assert_close(hvit.source(images), expected, FLOAT32_TOL)
    assert hvit.fingerprint() != fingerprint
    with pytest.raises(MismatchError, match="with other weights"), adapter.attached(hvit):
        pass


@pytest.mark.parametrize("name", MAKE)
@torch.no_grad()
def test_saved_and_loaded_it_computes_the_same_bits(name, hvit, images, tmp_path):
    adapter = drawn(name, hvit)
    adapter.save(tmp_path)
    again = type(adapter).load(tmp_path, HookedViT.wrap(tiny_tower("ViT-B-16")))
    assert again.parameter_count() == adapter.parameter_count()
    with adapter.attached(hvit):
        expected = hvit(images)
    with again.attached(hvit):
        assert torch.equal(hvit(images), expected)
    with pytest.raises(MismatchError, match=r"made for VisionTransformer with other weights .* make it for this model"):
        type(adapter).load(tmp_path, HookedViT.wrap(tiny_tower("ViT-B-16", seed=1)))


@torch.no_grad()
def test_contexts_are_left_after_errors_and_do_not_nest(hvit, images):
    plain, modules = hvit(images), [type(module) for module in hvit.source.modules()]
    first, second = drawn("svd", hvit), drawn("finetune", hvit)
    with pytest.raises(ZeroDivisionError), first.attached(hvit):
        raise ZeroDivisionError
    assert torch.equal(hvit(images), plain)
    with first.attached(hvit):
        changed = hvit(images)
        with pytest.raises(InputError, match="in force in this model already"), second.attached(hvit):
            pass
        assert torch.equal(hvit(images), changed)
    assert torch.equal(hvit(images), plain)
    assert [type(module) for module in hvit.source.modules()] == modules


@pytest.mark.parametrize("name", MAKE)
def test_other_models_and_paths_are_refused(name, hvit):
    adapter = MAKE[name](HookedViT.wrap(tiny_tower("ViT-B-16", seed=1)))
    with pytest.raises(InputError, match="changes weights, which later layers respond to: use path='stream'"):
        adapter.attached(hvit, path="direct").__enter__()
    with pytest.raises(MismatchError, match="was made for VisionTransformer with other weights"):
        adapter.attached(hvit).__enter__()
    with pytest.raises(MismatchError, match="with other weights"):
        adapter.write(hvit)


@torch.no_grad()
def test_an_error_in_a_value_is_not_taken_for_the_weight_itself(hvit, images):
    adapter = drawn("svd", hvit)
    del adapter.changes[next(iter(adapter.changes))]
    with adapter.attached(hvit), pytest.raises((KeyError, RuntimeError)):
        hvit(images)


@torch.no_grad()
def test_a_whole_clip_keeps_its_text_tower():
    clip = tiny_clip("ViT-B-16")
    hvit, tokens = HookedViT.wrap(clip), torch.randint(0, 64, (2, 8), generator=torch.Generator().manual_seed(0))
    before = clip.encode_text(tokens)
    with drawn("finetune", hvit).attached(hvit):
        assert torch.equal(clip.encode_text(tokens), before)


@pytest.mark.parametrize("name", MAKE)
def test_steps_below_the_rounding_of_a_model_in_half_precision_add_up(name):
    hvit = HookedViT.wrap(tiny_clip("ViT-B-16").to(torch.bfloat16))
    images = tiny_images(hvit.source).to(torch.bfloat16)
    adapter = drawn(name, hvit)
    with torch.no_grad(), adapter.attached(hvit):
        before = hvit(images)
        for _ in range(200):
            for parameter in adapter.parameters():
                parameter += 1e-3 * parameter.sign()
        assert hvit(images).dtype == torch.bfloat16
        assert_changed(hvit(images), before)
    assert {parameter.dtype for parameter in adapter.parameters()} == {torch.float32}
