"""Names of models, text and fingerprints."""

import copy
import shutil

import huggingface_hub
import open_clip
import pytest
import torch

from residual_lens.errors import InputError, UnsupportedModelError
from residual_lens.hooked.loading import PAPER_MODELS, load
from residual_lens.hooked.vit import HookedViT
from residual_lens.zoo import attribute_clip_path
from tests.hooked.checkpoints import publish
from tests.tiny_models import tiny_clip, tiny_tower
from tests.tolerances import FLOAT32_TOL, assert_close


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clip", r"Unknown model 'clip'. Close ones: clip-l, clip-b.*Give 'attribute-clip'.*or 'open_clip:NAME/TAG'"),
        ("xx", r"Unknown model 'xx'. Give 'attribute-clip' \(.*one of clip-b, .*'timm:NAME.TAG', 'hf:ORG/REPO'"),
        ("", r"Unknown model ''"),
        ("open_clip:", r"Unknown model 'open_clip:'"),
        ("timm:", r"Unknown model 'timm:'"),
        ("hf", r"Unknown model 'hf'"),
        ("clip-b:x", r"Unknown model 'clip-b:x'"),
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
        load(name)


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


@pytest.fixture
def asked(monkeypatch):
    """What open_clip was asked for, answered with a tiny model."""
    calls = {}

    def create_model(name, **options):
        calls.update(options, name=name)
        return tiny_clip("ViT-B-16")

    monkeypatch.setattr(open_clip, "download_pretrained", lambda config: calls.update(downloaded=config))
    monkeypatch.setattr(open_clip, "create_model", create_model)
    return calls


@pytest.mark.parametrize(("tag", "quick_gelu"), [("openai", True), ("laion2b_s34b_b88k", False)])
def test_the_activation_belongs_to_the_weights_and_not_to_the_name(asked, tag, quick_gelu):
    load(f"open_clip:ViT-B-16/{tag}")
    assert asked["name"] == "ViT-B-16"
    assert asked["pretrained"] == tag
    assert asked["force_quick_gelu"] is quick_gelu
    assert asked["downloaded"] == open_clip.get_pretrained_cfg("ViT-B-16", tag)


@pytest.mark.parametrize(
    ("name", "model", "tag"),
    [
        ("clip-b", "ViT-B-16", "openai"),
        ("clip-l", "ViT-L-14", "openai"),
        ("openclip-b", "ViT-B-16", "laion2b_s34b_b88k"),
        ("openclip-l", "ViT-L-14", "laion2b_s32b_b82k"),
    ],
)
def test_the_papers_names_load_its_checkpoints_of_open_clip(asked, name, model, tag):
    loaded = load(name)
    assert (asked["name"], asked["pretrained"], asked["precision"]) == (model, tag, "fp32")
    assert loaded.tokenizer(["a"]).shape == (1, 77)


def test_the_paper_has_seven_models():
    assert list(PAPER_MODELS) == ["clip-b", "clip-l", "openclip-b", "openclip-l", "blip-l", "vit-l", "dinov2-l"]


def test_a_failed_download_says_where_it_was_tried_and_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    message = r"openclip-b could not be fetched from laion/CLIP-ViT-B-16-laion2B-s34B-b88K/: .*HF_HUB_OFFLINE=1"
    with pytest.raises(InputError, match=message) as caught:
        load("openclip-b")
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(InputError, match=r"could not be fetched from hf-hub:someone/clip: .*HF_HUB_OFFLINE=1"):
        load("open_clip:hf-hub:someone/clip")


def test_a_repository_in_open_clips_format_is_found_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "folder"
    shutil.copytree(attribute_clip_path(), folder)
    config = folder / "open_clip_config.json"
    config.write_text(config.read_text().replace('"attribute_clip"', '"someone/attribute-clip"'))
    publish(folder, "someone/attribute-clip", tmp_path, absent=("config.json",))
    loaded, shipped = load("open_clip:hf-hub:someone/attribute-clip"), load("attribute-clip")
    assert all(map(torch.equal, loaded.module.parameters(), shipped.module.parameters()))


def test_a_folder_without_weights_is_refused_instead_of_random(tmp_path):
    shutil.copy(attribute_clip_path() / "open_clip_config.json", tmp_path)
    with pytest.raises(InputError, match=r"could not be loaded from local-dir:.*[Rr]equired pretrained weights"):
        load(f"open_clip:local-dir:{tmp_path}")


def test_a_damaged_folder_is_refused(tmp_path):
    (tmp_path / "open_clip_config.json").write_text("{")
    with pytest.raises(InputError, match=r"could not be loaded from local-dir:.*The files are damaged"):
        load(f"open_clip:local-dir:{tmp_path}")


@pytest.mark.parametrize("name", ["attribute-clip", "open_clip:ViT-B-16/openai", "clip-b"])
def test_models_of_open_clip_have_no_head(name):
    with pytest.raises(InputError, match="open_clip models have no classification head"):
        load(name, head=True)


def test_models_that_differ_in_their_activation_have_different_fingerprints():
    tower, quick = tiny_tower("ViT-B-16"), tiny_tower("quickgelu")
    quick.load_state_dict(tower.state_dict())
    assert HookedViT.wrap(tower).fingerprint() != HookedViT.wrap(quick).fingerprint()
