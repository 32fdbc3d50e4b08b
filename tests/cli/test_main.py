"""The command: help with examples, user errors in one line with exit code 2, thin subcommands."""

from pathlib import Path

import h5py
import huggingface_hub
import pytest

from residual_lens.cli import COMMANDS
from residual_lens.data import task_names
from residual_lens.errors import InputError
from tests.hooked.checkpoints import save_source


@pytest.mark.parametrize("subcommand", COMMANDS)
def test_help_of_every_subcommand_has_an_example(run, subcommand):
    code, out, _ = run(subcommand, "--help")
    assert code == 0
    description = out.split("options", 1)[0]
    assert f"\n    residual-lens {subcommand}" in description.split("In a shell:")[1]


def test_help_lists_every_subcommand_with_what_it_does(run):
    code, out, _ = run("--help")
    assert code == 0
    for word in COMMANDS:
        assert word in out
    for word in ("Decompose, analyse and adapt", "List the tasks", "List the models", "List a model's hook"):
        assert word in out


def test_tasks_lists_every_task(run):
    code, out, _ = run("tasks")
    assert code == 0
    assert tuple(out.split()) == task_names()


def test_models_lists_names_checkpoints_and_units_in_one_line_each(run):
    code, out, _ = run("models", "--filter", "dinov2-l")
    assert code == 0
    (line,) = [line for line in out.splitlines() if "dinov2-l" in line]
    for word in ("hf:facebook/dinov2-large", "24 × 16", "class token", "410", "224 × 224"):
        assert word in line
    assert "HookedViT.from_pretrained(name)" in out
    assert "HookedViT.wrap(module)" in out


def test_models_says_which_take_their_head(run):
    assert "hf:google/vit-base-patch16-224, head=True" in run("models", "--filter", "imageclassification")[1]


def test_no_model_found_is_one_line(run):
    code, out, err = run("models", "--filter", "resnet")
    assert (code, out) == (2, "")
    assert err == "residual-lens: No listed model contains 'resnet' in its name or kind: see `residual-lens models`.\n"


