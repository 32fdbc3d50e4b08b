"""A run's settings: what its folder is called, a trip through JSON, refusals."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from residual_lens.errors import InputError
from residual_lens.training.runs import Resources, RunConfig, run_folder

PLAIN = RunConfig("clip-l", "eurosat", "residual")


def checked(settings: RunConfig | Resources, **changes: object) -> None:
    """Checks changed settings without those of types, which are in force in tests alone."""
    changed = object.__new__(type(settings))
    vars(changed).update(vars(settings) | changes)
    changed.__post_init__()


def test_a_plain_run_is_called_by_model_data_method_and_seed(tmp_path):
    assert replace(PLAIN, seed=3).folder_name == "clip-l--eurosat--residual--3"
    assert run_folder(PLAIN, tmp_path) == tmp_path / "clip-l--eurosat--residual--0"


def test_every_other_setting_gives_another_folder():
    changes = {"units": ("L11",), "classifier": "means", "scales": "ones", "templates": "a {}.", "bases": "a.h5"}
    changes |= {
        "precision": "bf16-mixed",
        "image_column": "image",
        "label_column": "label",
        "explained_variance": 0.5,
        "learning_rate": 0.1,
        "l1": 0.1,
    }
    for field in fields(RunConfig)[4:]:
        value = getattr(PLAIN, field.name)
        if field.name not in changes:
            changes[field.name] = not value if isinstance(value, bool) else (value or 0) + 1
    names = {replace(PLAIN, **{name: value}).folder_name for name, value in changes.items()}
    assert len(names) == len(changes) == len(fields(RunConfig)) - 4
    assert all(name.startswith("clip-l--eurosat--residual--0--") for name in names)
    assert replace(PLAIN, shots=2).options == {"shots": 2}


def test_names_are_safe_and_folders_of_one_name_are_told_apart():
    star = RunConfig("open_clip:ViT-B-16/openai", "folder:/somewhere/birds", "residual*")
    assert star.folder_name.startswith("open_clip-ViT-B-16-openai--folder-birds--residual-star--0--")
    assert star.folder_name != replace(star, data="folder:/elsewhere/birds").folder_name
    assert replace(star, data="hf:org/birds").folder_name.endswith("--hf-org-birds--residual-star--0")
    assert "/" not in star.folder_name
    assert star.folder_name != replace(star, method="residual").folder_name


def test_settings_come_back_from_json():
    config = replace(PLAIN, units=("L11", "L3H5"), shots=4, keep_mean=True, learning_rate=0.1)
    assert RunConfig.from_dict(config.to_dict()) == config
    assert RunConfig.from_dict({"model": "clip-l", "data": "eurosat", "method": "residual"}) == PLAIN
    with pytest.raises(InputError, match="A run has no setting colour"):
        RunConfig.from_dict(config.to_dict() | {"colour": "red"})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        *[({name: 0}, f"{name} starts at 1, got 0") for name in ("limit", "shots", "rank", "epochs", "patience")],
        ({"batch_size": -1}, "batch_size starts at 1, got -1"),
        ({"epochs": 2.5}, r"epochs is a whole number, got 2\.5"),
        ({"rank": None}, "rank is a whole number, got None"),
        ({"shots": True}, "shots is a whole number, got True"),
        ({"seed": -1}, "seed starts at 0, got -1"),
        ({"data_seed": -1}, "data_seed starts at 0, got -1"),
        ({"classifier": "texts"}, "classifier is one of auto, text, means, got 'texts'"),
        ({"scales": "zeros"}, "scales is one of randn, ones, spectrum, got 'zeros'"),
        ({"precision": "bf16"}, "precision is one of 32-true, bf16-mixed, 16-mixed, got 'bf16'"),
        ({"explained_variance": 0.0}, r"a share in \(0, 1\], got 0.0"),
        ({"explained_variance": float("nan")}, "a share in"),
        ({"l1": -1.0}, "0 or more, got -1.0"),
        ({"learning_rate": 0.0}, "above 0, got 0.0"),
        ({"learning_rate": float("nan")}, "above 0, got nan"),
        ({"learning_rate": 0.1, "find_learning_rate": True}, "give one of them"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        checked(PLAIN, **wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        *[({name: 0}, f"{name} starts at 1, got 0") for name in ("devices", "num_nodes", "encode_batch_size")],
        ({"devices": "auto"}, "devices is a whole number, got 'auto'"),
        ({"workers": -1}, "workers starts at 0, got -1"),
        ({"logger": "mlflow"}, "logger is one of csv, tensorboard, wandb, got 'mlflow'"),
    ],
)
def test_resources_out_of_range_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        checked(Resources(), **wrong)


def test_settings_in_range_are_not_refused():
    checked(PLAIN, limit=1, shots=None, seed=0, precision="16-mixed")
    checked(Resources(), devices=2, workers=0, logger="wandb")


def test_texts_become_paths():
    given = Resources()
    for name in ("stores", "root"):
        # As where no types are checked.
        object.__setattr__(given, name, "a/b")
    given.__post_init__()
    assert (given.stores, given.root) == (Path("a/b"), Path("a/b"))


def test_resources_and_settings_share_no_name():
    assert not {field.name for field in fields(Resources)} & {field.name for field in fields(RunConfig)}
