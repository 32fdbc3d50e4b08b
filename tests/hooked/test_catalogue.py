"""What `residual-lens models` lists: names that exist, sizes that are those of the wrapped architecture."""

import open_clip
import pytest
import timm
import torch
import transformers

from residual_lens.errors import InputError
from residual_lens.hooked.catalogue import ENTRIES, PUBLISHED, Entry, entries, listing
from residual_lens.hooked.loading import PAPER_MODELS, SHIPPED
from residual_lens.hooked.loading.hugging_face import FAMILIES
from residual_lens.hooked.loading.open_clip import name_and_tag
from residual_lens.hooked.loading.timm import published_at
from residual_lens.hooked.vit import HookedViT

# Layers, heads, image size: as the papers and model cards give them.
PAPER_SIZES = {
    "clip-b": (12, 12, (224, 224)),
    "clip-l": (24, 16, (224, 224)),
    "openclip-b": (12, 12, (224, 224)),
    "openclip-l": (24, 16, (224, 224)),
    "blip-l": (24, 16, (384, 384)),
    "vit-l": (24, 16, (224, 224)),
    "dinov2-l": (24, 16, (224, 224)),
}


def of_source(source: str) -> list[Entry]:
    return [entry for entry in ENTRIES if entry.checkpoint.startswith(f"{source}:")]


def name_of(entry: Entry) -> str:
    return entry.name


@pytest.mark.parametrize("entry", of_source("open_clip"), ids=name_of)
def test_names_of_open_clip_have_weights_there(entry):
    model, tag = name_and_tag(entry.checkpoint.removeprefix("open_clip:"))
    assert open_clip.is_pretrained_cfg(model, tag)


@pytest.mark.parametrize("entry", of_source("timm"), ids=name_of)
def test_names_of_timm_have_weights_there_and_say_which(entry):
    name = entry.checkpoint.removeprefix("timm:")
    assert name in timm.list_pretrained()
    assert published_at(name)


@pytest.mark.parametrize("entry", of_source("hf"), ids=name_of)
def test_models_of_hugging_face_have_the_class_that_loading_takes(entry):
    class_name, _, _ = PUBLISHED[entry.checkpoint]
    family = FAMILIES[getattr(transformers, class_name).config_class.model_type]
    assert class_name == (family.head_class if entry.head else family.model_class)


def test_every_source_is_listed_and_the_papers_models_come_first():
    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names)
    assert names[: 1 + len(PAPER_MODELS)] == [SHIPPED, *PAPER_MODELS]
    assert len(of_source("open_clip") + of_source("timm") + of_source("hf")) == len(ENTRIES) - 1
    assert set(PUBLISHED) == {entry.checkpoint for entry in of_source("hf")}


@pytest.mark.parametrize("entry", ENTRIES, ids=name_of)
def test_the_unit_count_is_that_of_the_architecture_and_nothing_is_allocated(entry, monkeypatch):
    wrapped = []
    wrap = HookedViT.wrap

    def keep(module, **options):
        wrapped.append(wrap(module, **options))
        return wrapped[-1]

    monkeypatch.setattr(HookedViT, "wrap", keep)
    listed = listing(entry)
    (hvit,) = wrapped
    assert {parameter.device.type for parameter in hvit.source.parameters()} == {"meta"}
    assert listed.n_units == len(hvit.units)
    assert listed.n_units == 1 + listed.n_layers * (listed.n_heads + 1) + hvit.cfg.pool_mlp + 1
    assert hvit.cfg.pool_mlp == ("MLP" in listed.pooling)
    if entry.name in PAPER_SIZES:
        assert (listed.n_layers, listed.n_heads, listed.image_size) == PAPER_SIZES[entry.name]
        assert listed.pooling == "class token"


def test_the_shipped_model_is_listed_as_it_is():
    hvit, listed = HookedViT.from_pretrained(SHIPPED), listing(*entries(SHIPPED))
    assert listed.n_units == len(hvit.units)
    assert (listed.n_layers, listed.n_heads) == (hvit.cfg.n_layers, hvit.cfg.n_heads)
    assert listed.image_size == hvit.cfg.image_size


def test_listing_leaves_torch_as_it_was():
    listing(*entries(SHIPPED))
    torch.manual_seed(0)
    assert torch.nn.Linear(2, 2).weight.device.type == "cpu"
    assert torch.zeros(2).fill_(3).tolist() == [3, 3]


@pytest.mark.parametrize(
    ("text", "found"), [("DINOV2-l", "dinov2-l"), ("blip-itm", "blip-l"), ("DeiT-3", "deit3_base")]
)
def test_models_are_found_by_name_checkpoint_and_kind(text, found):
    assert any(found in entry.name for entry in entries(text))


def test_a_text_that_is_in_no_name_is_refused():
    with pytest.raises(InputError, match=r"No listed model contains 'resnet' in its name or kind"):
        entries("resnet")
