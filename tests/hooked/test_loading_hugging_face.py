"""Loading from Hugging Face folders and a Hub cache: the real classes and the real loading code, without a network."""

import json

import huggingface_hub
import pytest
import torch
import transformers
from huggingface_hub.errors import EntryNotFoundError

from residual_lens.data.preprocessing import Preprocessing
from residual_lens.errors import InputError, UnsupportedModelError
from residual_lens.hooked.loading import PAPER_MODELS, load
from residual_lens.hooked.loading.hugging_face import FAMILIES
from residual_lens.hooked.vit import HookedViT
from tests.hooked.checkpoints import MEAN, SOURCES, STD, WITH_TEXT, Harmful, publish, save_source, tiny_source
from tests.tolerances import FLOAT32_TOL, assert_close

PREPROCESSING = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 28, "width": 42},
    "image_mean": MEAN,
    "image_std": STD,
}
GIVEN = Preprocessing((28, 42), MEAN, STD, interpolation="bilinear", resize="squash", resized_as="bytes")


@pytest.fixture(autouse=True)
def hub(monkeypatch, tmp_path):
    """The folder of the Hub cache; nothing is asked of a network."""
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return cache


def test_every_family_has_a_test():
    assert set(SOURCES) == set(FAMILIES)
    assert {model_type for model_type, family in FAMILIES.items() if family.has_text} == set(WITH_TEXT)