def test_a_model_that_cannot_be_fetched_is_one_line_without_a_traceback(run, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for name, origin in [
        ("openclip-b", "laion/CLIP-ViT-B-16-laion2B-s34B-b88K/"),
        ("dinov2-l", "facebook/dinov2-large"),
        ("timm:vit_base_patch16_224.dino", "timm/vit_base_patch16_224.dino"),
    ]:
        code, out, err = run("hooks", "--model", name)
        assert (code, out) == (2, "")
        assert err.startswith(f"residual-lens: {name} could not be fetched from {origin}: ")
        assert err.count("\n") == 1


def test_hooks_takes_models_of_every_source(run, tmp_path):
    save_source("dinov2", tmp_path)
    code, out, _ = run("hooks", "--model", f"hf:{tmp_path}")
    assert code == 0
    assert "blocks.1.attn.hook_direct" in out


def test_hooks_lists_every_hook_point_with_its_shape(run):
    code, out, _ = run("hooks")
    assert code == 0
    for word in ("blocks.0.attn.hook_z", "blocks.5.hook_mlp_direct", "ln_final.hook_scale", "hook_image_embed"):
        assert word in out
    assert "1 × 17 × 6 × 24" in out


def test_encode_writes_a_store_that_check_finds_sound(run, tmp_path):
    out = tmp_path / "digits.h5"
    arguments = ["--model", "attribute-clip", "--data", "digits", "--limit", "20", "--out", str(out)]
    code, printed, err = run("encode", *arguments, "--device", "cpu")
    assert (code, printed) == (0, "")
    assert err.endswith(f"{out}: 20 samples, 44 units\n")
    before = out.read_bytes()
    assert run("encode", *arguments, "--device", "cpu")[0] == 0
    assert out.read_bytes() == before
    assert run("check", str(out)) == (0, f"{out}: all well. 20 samples, 44 units\n", "")
    code, _, err = run("encode", *arguments, "--format", "float32")
    assert code == 2
    assert err.startswith(f"residual-lens: {out} is there already, and was made from something else: value_format is ")
    assert err.count("\n") == 1


def test_check_lists_all_damage(run, tmp_path):
    out = tmp_path / "digits.h5"
    run("encode", "--model", "attribute-clip", "--data", "digits", "--limit", "20", "--out", str(out))
    with h5py.File(out) as file:
        places = [file[name].id.get_offset() for name in ("heads/values", "samples/label", "samples/status")]
    raw = bytearray(out.read_bytes())
    for place in places:
        raw[place] ^= 1
    out.write_bytes(raw)
    code, printed, err = run("check", str(out))
    assert (code, printed) == (2, "")
    assert err.count("is not what was written") == 3
    assert run("check", str(tmp_path / "other.h5"))[::2] == (
        2,
        f"residual-lens: There is no file {tmp_path / 'other.h5'}.\n",
    )


def test_demo_passes_its_options_on(run, monkeypatch, tmp_path):
    from residual_lens import demo

    calls = []
    monkeypatch.setattr(demo, "run_demo", lambda out, **options: calls.append((out, options)))
    assert run("demo", "--tasks", "digits", "attributes:size", "--seed", "3", "--out", str(tmp_path))[0] == 0
    assert run("demo")[0] == 0
    assert calls == [
        (tmp_path, {"seed": 3, "tasks": ("digits", "attributes:size")}),
        (Path("demo"), {"seed": 0, "tasks": None}),
    ]


def test_an_unknown_task_is_one_line_without_a_traceback(run, tmp_path):
    code, out, err = run("demo", "--tasks", "digits", "attributes:flavour", "--out", str(tmp_path / "out"))
    assert (code, out) == (2, "")
    assert err.startswith("residual-lens: Unknown tasks attributes:flavour; known are digits, ")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_unknown_model_is_one_line_without_a_traceback(run):
    code, out, err = run("hooks", "--model", "open_clip:ViT-B-17/openai")
    assert (code, out) == (2, "")
    assert err.startswith("residual-lens: ")
    assert "ViT-B-16" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "text", ["shape [batch, 3, 32, 32]", "['digits']", "a [/closing] tag", "[bold]not meant[/bold]"]
)
def test_brackets_in_a_message_are_printed_as_they_are(run, monkeypatch, text):
    def fails(*args, **kwargs):
        raise InputError(f"got {text}")

    monkeypatch.setattr("residual_lens.data.task_names", fails)
    code, _, err = run("tasks")
    assert (code, err) == (2, f"residual-lens: got {text}\n")


def test_an_interruption_exits_quietly(run, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("residual_lens.data.task_names", interrupted)
    assert run("tasks") == (130, "", "")


def test_a_programming_error_keeps_its_traceback(run, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr("residual_lens.data.task_names", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        run("tasks")


def test_an_unknown_option_is_refused_with_exit_code_two(run):
    code, _, err = run("demo", "--sede", "3")
    assert code == 2
    assert "--sede" in err
    assert "--seed" in err


@pytest.mark.parametrize(
    "command",
    [
        "encode --model attribute-clip --data digits --out a/b.h5 --device gpu",
        "describe --store a.h5 --dictionary attributes --out a/b.json --device gpu",
        "train --model attribute-clip --data digits --method coarse --device gpu",
        "sweep --models attribute-clip --data digits -- --device gpu",
    ],
)
def test_a_device_that_is_not_here_is_one_line_and_leaves_nothing(run, command, tmp_path):
    code, out, err = run(*command.split())
    assert (code, out) == (2, "")
    assert err.startswith("residual-lens: got device 'gpu', expected one that is here: cpu")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("encode --model attribute-clip --data digitz --out a/b.h5", "Did you mean digits?"),
        ("describe --store a.h5 --dictionary attributes --out a/b.json", "There is no file a.h5"),
        ("train --model attribute-clip --data digits --method coarze", "Did you mean coarse?"),
        ("train --model attribute-clap --data digits --method coarse", "Close ones: attribute-clip"),
        (
            "train --model attribute-clip --data digits --method zero-shot --l1 0.1",
            "got l1=0.1, which zero-shot has no",
        ),
        ("sweep --models m --data d --methods linear --slurm a/b.sh -- --rank 2", "got rank, which none of these"),
        ("explain runs/none", "There is no runs/none/config.json"),
        ("table runs", "There is no folder runs"),
    ],
)
def test_what_is_refused_leaves_nothing(run, command, message, tmp_path):
    code, out, err = run(*command.split())
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
