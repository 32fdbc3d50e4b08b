"""A saved ResiDual comes back as it was, and whatever is damaged is refused with the reason."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import hub_mixin

from residual_lens.errors import InputError, MismatchError
from residual_lens.interventions import Adapter, ResiDual, saving
from tests.interventions.tiny_bases import bases_for, wrapped


@pytest.fixture
def residual(hvit) -> ResiDual:
    return ResiDual.from_bases(bases_for(hvit), variant="residual*", explained_variance=0.8, seed=3)


@pytest.fixture
def folder(residual, tmp_path) -> Path:
    residual.save(tmp_path / "adapters" / "digits")
    return tmp_path / "adapters" / "digits"


def edit_config(folder: Path, **changes: object) -> None:
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    saved["config"] |= changes
    (folder / "config.json").write_text(json.dumps(saved), encoding="utf-8")


@torch.no_grad()
@pytest.mark.parametrize("path", ["direct", "stream"])
def test_a_saved_residual_gives_the_same_numbers_after_loading(hvit, images, residual, folder, path):
    loaded = ResiDual.load(folder)
    assert loaded.config == residual.config
    assert torch.equal(loaded.scales, residual.scales)
    with residual.attached(hvit, path=path):
        expected = hvit(images)
    with loaded.attached(hvit, path=path):
        assert torch.equal(hvit(images), expected)


def test_only_json_and_safetensors_are_written(folder):
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert (saved["kind"], saved["format"]) == ("ResiDual", 1)
    assert saved["config"]["variant"] == "residual*"


def test_saving_again_replaces_the_older_save(residual, folder):
    with torch.no_grad():
        residual.scales += 1
    residual.save(folder)
    assert torch.equal(ResiDual.load(folder).scales, residual.scales)


def test_a_loaded_residual_is_refused_by_another_model(folder):
    with pytest.raises(MismatchError, match="other weights"), ResiDual.load(folder).attached(wrapped(seed=1)):
        pass


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"has no {name}: give a folder that ResiDual.save wrote"):
        ResiDual.load(folder)


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere has no config.json"):
        ResiDual.load(tmp_path / "nowhere")


@pytest.mark.parametrize("damage", ["one bit", "cut short", "empty"])
def test_damaged_tensors_are_refused(folder, damage):
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes({"one bit": bytes(data), "cut short": bytes(data[:100]), "empty": b""}[damage])
    with pytest.raises(InputError, match=r"not the file that config.json describes.*Save again"):
        ResiDual.load(folder)


@pytest.mark.parametrize("text", ["", "{", "\udcff"])
def test_a_damaged_config_is_refused(folder, text):
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"config.json is not JSON"):
        ResiDual.load(folder)


def test_another_kind_or_format_is_refused(folder):
    for wrong in ('{"kind": "Coarse", "format": 1}', '{"kind": "ResiDual", "format": 2}', "[1, 2]"):
        (folder / "config.json").write_text(wrong, encoding="utf-8")
        with pytest.raises(InputError, match="expected kind='ResiDual', format=1"):
            ResiDual.load(folder)


def test_scales_of_another_size_than_the_config_says_are_refused(folder, residual):
    counts = list(residual.config.counts)
    counts[0] += 1
    edit_config(folder, counts=counts)
    with pytest.raises(InputError, match=r"do not belong together.*scales"):
        ResiDual.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counts": [1, 2]}, "9 units have 2 counts"),
        ({"units": ["L0H0", "head five"], "counts": [1, 1]}, "No unit is called 'head five'"),
        ({"colour": "red"}, "cannot be read: config has fields .*colour"),
        ({"d_out": "x"}, "cannot be read: d_out is 'x', expected int"),
        ({"d_out": 2.5}, r"cannot be read: d_out is 2\.5, expected int"),
        ({"d_out": -1}, "cannot be read: d_out is -1, expected int, not below 0"),
        ({"counts": [1, -1]}, r"cannot be read: counts is \(1, -1\), expected tuple\[int, \.\.\.\], not below 0"),
        ({"d_out": 10**12}, "cannot be read: d_out is 1000000000000, and no side of its tensors is longer than"),
        ({"counts": [10**30] * 9}, "cannot be read: counts is 1000000000000000000000000000000, and no side"),
        ({"variant": "residuals"}, "cannot be read: variant is 'residuals'"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(folder, changes, message):
    edit_config(folder, **changes)
    with pytest.raises(InputError, match=message):
        ResiDual.load(folder)


def test_a_whole_number_is_a_float_as_well(tmp_path):
    @dataclass
    class Config:
        scale: float

    saving.save_folder(tmp_path, kind="any", config=Config(1), tensors={})
    assert saving.load_folder(tmp_path, kind="any", config_type=Config)[0] == Config(1.0)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_save_that_fails_half_way_leaves_the_old_one_or_a_clear_error(residual, folder, monkeypatch, file):
    before = residual.scales.detach().clone()
    with torch.no_grad():
        residual.scales += 1
    write = saving.write_atomically

    def interrupted(path: Path, data: bytes) -> None:
        if path.name == file:
            raise OSError("disk full")
        write(path, data)

    monkeypatch.setattr(saving, "write_atomically", interrupted)
    with pytest.raises(OSError, match="disk full"):
        residual.save(folder)
    if file == "model.safetensors":
        assert torch.equal(ResiDual.load(folder).scales, before)
    else:
        with pytest.raises(InputError, match="the save was interrupted"):
            ResiDual.load(folder)


CARD = "---\nlibrary_name: residual_lens\n---\n# residual of tiny on digits\n"


def test_save_pretrained_adds_a_model_card_that_comes_back(residual, tmp_path):
    residual.card = CARD
    residual.save_pretrained(tmp_path / "shared")
    assert sorted(file.name for file in (tmp_path / "shared").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    loaded = ResiDual.from_pretrained(tmp_path / "shared")
    assert (loaded.config, loaded.card) == (residual.config, CARD)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in residual.state_dict().items())
    loaded.card = CARD.replace("digits", "letters")
    loaded.save_pretrained(tmp_path / "shared")
    assert "letters" in (tmp_path / "shared" / "README.md").read_text()


def test_an_adapter_without_a_card_says_so(folder, residual):
    assert ResiDual.from_pretrained(folder).card == residual.card == saving.NO_CARD
    assert "was not written down" in str(residual.generate_model_card())


def test_a_folder_of_another_kind_is_refused_when_it_is_read_by_hub_name(folder):
    edit_config(folder, colour="red")
    with pytest.raises(InputError, match=r"cannot be read: config has fields .*colour"):
        ResiDual.from_pretrained(folder)


class FakeHub:
    """What `push_to_hub` asks of the hub: it keeps the files of each repository in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create_repo(self, repo_id: str, **options: object) -> SimpleNamespace:
        self.options = options
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, *, repo_id: str, folder_path: Path, **options: object) -> str:
        shutil.copytree(folder_path, self.root / repo_id)
        return f"https://hub/{repo_id}"


