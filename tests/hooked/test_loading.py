"""Names of models, text and fingerprints."""

import copy

import open_clip
import pytest
import torch

from residual_lens.errors import InputError, UnsupportedModelError
from residual_lens.hooked.vit import HookedViT
from tests.tiny_models import tiny_clip, tiny_tower
from tests.tolerances import FLOAT32_TOL, assert_close


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clip", r"Unknown model 'clip'. Give 'attribute-clip'.*or 'open_clip:NAME/TAG'"),
        ("", r"Unknown model ''"),
        ("open_clip:", r"Unknown model 'open_clip:'"),
        ("timmm:vit", r"Unknown model 'timmm:vit'"),
        ("open_clip:ViT-B-61/openai", r"open_clip has no model 'ViT-B-61'. Close ones: .*ViT-B-16"),
        ("open_clip:nonsense/openai", r"open_clip has no model 'nonsense'. open_clip.list_models\(\)"),
        ("open_clip:ViT-B-16/nope", r"open_clip has no weights 'nope' for ViT-B-16.*one of: openai, "),
        ("open_clip:ViT-B-16", r"open_clip has no weights '' for ViT-B-16.*one of: openai, "),
        ("open_clip:ViT-M-16-alt/openai", r"no pretrained weights for ViT-M-16-alt; wrap a model of your own"),
    ],
)
def test_unknown_names_are_refused_without_a_download(name, message):
    with pytest.raises(InputError, match=message):
        HookedViT.from_pretrained(name)


def words_to_tokens(texts: list[str]) -> torch.Tensor:
    """Tokens of the tiny text tower's vocabulary: one number per letter, the largest last."""
    rows = [[1 + ord(letter) % 60 for letter in text[:7]] + [63] for text in texts]
    return torch.tensor([row + [0] * (8 - len(row)) for row in rows])


def test_texts_are_encoded_to_unit_norm_by_the_source():
    model = tiny_clip("ViT-B-16")
    hvit = HookedViT.wrap(model, tokenizer=words_to_tokens)
    texts = ["one", "two words", "three"]
    encoded = hvit.encode_text(texts)
    assert encoded.shape == (3, hvit.cfg.d_out)
    assert not encoded.requires_grad
    assert_close(encoded.norm(dim=-1), torch.ones(3), FLOAT32_TOL)
    expected = model.encode_text(words_to_tokens(texts), normalize=True)
    assert_close(encoded, expected, FLOAT32_TOL)
    assert hvit.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))


@pytest.mark.parametrize("texts", [[], "a single string"])
def test_texts_must_be_a_list_of_some(texts):
    hvit = HookedViT.wrap(tiny_clip("ViT-B-16"), tokenizer=words_to_tokens)
    with pytest.raises(InputError, match="needs a list of at least one text"):
        hvit.encode_text(texts)


def test_a_bare_tower_has_no_texts():
    hvit = HookedViT.wrap(tiny_tower("ViT-B-16"), tokenizer=words_to_tokens)
    with pytest.raises(UnsupportedModelError, match="has no text tower"):
        hvit.encode_text(["a"])
    with pytest.raises(UnsupportedModelError, match="no logit scale"):
        _ = hvit.logit_scale


def test_a_model_without_its_tokenizer_has_no_texts():
    with pytest.raises(UnsupportedModelError, match="has no tokenizer"):
        HookedViT.wrap(tiny_clip("ViT-B-16")).encode_text(["a"])


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("ViT-B-16", (3, 3, 24, 8, 96, 20, 5, (32, 32), (16, 16))),
        ("ViT-L-14", (3, 4, 32, 8, 128, 20, 5, (28, 28), (14, 14))),
        ("not-square", (3, 3, 24, 8, 96, 20, 7, (32, 48), (16, 16))),
        ("coca", (3, 3, 24, 8, 96, 20, 5, (64, 64), (32, 32))),
    ],
)
def test_sizes_have_transformer_lens_names(kind, sizes):
    cfg = HookedViT.wrap(tiny_tower(kind), model_name="tiny").cfg
    names = ("n_layers", "n_heads", "d_model", "d_head", "d_mlp", "d_out", "n_ctx", "image_size", "patch_size")
    assert tuple(getattr(cfg, name) for name in names) == sizes
    assert cfg.model_name == "tiny"


def test_equal_towers_share_a_fingerprint_and_different_ones_do_not():
    tower = tiny_tower("ViT-B-16")
    hvit = HookedViT.wrap(tower)
    digest = hvit.fingerprint()
    assert len(digest) == 64
    assert HookedViT.wrap(copy.deepcopy(tower)).fingerprint() == digest
    assert HookedViT.wrap(tiny_clip("ViT-B-16")).fingerprint() == digest
    assert HookedViT.wrap(tiny_tower("ViT-B-16", seed=1)).fingerprint() != digest
    with torch.no_grad():
        tower.transformer.resblocks[2].attn.out_proj.bias[3] += 1e-6
    assert hvit.fingerprint() != digest


def test_casting_to_another_dtype_changes_the_fingerprint():
    hvit = HookedViT.wrap(tiny_tower("ViT-B-16"))
    assert hvit.to(torch.bfloat16).fingerprint() != HookedViT.wrap(tiny_tower("ViT-B-16")).fingerprint()


def test_the_configs_are_open_clips_own():
    assert tiny_clip("quickgelu").visual.transformer.resblocks[0].mlp.gelu.__class__.__name__ == "QuickGELU"
    assert tiny_tower("layerscale").transformer.resblocks[0].ls_1.gamma.shape == (24,)
    clipa = tiny_tower("clipa")
    assert (clipa.pool_type, clipa.final_ln_after_pool) == ("avg", True)
    assert isinstance(clipa.ln_pre, torch.nn.Identity)
    assert not clipa.positional_embedding.requires_grad
    assert tiny_tower("coca").output_tokens


@pytest.mark.parametrize(("tag", "quick_gelu"), [("openai", True), ("laion2b_s34b_b88k", False)])
def test_the_activation_belongs_to_the_weights_and_not_to_the_name(monkeypatch, tag, quick_gelu):
    asked = {}

    def create_model(name, **options):
        asked.update(options, name=name)
        return tiny_clip("ViT-B-16")

    monkeypatch.setattr(open_clip, "create_model", create_model)
    HookedViT.from_pretrained(f"open_clip:ViT-B-16/{tag}")
    assert asked["name"] == "ViT-B-16"
    assert asked["pretrained"] == tag
    assert asked["force_quick_gelu"] is quick_gelu


def test_models_that_differ_in_their_activation_have_different_fingerprints():
    tower, quick = tiny_tower("ViT-B-16"), tiny_tower("quickgelu")
    quick.load_state_dict(tower.state_dict())
    assert HookedViT.wrap(tower).fingerprint() != HookedViT.wrap(quick).fingerprint()
