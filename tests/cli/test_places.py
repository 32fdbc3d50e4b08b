"""Where commands write: what cannot be written to is told of before a model is loaded or anything is read."""

import pytest

from residual_lens.hooked.vit import HookedViT

TRAIN = "--model attribute-clip --data digits --method residual"
DESCRIBE = "describe --store a.h5 --dictionary attributes"


@pytest.fixture(autouse=True)
def _no_model(monkeypatch):
    monkeypatch.setattr(HookedViT, "from_pretrained", None)


@pytest.mark.parametrize(
    "command",
    [
        "encode --model attribute-clip --data digits --out .",
        f"{DESCRIBE} --out .",
        f"{DESCRIBE} --out a.json --markdown .",
        "table runs --markdown .",
        "table runs --csv .",
        "table runs --latex .",
        "sweep --models m --data d --slurm .",
    ],
)
def test_a_folder_is_no_file_to_write(run, command):
    code, out, err = run(*command.split())
    assert (code, out) == (2, "")
    assert err == (
        f"residual-lens: {command.split()[-2]} is a file to write, and . is a folder: give a file's name as well.\n"
    )


@pytest.mark.parametrize(
    "command",
    [
        "encode --model attribute-clip --data digits --out taken/a.h5",
        f"{DESCRIBE} --out taken/a.json",
        f"{DESCRIBE} --out a.json --markdown taken/a.md",
        f"{DESCRIBE} --out a.json --cache taken",
        "explain runs --out taken/a",
        "explain runs --cache taken/a",
        "explain runs --stores taken",
        "table runs --markdown taken/a.md",
        "table runs --csv taken/a.csv",
        "table runs --figures taken",
        f"train {TRAIN} --out taken",
        f"train {TRAIN} --stores taken/a",
        "sweep --models m --data d --out taken",
        "sweep --models m --data d --slurm taken/a.sh",
        "demo --out taken",
        "demo --out taken/a",
    ],
)
def test_a_file_is_no_folder_to_write_to(run, command, tmp_path):
    (tmp_path / "taken").write_text("kept")
    code, out, err = run(*command.split())
    assert (code, out) == (2, "")
    option = command.split()[-2]
    assert err == f"residual-lens: {option}: taken is a file, expected a folder to write to: give another place.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    assert (tmp_path / "taken").read_text() == "kept"


def test_two_tables_do_not_go_to_one_file_whatever_it_is_called(run, tmp_path):
    code, out, err = run("table", "runs", "--markdown", "a.md", "--csv", tmp_path / "a.md")
    assert (code, out) == (2, "")
    assert "Two tables would go to one file" in err