def test_push_to_hub_uploads_what_from_pretrained_reads(residual, tmp_path, monkeypatch):
    hub = FakeHub(tmp_path)
    monkeypatch.setattr(hub_mixin, "HfApi", lambda token: hub)
    residual.card = CARD
    assert residual.push_to_hub("me/residual-digits", private=True) == "https://hub/me/residual-digits"
    assert hub.options["private"]
    asked = {}

    def download(repo_id: str, **options: object) -> str:
        asked.update(options)
        return str(tmp_path / repo_id)

    monkeypatch.setattr(saving, "snapshot_download", download)
    monkeypatch.chdir(tmp_path / "me")
    loaded = ResiDual.from_pretrained("me/residual-digits", revision="main")
    assert torch.equal(loaded.scales, residual.scales)
    assert loaded.card == CARD
    assert asked["revision"] == "main"
    # What is not read, such as what peft reads of LoRA's, is not even fetched.
    assert asked["allow_patterns"] == ["config.json", "model.safetensors", "README.md"]


@pytest.mark.parametrize("where", ["me/nothing", "not a name!"])
def test_a_repository_that_cannot_be_fetched_is_refused(tmp_path, where):
    with pytest.raises(InputError, match=f"{where} is no folder, and cannot be fetched from the Hugging Face hub"):
        ResiDual.from_pretrained(where, cache_dir=tmp_path, local_files_only=True)


def test_a_class_of_several_kinds_says_what_reads_them(folder):
    with pytest.raises(InputError, match=r"Adapter stands for .* several kinds: .*load_adapter\(folder, hvit\)"):
        Adapter.from_pretrained(folder)
