"""Every source's own transform, bit for bit, from what it states of itself."""

import json

import open_clip
import pytest
import timm
import torch
import transformers
from open_clip.transform import PreprocessCfg, image_transform_v2
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from residual_lens.data.preprocessing import Preprocessing, UnknownPreprocessing
from residual_lens.hooked.loading.hugging_face import FAMILIES
from residual_lens.hooked.loading.preprocessing import PROCESSORS, of_hugging_face, of_open_clip, of_timm
from tests.hooked.checkpoints import MEAN, STD, save_source
from tests.pictures import PICTURES, SIZES, picture


def assert_same(preprocessing, transform, pictures=PICTURES):
    assert isinstance(preprocessing, Preprocessing)
    for image in pictures:
        expected = transform(image)
        assert tuple(expected.shape[1:]) == preprocessing.image_size
        assert torch.equal(preprocessing(image), expected)


@pytest.mark.parametrize("size", [32, (32, 32), (24, 40)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "random"])
@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
def test_open_clips_transform(resize_mode, interpolation, size):
    stated = {"size": size, "mean": MEAN, "std": STD, "interpolation": interpolation, "resize_mode": resize_mode}
    transform = image_transform_v2(PreprocessCfg(**stated, fill_color=127), is_train=False)
    assert_same(of_open_clip(stated | {"fill_color": 127}, (8, 8)), transform)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_open_clips_transform_of_images_that_are_not_rgb(mode):
    pictures = [picture(*size, mode) for size in SIZES]
    if mode == "RGBA":
        for image in pictures:
            image.putalpha(image.getchannel("R"))
    transform = image_transform_v2(PreprocessCfg(32), is_train=False)
    assert_same(of_open_clip({}, (32, 32)), transform, pictures)


def test_every_published_preprocessing_of_open_clip_is_understood():
    pretrained = [open_clip.get_pretrained_cfg(*pair) for pair in open_clip.list_pretrained()]
    keys = ("mean", "std", "interpolation", "resize_mode")
    stated = {json.dumps({key: cfg.get(key) for key in keys}) for cfg in pretrained}
    assert len(stated) > 3
    for cfg in map(json.loads, stated):
        given = {key: value for key, value in cfg.items() if value is not None}
        transform = image_transform_v2(PreprocessCfg(32, **given), is_train=False)
        assert_same(of_open_clip(cfg, (32, 32)), transform, PICTURES[:2])


@pytest.mark.parametrize("change", [{"interpolation": "nearest"}, {"resize_mode": "stretch"}, {"mean": (0.5, 0.5)}])
def test_what_open_clip_does_not_take_is_not_known(change):
    unknown = of_open_clip({"std": STD} | change, (32, 32))
    assert isinstance(unknown, UnknownPreprocessing)
    assert f"{change}"[1:-1] in unknown.reason
    assert unknown.std == STD


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.95, 0.875])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_timms_transform(crop_mode, crop_pct, interpolation, size):
    stated = {"crop_mode": crop_mode, "crop_pct": crop_pct, "interpolation": interpolation, "mean": MEAN, "std": STD}
    config = timm.data.resolve_data_config({"input_size": (3, *size)}, pretrained_cfg=stated)
    assert_same(of_timm(stated, size), timm.data.create_transform(**config, is_training=False))


def test_every_published_preprocessing_of_timms_vision_transformers_is_understood():
    published = [timm.get_pretrained_cfg(name) for name in timm.list_pretrained(["vit_*", "eva*", "deit*", "beit*"])]
    keys = ("crop_mode", "crop_pct", "interpolation", "mean", "std")
    stated = {json.dumps({key: getattr(cfg, key) for key in keys}) for cfg in published}
    assert len(stated) > 5
    for cfg in map(json.loads, stated):
        config = timm.data.resolve_data_config({"input_size": (3, 32, 32)}, pretrained_cfg=cfg)
        assert_same(of_timm(cfg, (32, 32)), timm.data.create_transform(**config, is_training=False), PICTURES[:2])


@pytest.mark.parametrize("change", [{"interpolation": "lanczos"}, {"mean": (0.5,)}])
def test_what_timm_interpolates_otherwise_is_not_known(change):
    unknown = of_timm({"std": STD} | change, (32, 32))
    assert isinstance(unknown, UnknownPreprocessing)
    assert "supported are bicubic and bilinear in three channels" in unknown.reason
    assert unknown.std == STD


def processor_transform(processor):
    return lambda image: processor(image, return_tensors="pt")["pixel_values"][0]


SIDES = {"height": 32, "width": 32}
CROP = {"do_center_crop": True, "crop_size": SIDES}
PROCESSED = {
    "squashed": {"size": SIDES, "do_center_crop": False},
    "not square": {"size": {"height": 24, "width": 40}, "do_center_crop": False},
    "shortest and cropped": {"size": {"shortest_edge": 37}} | CROP,
    "squashed and cropped": {"size": {"height": 33, "width": 39}} | CROP,
    "padded": {"size": {"shortest_edge": 21}} | CROP,
    "not square crop": {"size": {"shortest_edge": 29}} | CROP | {"crop_size": {"height": 24, "width": 41}},
}


@pytest.mark.parametrize("case", PROCESSED)
@pytest.mark.parametrize("resample", [2, 3])
@pytest.mark.parametrize("name", PROCESSORS)
def test_hugging_faces_processors(name, resample, case):
    stated = PROCESSED[case] | {"resample": resample, "image_mean": list(MEAN), "image_std": list(STD)}
    processor = getattr(transformers, name)(**stated)
    assert_same(of_hugging_face(processor.to_dict(), "none"), processor_transform(processor))
    assert of_hugging_face(stated, name) == of_hugging_face(processor.to_dict(), "none")


@pytest.mark.parametrize("name", [f"{name}ImageProcessor" for name in ("CLIP", "Siglip", "Blip", "Bit")])
@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_hugging_faces_processors_of_images_that_are_not_rgb(name, mode):
    pictures = [picture(*size, mode) for size in SIZES[:3]]
    if mode == "RGBA":
        for image in pictures:
            image.putalpha(image.getchannel("R"))
    processor = getattr(transformers, name)()
    assert_same(of_hugging_face({}, name), processor_transform(processor), pictures)


# As the files on the Hub are written: by early versions of transformers, by the fast processors, by version 5.
FILES = [
    {"feature_extractor_type": "ViTFeatureExtractor", "resample": 2, "size": 32, "image_mean": MEAN, "image_std": STD},
    {"feature_extractor_type": "CLIPFeatureExtractor", "do_center_crop": True, "crop_size": 32, "size": 36},
    {"image_processor_type": "DINOv3ViTImageProcessorFast", "do_center_crop": None, "size": SIDES},
    {"image_processor_type": "BitImageProcessor", "crop_size": SIDES, "size": {"shortest_edge": 40}},
    {"do_resize": True},
]


@pytest.mark.parametrize("file", FILES)
def test_files_mean_what_transformers_itself_reads_in_them(file, tmp_path):
    save_source("dinov2", tmp_path, preprocessing=file)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    assert_same(of_hugging_face(file, "BitImageProcessor"), processor_transform(processor))


def test_files_that_name_no_class_are_read_with_that_of_transformers():
    for model_type, family in FAMILIES.items():
        known = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type)
        assert known is None or known["torchvision"] == family.processor
