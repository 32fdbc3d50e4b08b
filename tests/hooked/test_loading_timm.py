"""Loading from timm: its own small models out of a Hub cache or a folder, without a network."""

import huggingface_hub
import pytest
import timm
import torch

from residual_lens.data.preprocessing import Preprocessing
from residual_lens.errors import InputError
from residual_lens.hooked.loading import load
from tests.hooked.checkpoints import MEAN, STD, Harmful, publish, save_timm


@pytest.fixture(autouse=True)
def hub(monkeypatch, tmp_path):
    """The folder of the Hub cache; nothing is asked of a network."""
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return cache


def small_model(architecture="test_vit"):
    torch.manual_seed(0)
    return timm.create_model(architecture).eval()


def images(size=160):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("architecture", ["test_vit", "test_vit2", "test_vit3"])
@pytest.mark.parametrize("tagged", [True, False])
def test_a_name_gives_the_published_weights_without_the_head(architecture, tagged, hub, tmp_path):
    model = small_model(architecture)
    save_timm(model, tmp_path / "folder", architecture)
    publish(tmp_path / "folder", f"timm/{architecture}.r160_in1k", hub)
    loaded = load(f"timm:{architecture}{'.r160_in1k' if tagged else ''}")
    assert not loaded.module.training
    assert loaded.module.num_classes == 0
    assert loaded.tokenizer is None
    assert loaded.preprocessing == Preprocessing((160, 160), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), resize_to=(168, 168))
    features = model.forward_head(model.forward_features(images()), pre_logits=True)
    assert torch.equal(loaded.module(images()), features)


def test_a_model_without_head_is_what_timm_makes_of_no_classes(hub, tmp_path):
    save_timm(small_model("test_vit2"), tmp_path / "folder", "test_vit2")
    publish(tmp_path / "folder", "timm/test_vit2.r160_in1k", hub)
    loaded = load("timm:test_vit2.r160_in1k").module
    headless = timm.create_model("test_vit2.r160_in1k", pretrained=True, num_classes=0).eval()
    assert {name: type(part) for name, part in loaded.named_modules()} == {
        name: type(part) for name, part in headless.named_modules()
    }
    assert torch.equal(loaded(images()), headless(images()))


def test_the_head_is_kept_when_asked(hub, tmp_path):
    model = small_model()
    save_timm(model, tmp_path / "folder", "test_vit")
    publish(tmp_path / "folder", "timm/test_vit.r160_in1k", hub)
    assert torch.equal(load("timm:test_vit.r160_in1k", head=True).module(images()), model(images()))


def test_a_folder_says_everything_itself(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=0, img_size=96, global_pool="avg").eval()
    save_timm(model, tmp_path, "test_vit", input_size=[3, 96, 96], fixed_input_size=True, mean=MEAN, std=STD)
    (tmp_path / "config.json").write_text(
        (tmp_path / "config.json")
        .read_text()
        .replace('"architecture"', '"model_args": {"global_pool": "avg"}, "num_classes": 0, "architecture"', 1)
    )
    loaded = load(f"timm:local-dir:{tmp_path}")
    assert loaded.preprocessing == Preprocessing((96, 96), MEAN, STD, resize_to=(101, 101))
    assert torch.equal(loaded.module(images(96)), model(images(96)))
    with pytest.raises(InputError, match="was published without a linear head; load it with head=False"):
        load(f"timm:local-dir:{tmp_path}", head=True)


@pytest.mark.parametrize("head", [True, False])
def test_a_file_that_lacks_weights_is_refused(head, tmp_path):
    model = small_model()
    save_timm(model, tmp_path, "test_vit")
    del model.blocks[1].norm1
    model.blocks[1].norm1 = torch.nn.Identity()
    save_timm(model, tmp_path, "test_vit")
    with pytest.raises(InputError, match=r"could not be loaded from local-dir:.*blocks\.1\.norm1\.weight"):
        load(f"timm:local-dir:{tmp_path}", head=head)


def test_a_pickle_is_refused_and_not_run(tmp_path):
    save_timm(small_model(), tmp_path, "test_vit")
    (tmp_path / "model.safetensors").unlink()
    torch.save({"x": Harmful(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="could not be loaded from"):
        load(f"timm:local-dir:{tmp_path}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:vit_base_patch61_224", r"timm has no model 'vit_base_patch61_224'. Close ones: vit_base_patch16_224, "),
        ("timm:xx", r"timm has no model 'xx'. timm.list_pretrained\(\) lists them"),
        ("timm:vit_base_patch16_224.openai", r"no weights 'openai' for vit_base_patch16_224. Give one of: timm:vit_ba"),
        ("timm:test_vit4", r"timm has no pretrained weights for test_vit4; wrap a model of your own"),
        ("timm:vit_tiny_patch16_224_in21k", r"timm calls .*: give 'timm:vit_tiny_patch16_224.augreg_in21k'"),
        ("timm:local-dir:/no/such/folder", r"could not be fetched from local-dir:/no/such/folder: Config file not f"),
    ],
)
def test_unknown_names_are_refused_without_a_download(name, message):
    with pytest.raises(InputError, match=message):
        load(name)


@pytest.mark.parametrize("name", ["timm:vit_base_patch14_dinov2.lvd142m", "timm:hf-hub:someone/vit"])
def test_what_is_not_here_says_where_it_was_looked_for_and_what_to_do(name):
    origin = "hf-hub:someone/vit" if "hf-hub" in name else "timm/vit_base_patch14_dinov2.lvd142m"
    with pytest.raises(InputError, match=rf"could not be fetched from {origin}: .*set HF_HUB_OFFLINE=1") as caught:
        load(name)
    assert isinstance(caught.value.__cause__, OSError)