@pytest.mark.parametrize("model_type", SOURCES)
def test_a_folder_gives_the_weights_that_were_saved(model_type, tmp_path):
    saved = save_source(model_type, tmp_path, preprocessing=PREPROCESSING).state_dict()
    loaded = load(f"hf:{tmp_path}")
    assert type(loaded.module).__name__ == FAMILIES[model_type].model_class
    assert not loaded.module.training
    # A classifier's body is under its own name; everything else has the names of the model itself.
    for name, value in loaded.module.state_dict().items():
        original = saved[name] if name in saved else saved[f"vit.{name}"]
        assert value.dtype == torch.float32
        assert torch.equal(value, original)
    assert loaded.preprocessing == GIVEN
    assert (loaded.tokenizer is not None) == (model_type in WITH_TEXT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_loaded_in_float32_whatever_they_were_saved_in(dtype, tmp_path):
    tiny_source("dinov2").to(dtype).save_pretrained(tmp_path)
    assert {value.dtype for value in load(f"hf:{tmp_path}").module.state_dict().values()} == {torch.float32}


def test_a_classifier_keeps_its_head_when_asked(tmp_path):
    model = save_source("vit", tmp_path)
    images = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    loaded = load(f"hf:{tmp_path}", head=True).module
    assert isinstance(loaded, transformers.ViTForImageClassification)
    assert torch.equal(loaded(images).logits, model(images).logits)
    assert load(f"hf:{tmp_path}").module.pooler is None


@pytest.mark.parametrize("model_type", ["clip", "dinov2"])
def test_a_head_that_does_not_exist_is_refused(model_type, tmp_path):
    save_source(model_type, tmp_path)
    with pytest.raises(InputError, match=r"has no linear head on its embedding; load it with head=False"):
        load(f"hf:{tmp_path}", head=True)


@pytest.mark.parametrize(
    ("preprocessing", "size"),
    [
        ({"crop_size": {"height": 224, "width": 224}, "size": {"shortest_edge": 256}}, (224, 224)),
        ({"crop_size": 224, "size": 256}, (224, 224)),
        ({"crop_size": 224, "do_center_crop": False, "size": {"height": 384, "width": 256}}, (384, 256)),
        ({"size": 256, "image_processor_type": "ViTImageProcessor"}, (256, 256)),
        ({"size": {"height": 384, "width": 384}}, (224, 224)),
        ({"size": {"shortest_edge": 256}}, (224, 224)),
        ({}, (224, 224)),
    ],
)
def test_the_size_is_what_preprocessing_gives(preprocessing, size, tmp_path):
    save_source("dinov2", tmp_path, preprocessing=preprocessing)
    assert load(f"hf:{tmp_path}").preprocessing.image_size == size


def test_preprocessing_may_be_part_of_one_file_for_all_processors(tmp_path):
    save_source("dinov2", tmp_path)
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": PREPROCESSING}))
    loaded = load(f"hf:{tmp_path}")
    assert loaded.preprocessing == GIVEN


def test_preprocessing_that_transformers_writes_is_understood(tmp_path):
    save_source("dinov2", tmp_path)
    transformers.BitImageProcessor(
        crop_size={"height": 14, "width": 14}, image_mean=list(MEAN), image_std=list(STD)
    ).save_pretrained(tmp_path)
    loaded = load(f"hf:{tmp_path}")
    assert loaded.preprocessing == Preprocessing((14, 14), MEAN, STD, resize_to=(224, 224), resized_as="bytes")


@pytest.mark.parametrize("model_type", ["clip", "blip"])
def test_texts_are_padded_to_the_longest_with_a_mask(model_type, tmp_path):
    save_source(model_type, tmp_path)
    tokens = load(f"hf:{tmp_path}").tokenizer(["a red dog", "cat"]).to("cpu")
    assert tokens["input_ids"].tolist() == [[2, 3, 4], [5, 0, 0]]
    assert tokens["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_texts_for_siglip_are_in_lower_case_and_padded_to_full_length_without_a_mask(tmp_path):
    save_source("siglip", tmp_path)
    tokens = load(f"hf:{tmp_path}").tokenizer(["A red Dog", "cat"])
    assert tokens["input_ids"].tolist() == [[2, 3, 4, 0, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0, 0, 0]]
    assert "attention_mask" not in tokens


@pytest.mark.parametrize("model_type", WITH_TEXT)
def test_long_texts_are_cut_and_every_text_tower_takes_what_its_tokenizer_gives(model_type, tmp_path):
    save_source(model_type, tmp_path)
    loaded = load(f"hf:{tmp_path}")
    tokens = loaded.tokenizer(["a red dog " * 9, "cat"])
    assert tokens["input_ids"].shape == (2, 8)
    text_tower = loaded.module.text_encoder if model_type == "blip" else loaded.module.text_model
    assert text_tower(**tokens).last_hidden_state.shape == (2, 8, 16)


def test_a_folder_without_tokenizer_files_has_no_tokenizer(tmp_path):
    tiny_source("clip").save_pretrained(tmp_path)
    assert load(f"hf:{tmp_path}").tokenizer is None


def test_a_repository_is_found_in_the_cache_without_a_network(hub, tmp_path):
    model = save_source("siglip", tmp_path / "folder", preprocessing=PREPROCESSING)
    publish(tmp_path / "folder", "someone/siglip", hub)
    loaded = load("hf:someone/siglip")
    assert torch.equal(loaded.module.logit_scale, model.logit_scale)
    assert loaded.preprocessing == GIVEN
    assert loaded.tokenizer(["cat"])["input_ids"].shape == (1, 8)


@pytest.mark.parametrize(
    ("name", "repository", "model_type"),
    [
        ("blip-l", "Salesforce/blip-itm-large-flickr", "blip"),
        ("vit-l", "google/vit-large-patch16-224", "vit"),
        ("dinov2-l", "facebook/dinov2-large", "dinov2"),
    ],
)
def test_the_papers_names_load_its_repositories(name, repository, model_type, hub, tmp_path):
    assert PAPER_MODELS[name] == f"hf:{repository}"
    save_source(model_type, tmp_path / "folder", preprocessing=PREPROCESSING)
    with pytest.raises(InputError, match=f"{name} could not be fetched from {repository}"):
        load(name)
    publish(tmp_path / "folder", repository, hub)
    assert type(load(name).module).__name__ == FAMILIES[model_type].model_class


def test_preprocessing_that_cannot_be_fetched_is_said_to_be_unknown(hub, tmp_path, caplog):
    save_source("dinov2", tmp_path / "folder")
    publish(tmp_path / "folder", "someone/dinov2", hub)
    loaded = load("hf:someone/dinov2")
    assert loaded.preprocessing is None
    assert "someone/dinov2: preprocessor_config.json is not in the cache" in caplog.text


def test_files_that_the_hub_does_not_have_are_not_asked_for_again(hub, tmp_path, caplog):
    save_source("dinov2", tmp_path / "folder")
    files = ("preprocessor_config.json", "processor_config.json")
    publish(tmp_path / "folder", "someone/dinov2", hub, absent=files)
    assert load("hf:someone/dinov2").preprocessing is None
    assert not caplog.records


def test_a_repository_without_a_config_is_refused(monkeypatch):
    def not_found(repository, filename):
        raise EntryNotFoundError(f"404: {repository}/{filename}")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", not_found)
    with pytest.raises(InputError, match=r"there is no config.json in someone/dataset"):
        load("hf:someone/dataset")


def test_what_is_not_here_says_where_it_was_looked_for_and_what_to_do():
    with pytest.raises(
        InputError, match=r"from facebook/dinov2-large: .*HF_HUB_OFFLINE=1, or give a local f"
    ) as caught:
        load("dinov2-l")
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("name", ["hf:dinov2", "hf:/no/such/folder", "hf:./here", "hf:a/b/c", "hf:org/"])
def test_what_is_neither_folder_nor_repository_is_refused(name):
    with pytest.raises(InputError, match=r"is neither a folder here nor 'hf:ORG/REPO'"):
        load(name)


def test_a_repository_with_an_impossible_name_is_refused():
    with pytest.raises(InputError, match=r"hf:or g/mod el could not be"):
        load("hf:or g/mod el")


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"there is no config.json in .*save_pretrained"):
        load(f"hf:{tmp_path}")


@pytest.mark.parametrize("config", [{"model_type": "swin"}, {"model_type": "llama"}, {}])
def test_other_model_types_are_refused_with_the_list(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=rf"model_type {config.get('model_type')!r}; supported are clip, .*dinov3_vit"):
        load(f"hf:{tmp_path}")


def test_code_of_a_repository_is_not_run(tmp_path):
    config = {"model_type": "custom", "auto_map": {"AutoModel": "modeling.Model", "AutoConfig": "modeling.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "modeling.py").write_text("raise SystemExit('ran')")
    with pytest.raises(InputError, match="model_type 'custom'"):
        load(f"hf:{tmp_path}")


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path):
    tiny_source("clip_vision_model").save_pretrained(tmp_path)
    config = SOURCES["clip"][1].to_dict() | {"architectures": ["CLIPVisionModelWithProjection"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"lacks \d+ weights of CLIPModel \(logit_scale, .*CLIPVisionModelWithProj"):
        load(f"hf:{tmp_path}")


def test_weights_of_another_size_are_refused(tmp_path):
    save_source("dinov2", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"hidden_size": 32}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"could not be loaded from .* The files are damaged or belong to another"):
        load(f"hf:{tmp_path}")


def test_a_damaged_file_is_refused(tmp_path):
    save_source("dinov2", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(InputError, match="could not be loaded from"):
        load(f"hf:{tmp_path}")


def test_a_pickle_is_refused_and_not_run(tmp_path):
    save_source("dinov2", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"x": Harmful(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="could not be loaded from"):
        load(f"hf:{tmp_path}")
    assert not (tmp_path / "ran").exists()


def test_weights_in_torchs_own_format_are_read(tmp_path):
    model = save_source("dinov2", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    loaded = load(f"hf:{tmp_path}").module
    assert torch.equal(loaded.layernorm.weight, model.layernorm.weight)


@pytest.mark.parametrize("model_type", WITH_TEXT)
def test_a_wrapped_model_encodes_texts_as_the_model_itself(model_type, tmp_path):
    model = save_source(model_type, tmp_path)
    hvit, tokenizer = HookedViT.from_pretrained(f"hf:{tmp_path}"), load(f"hf:{tmp_path}").tokenizer
    texts = ["a red dog", "cat"]
    with torch.no_grad():
        if model_type == "blip":
            expected = model.text_proj(model.text_encoder(**tokenizer(texts)).last_hidden_state[:, 0])
        else:
            expected = model.get_text_features(**tokenizer(texts)).pooler_output
    encoded = hvit.encode_text(texts)
    assert_close(encoded, torch.nn.functional.normalize(expected, dim=-1), FLOAT32_TOL)
    assert (encoded[0] - encoded[1]).abs().max() > 1e-3


def test_a_wrapped_model_has_the_size_and_preprocessing_of_its_checkpoint(tmp_path):
    save_source("dinov2", tmp_path, preprocessing=PREPROCESSING | {"size": 56})
    hvit = HookedViT.from_pretrained(f"hf:{tmp_path}")
    assert hvit.cfg.image_size == (56, 56)
    white = hvit.normalize(torch.ones(1, 3, 56, 56))
    expected = torch.tensor([(1 - mean) / std for mean, std in zip(MEAN, STD, strict=True)])
    assert_close(white[0, :, 0, 0], expected, FLOAT32_TOL)


@pytest.mark.parametrize("head", [True, False])
def test_a_wrapped_classifier_gives_its_logits_or_what_they_are_made_of(head, tmp_path):
    model = save_source("vit", tmp_path)
    images = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    hvit = HookedViT.from_pretrained(f"hf:{tmp_path}", head=head)
    with torch.no_grad():
        expected = model(images).logits if head else model.vit(images).last_hidden_state[:, 0]
        assert_close(hvit(images), expected, FLOAT32_TOL)


def test_a_model_without_its_tokenizer_says_so(tmp_path):
    tiny_source("clip").save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="has no tokenizer"):
        HookedViT.from_pretrained(f"hf:{tmp_path}").encode_text(["a"])
