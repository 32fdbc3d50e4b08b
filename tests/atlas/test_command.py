"""`residual-lens atlas`: a page on disk from stores of the shipped model, and refusals in one line."""

import json
import re

import pytest

from residual_lens.activations import encode
from residual_lens.atlas.page import render
from residual_lens.cli.atlas import atlas as command
from residual_lens.data.images import open_images
from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from tests.atlas.drawn_atlas import drawn_atlas


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "digits.h5"
    encode(HookedViT.from_pretrained("attribute-clip"), open_images("digits", limit=30, seed=7), path).close()
    return path


def test_the_page_is_written(store, tmp_path, capsys):
    # In the place of an atlas that was there.
    older = tmp_path / "site" / "atlas" / "index.html"
    older.parent.mkdir(parents=True)
    older.write_text(render(drawn_atlas()), encoding="utf-8")
    command(
        store=(store,),
        out=tmp_path / "site" / "atlas",
        units=("L5H4",),
        components=1,
        ends=2,
        data_seed=7,
        n_null=19,
        cache=tmp_path / "cache",
        device="cpu",
    )
    page = tmp_path / "site" / "atlas" / "index.html"
    text = page.read_text(encoding="utf-8")
    data = re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert data is not None
    found = json.loads(data[1])
    assert [unit["name"] for unit in found["units"]] == ["L5H4"]
    assert (len(found["images"]), found["tasks"][0]["name"]) == (4, "digits")
    assert len(found["units"][0]["description"]) == 10
    assert capsys.readouterr().out.startswith(f"{page}: 1 units, 4 images, 0.")
    assert list(page.parent.iterdir()) == [page]


def test_nonsense_is_refused_before_any_work(store, tmp_path, monkeypatch):
    def never(*arguments, **named):
        raise AssertionError("no model may be loaded")

    monkeypatch.setattr(HookedViT, "from_pretrained", never)
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "folder" / "index.html").mkdir(parents=True)
    site = tmp_path / "site" / "index.html"
    site.parent.mkdir()
    site.write_text("<title>Somebody's own</title>")
    for arguments, message in (
        ({"out": file}, r"--out is the folder that index.html is written to"),
        ({"out": file / "beneath" / "it"}, r"--out is the folder"),
        ({"out": tmp_path / "folder"}, r"--out is the folder"),
        ({"out": site.parent}, r"site/index\.html is there and is no atlas, and would be lost"),
        ({"store": ()}, r"--store names no store"),
        ({"units": ("L77",)}, r"L77"),
        ({"device": "abacus"}, r"abacus"),
    ):
        with pytest.raises(InputError, match=message):
            command(**{"store": (store,), "out": tmp_path / "out"} | arguments)
    assert not (tmp_path / "out").exists()
    assert "own" in site.read_text()
