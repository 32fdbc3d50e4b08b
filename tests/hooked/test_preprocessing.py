"""What a wrapped model says of its preprocessing, and the batches that it makes of images."""

from dataclasses import replace

import open_clip
import pytest
import timm
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from torchvision.transforms.functional import to_tensor

from residual_lens.data.preprocessing import Preprocessing
from residual_lens.errors import InputError, UnsupportedModelError
from residual_lens.hooked.vit import HookedViT
from tests.hooked.checkpoints import MEAN, STD, save_source, save_timm
from tests.pictures import PICTURES, picture
from tests.tiny_models import tiny_clip, tiny_tower

PLAIN = Preprocessing((32, 32), MEAN, STD)
PICTURE = picture(32, 32)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"do_resize": False}, r"BitImageProcessor\(do_resize=False\), which gives no normalised images"),
        ({"do_center_crop": False}, r"\(size={'shortest_edge': 224}\)"),
        ({"size": {"shortest_edge": 224, "longest_edge": 300}}, r"\(size={"),
        ({"crop_size": {"shortest_edge": 224}}, r"\(crop_size={"),
        ({"resample": 1}, r"\(resample=1\)"),
        ({"do_rescale": False}, r"\(do_rescale=False\)"),
        ({"rescale_factor": 1 / 127.5}, r"\(rescale_factor=0.00784"),
        ({"do_normalize": False}, r"\(do_normalize=False\)"),
        ({"image_std": [0.5]}, r"\(image_std=\(0.5,\)\)"),
        ({"do_pad": True}, r"\(do_pad=True\)"),
        ({"image_processor_type": "MyProcessor"}, r"is published with MyProcessor; supported are BitImageProcessor, "),
        ({"image_processor_type": "Siglip2ImageProcessor"}, r"is published with Siglip2ImageProcessor; supported"),
    ],
)
def test_what_cannot_be_given_exactly_is_refused_with_the_reason(change, reason, tmp_path):
    save_source("dinov2", tmp_path, preprocessing={"image_mean": MEAN} | change)
    hvit = HookedViT.from_pretrained(f"hf:{tmp_path}")
    with pytest.raises(UnsupportedModelError, match=rf"{reason}.* give what it was trained with to HookedViT"):
        _ = hvit.preprocessing
    with pytest.raises(UnsupportedModelError, match=reason):
        hvit.preprocess(PICTURES)
    assert hvit.parts.preprocessing.mean == MEAN


def test_a_published_deviation_that_is_not_known_leaves_normalize_to_the_user(tmp_path):
    save_source("dinov2", tmp_path, preprocessing={"image_std": [0.5]})
    hvit = HookedViT.from_pretrained(f"hf:{tmp_path}")
    with pytest.raises(InputError, match="does not say which mean and std"):
        hvit.normalize(torch.zeros(1, 3, 28, 28))


def test_the_shipped_model_takes_images_of_its_size_as_they_are():
    hvit = HookedViT.from_pretrained("attribute-clip")
    assert hvit.preprocessing == Preprocessing((32, 32), (0.4, 0.4, 0.4), (0.3, 0.3, 0.3))
    image = picture(32, 32)
    assert torch.equal(hvit.preprocessing(image), hvit.normalize(to_tensor(image)[None])[0])
    transform = image_transform_v2(PreprocessCfg(**hvit.source.visual.preprocess_cfg), is_train=False)
    assert torch.equal(hvit.preprocess(PICTURES), torch.stack([transform(image) for image in PICTURES]))
    assert hvit(hvit.preprocess(PICTURES)).shape == (len(PICTURES), hvit.cfg.d_out)


def test_a_batch_has_the_models_dtype():
    hvit = HookedViT.wrap(tiny_clip("ViT-B-16"), preprocessing=PLAIN).to(torch.bfloat16)
    batch = hvit.preprocess(PICTURES[:2])
    assert torch.equal(batch, torch.stack([PLAIN(image) for image in PICTURES[:2]]).to(torch.bfloat16))
    assert hvit(batch).isfinite().all()


@pytest.mark.parametrize("images", [[], PICTURES[0]], ids=["none", "one without a list"])
def test_a_batch_is_a_list_of_some_images(images):
    hvit = HookedViT.wrap(tiny_clip("ViT-B-16"), preprocessing=PLAIN)
    with pytest.raises(InputError, match="preprocess needs a list of at least one PIL image"):
        HookedViT.preprocess.__wrapped__(hvit, images)


