"""Coordinates in a file: read as they were written, never of something else, never half."""

from dataclasses import fields, replace

import pytest
import torch

from residual_lens.bases import fit_bases
from residual_lens.errors import InputError, MismatchError
from residual_lens.interventions import ResiDual
from residual_lens.training.cached import Coordinates, contributions, coordinates
from residual_lens.training.cached.plan import Plan
from tests.tolerances import FLOAT64_TOL, assert_close
from tests.training.cached.tiny import LABELS, ROWS, N


def test_a_file_is_read_as_it_was_written_and_is_not_made_again(made, tmp_path, monkeypatch):
    _, store, samples, adapter = made
    for name, source in (("store", store), ("memory", samples)):
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            path = tmp_path / "deeper" / f"{name}-{dtype}"
            expected = coordinates(adapter, source, rows=[5, 1, 2], labels=LABELS[:3], dtype=dtype)
            with monkeypatch.context() as patched:
                written = coordinates(adapter, source, rows=[5, 1, 2], labels=LABELS[:3], dtype=dtype, file=path)
                patched.setattr(Plan, "write_samples", None)
                again = coordinates(adapter, source, rows=[5, 1, 2], labels=LABELS[:3], dtype=dtype, file=str(path))
            for field in fields(Coordinates)[:5]:
                for found in (written, again):
                    assert torch.equal(getattr(found, field.name), getattr(expected, field.name))
            assert written.fingerprint == expected.fingerprint
            assert_close(
                again.embed(adapter.to(dtype), ROWS % 3), expected.embed(adapter.to(dtype), ROWS % 3), FLOAT64_TOL
            )
    adapter.float()
    assert sorted(path.suffix for path in (tmp_path / "deeper").iterdir()).count(".partial") == 0


def test_what_was_interrupted_leaves_no_file(made, tmp_path, monkeypatch):
    _, store, _, adapter = made

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(contributions.OfStore, "coordinates", interrupted)
    with pytest.raises(KeyboardInterrupt):
        coordinates(adapter, store, labels=LABELS, file=tmp_path / "a")
    assert not list(tmp_path.iterdir())


def otherwise(adapter: ResiDual, **changes: object) -> ResiDual:
    """On the same bases."""
    other = ResiDual(replace(adapter.config, **changes))
    other.load_state_dict(adapter.state_dict())
    return other


@pytest.mark.parametrize(
    "other",
    [
        lambda adapter: {"labels": (LABELS + 1) % 3},
        lambda adapter: {"labels": LABELS, "rows": list(reversed(range(N)))},
        lambda adapter: {"labels": LABELS, "dtype": torch.bfloat16},
        lambda adapter: {"labels": LABELS, "adapter": otherwise(adapter, keep_mean=False)},
        lambda adapter: {"labels": LABELS, "adapter": otherwise(adapter, variant="residual*", keep_mean=False)},
    ],
    ids=["labels", "rows", "dtype", "means", "variant"],
)
def test_a_file_of_something_else_is_refused(made, tmp_path, other):
    _, store, samples, _ = made
    adapter = ResiDual.from_bases(fit_bases(store), keep_mean=True)
    coordinates(adapter, store, labels=LABELS, file=tmp_path / "a")
    options = {"adapter": adapter} | other(adapter)
    with pytest.raises(MismatchError, match="of another adapter, source, choice of rows, labels or dtype"):
        coordinates(options.pop("adapter"), store, **options, file=tmp_path / "a")
    with pytest.raises(MismatchError, match="holds coordinates with digest"):
        coordinates(adapter, samples, labels=LABELS, file=tmp_path / "a")


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data + b"0", lambda data: b"", lambda data: b"x" * 99]
)
def test_a_damaged_file_is_refused(made, tmp_path, damage):
    _, store, _, adapter = made
    path = tmp_path / "a"
    coordinates(adapter, store, labels=LABELS, file=path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match="no file of coordinates, or damaged"):
        coordinates(adapter, store, labels=LABELS, file=path)