def test_a_model_that_does_not_say_is_refused_until_it_is_told():
    tower = tiny_tower("ViT-B-16")
    message = r"mine does not say how its images are preprocessed: give what it was trained with to HookedViT.wrap as"
    with pytest.raises(UnsupportedModelError, match=message):
        _ = HookedViT.wrap(tower, model_name="mine").preprocessing
    hvit = HookedViT.wrap(tower, preprocessing=PLAIN)
    assert hvit.preprocessing == PLAIN
    assert torch.equal(hvit.normalize(to_tensor(PICTURE)[None]), PLAIN(PICTURE)[None])


def test_mean_and_deviation_alone_are_for_normalize_only():
    hvit = HookedViT.wrap(tiny_tower("ViT-B-16"), pixel_mean=MEAN, pixel_std=STD)
    assert torch.equal(hvit.normalize(to_tensor(PICTURE)[None]), PLAIN(PICTURE)[None])
    with pytest.raises(UnsupportedModelError, match="does not say how its images are preprocessed"):
        _ = hvit.preprocessing


def test_mean_and_deviation_replace_what_is_stated():
    hvit = HookedViT.wrap(tiny_clip("ViT-B-16"), preprocessing=replace(PLAIN, mean=(0.0, 0.0, 0.0)), pixel_mean=MEAN)
    assert hvit.preprocessing == PLAIN


def test_a_size_that_is_not_the_models_is_refused():
    with pytest.raises(InputError, match="takes images of 32×32 only, not 48×32"):
        HookedViT.wrap(tiny_tower("ViT-B-16"), preprocessing=replace(PLAIN, image_size=(48, 32)))


def test_a_towers_own_statement_for_another_size_is_not_taken():
    model = tiny_clip("ViT-B-16")
    open_clip.model.set_model_preprocess_cfg(model, {"size": 224, "mean": MEAN, "std": STD})
    hvit = HookedViT.wrap(model)
    with pytest.raises(UnsupportedModelError, match="published with images of 224×224, which is not the 32×32"):
        _ = hvit.preprocessing
    assert (hvit.parts.preprocessing.mean, hvit.parts.preprocessing.std) == (MEAN, STD)


def test_models_of_any_size_are_given_images_of_their_own(tmp_path):
    stated = {"size": {"height": 56, "width": 42}, "do_center_crop": False}
    save_source("dinov2", tmp_path, preprocessing=stated)
    hvit = HookedViT.from_pretrained(f"hf:{tmp_path}")
    assert hvit.cfg.any_size
    assert hvit.cfg.image_size == hvit.preprocessing.image_size == (56, 42)
    wider = HookedViT.wrap(hvit.source, preprocessing=hvit.preprocessing, image_size=(28, 42))
    assert wider.cfg.image_size == (28, 42)
    with pytest.raises(UnsupportedModelError, match="published with images of 56×42, which is not the 28×42"):
        _ = wider.preprocessing


@pytest.mark.parametrize("size", [160, 96])
@pytest.mark.parametrize("dynamic", [True, False])
def test_timms_models_say_how_they_are_preprocessed_at_their_size(dynamic, size):
    model = timm.create_model("test_vit", img_size=size, dynamic_img_size=dynamic)
    hvit = HookedViT.wrap(model)
    config = timm.data.resolve_data_config({"img_size": size}, model=model)
    transform = timm.data.create_transform(**config, is_training=False)
    assert torch.equal(hvit.preprocess(PICTURES), torch.stack([transform(image) for image in PICTURES]))


def test_timms_models_are_loaded_with_the_size_that_they_are_published_with(tmp_path):
    model = timm.create_model("test_vit", dynamic_img_size=True)
    save_timm(model, tmp_path, "test_vit", input_size=[3, 96, 96], crop_pct=0.9, mean=MEAN, std=STD)
    (tmp_path / "config.json").write_text(
        (tmp_path / "config.json").read_text().replace('"arch', '"model_args": {"dynamic_img_size": true}, "arch', 1)
    )
    hvit = HookedViT.from_pretrained(f"timm:local-dir:{tmp_path}")
    assert hvit.preprocessing == Preprocessing((96, 96), MEAN, STD, resize_to=(106, 106))
    assert hvit.cfg.image_size == (96, 96)
