"""The study of shortcuts: what is taken out, how it is chosen, groups by hand, and going on where it stopped."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from residual_lens.data.attribute_world import SHORTCUT, sample_shortcut
from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.interventions import ablate
from tests.tolerances import FLOAT32_TOL, assert_changed, assert_close

N = 64


@pytest.fixture(autouse=True)
def scripts(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("shortcut")


@pytest.fixture
def removal(scripts) -> ModuleType:
    import shortcut_removal

    return shortcut_removal


@pytest.fixture
def trials(scripts) -> ModuleType:
    import shortcut_trials

    return shortcut_trials


@pytest.fixture
def biased(removal, folder):
    """A world, biased scenes, and what can be taken out of them."""
    from scene_world import SceneSet, World

    world = World("attribute-clip", folder / "stores", device="cpu", batch_size=32)
    scenes = sample_shortcut(N, torch.Generator().manual_seed(0), correlation=0.9)
    drawn = SceneSet("few", "train", scenes, {"n": N})
    readings = removal.Readings.of(world, drawn)
    return world, world.pixels(drawn), readings, removal.Removals(world, readings)


def test_heads_that_are_taken_out_are_ablated_by_their_mean(biased):
    world, pixels, readings, removals = biased
    heads = ["L5H2", "L4H0", "L0H3"]
    with ablate(world.hvit, heads, "mean", reference=pixels, path="direct"), torch.no_grad():
        # Stores hold 16 bits.
        assert_close(removals.heads(heads)(readings), world.hvit(pixels), 10 * FLOAT32_TOL)
    assert_close(removals.heads(())(readings), readings.whole, 1e-9)


def test_components_that_are_taken_out_are_gone_and_nothing_else(biased):
    _, _, readings, removals = biased
    chosen = [("5_mlp_out", 0), ("5_mlp_out", 7), ("L5H2", 1)]
    expected = readings.whole.double()
    for unit, place in chosen:
        basis = removals.bases[unit]
        direction = basis.components[place].double()
        coordinates = (readings.parts[unit].double() - basis.mean.double()) @ direction
        expected = expected - coordinates[:, None] * direction
    assert_close(removals.components(chosen)(readings), expected, 10 * FLOAT32_TOL)
    assert_close(removals.components(())(readings), readings.whole, FLOAT32_TOL)


def test_what_a_trained_residual_does_stays_but_for_what_is_taken_out(biased):
    _, _, readings, removals = biased
    residual = removals.trained_residual(readings, seed=0)
    before = residual.scales.clone()
    with_all, without = (removals.components(chosen, residual)(readings) for chosen in ((), [("5_mlp_out", 0)]))
    lost = with_all - without
    direction = removals.bases["5_mlp_out"].components[0]
    assert_changed(with_all, without)
    assert_close((lost @ direction)[:, None] * direction, lost, 1e-4)
    assert torch.equal(residual.scales, before)


def test_components_beyond_those_that_residual_holds_are_left_alone(biased):
    _, _, readings, removals = biased
    last = len(removals.bases["L5H2"].components) - 1
    assert_close(removals.components([("L5H2", last)])(readings), readings.whole, FLOAT32_TOL)


def test_words_that_are_projected_out_are_told_apart_no_more(biased):
    world, _, readings, removals = biased
    left = removals.words()(readings)
    logits = left @ world.classifiers["colour"].weights.mT
    assert_close(logits, logits.mean(dim=1, keepdim=True).expand_as(logits), 1e-4)
    assert_changed(left, readings.whole)


def test_components_of_colour_are_those_that_vary_with_its_words(biased, removal):
    world, _, _, removals = biased
    ranked = removals.components_of_colour()
    assert len(ranked) == sum(len(basis.components) for basis in removals.bases.values()) == len(set(ranked))
    spans = [removal.span_of_differences(world.classifiers[name]) for name in ("colour", "shape")]
    for span in spans:
        assert_close(span @ span.mT, torch.eye(len(span)), 1e-5)

    def more(unit: str, place: int) -> float:
        basis = removals.bases[unit]
        shares = [float((span @ basis.components[place]).square().sum()) for span in spans]
        return float(basis.variances[place]) * (shares[0] - shares[1])

    values = [more(*each) for each in ranked]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0 > values[-1]


class Labels:
    """Readings of which nothing but labels is asked."""

    def __init__(self, shape: Tensor, colour: Tensor) -> None:
        self.shape, self.colour = shape, colour


def test_groups_are_shapes_by_whether_the_colour_agrees(trials):
    shape, colour = torch.arange(8).repeat(20), torch.arange(160) % 7
    readings, right = Labels(shape, colour), torch.rand(160, generator=torch.Generator().manual_seed(0)) < 0.7
    masks = trials.groups(readings)
    assert masks.shape == (16, 160)
    assert masks.sum(0).eq(1).all()
    by_hand = {}
    for place in range(160):
        by_hand.setdefault((int(shape[place]), bool(shape[place] == colour[place])), []).append(bool(right[place]))
    present = masks.any(dim=1)
    expected = min(100 * sum(each) / len(each) for each in by_hand.values())
    assert len(by_hand) == int(present.sum()) == 15, "no colour agrees with shape 7"
    found = min(100 * float(right[mask].double().mean()) for mask in masks[present])
    assert found == pytest.approx(expected)


def test_the_worst_group_has_an_interval_around_it(trials):
    from resampling import resamples

    labels = sample_shortcut(320, torch.Generator().manual_seed(0), correlation=0.4).labels
    readings = Labels(labels["shape"], labels["colour"])
    right = ~((readings.shape == 3) & (readings.colour != 3) & (torch.arange(320) % 2 == 0))
    found = trials.group_accuracies(right, readings, resamples(320, 50, 0))
    assert found["worst"][0] == pytest.approx(trials.worst(right, readings))
    assert found["worst"][1] < found["worst"][0] < found["worst"][2] < found["average"][0]


def test_random_components_are_as_many_of_each_unit(biased, trials):
    bases = biased[3].bases
    chosen = [("L5H2", 0), ("5_mlp_out", 3), ("L5H2", 4), ("L0H1", 2)]
    drawn = trials.alike(chosen, bases, seed=1)
    assert sorted(unit for unit, _ in drawn) == sorted(unit for unit, _ in chosen)
    assert len(set(drawn)) == 4
    assert trials.alike(chosen, bases, seed=1) == drawn != trials.alike(chosen, bases, seed=2)
    everything = [("L0H1", place) for place in range(len(bases["L0H1"].components))]
    assert sorted(trials.alike(everything, bases, seed=0)) == everything


class Fixed:
    """Right on a share of the images of the kind asked, as its options say."""

    def __init__(self, shares: dict[str, dict[int, float]]) -> None:
        self.shares = shares

    def right(self, readings, taken) -> Tensor:
        share = self.shares[readings.name][taken]
        # The same share of every group.
        rank = sum(mask.cumsum(0) * mask for mask in readings.masks)
        return rank <= share * sum(mask.sum() * mask for mask in readings.masks)


@pytest.mark.parametrize(("on_validation", "best"), [((0.3, 0.5, 0.7), 2), ((0.6, 0.9, 0.9), 1), ((0.9, 0.5, 0.1), 0)])
def test_how_much_is_chosen_on_validation_and_measured_on_the_test(on_validation, best, trials):
    from resampling import resamples

    labels = sample_shortcut(960, torch.Generator().manual_seed(0), correlation=0.4).labels
    sets = {name: Labels(labels["shape"], labels["colour"]) for name in ("biased", "validation", "test")}
    for name, readings in sets.items():
        readings.name, readings.masks = name, trials.groups(readings).int()
    shares = {"validation": dict(enumerate(on_validation)), "test": {0: 0.8, 1: 0.6, 2: 0.4, -1: 0.2}}
    trial = trials.Trial(*sets.values(), resamples(960, 20, 0))
    readout = Fixed(shares)
    trial.keep_best("x", trial.fixed(readout), {1: 1, 2: 2}, lambda k, seed: -1, 3, without=0)
    found = trial.found["x"]
    assert found["taken"] == best
    assert found["worst"][0] == pytest.approx(100 * shares["test"][best], abs=4)
    assert len(found["random"]) == (3 if best else 0)
    assert all(value == pytest.approx(20, abs=4) for value in found["random"])


@pytest.fixture
def study(scripts, monkeypatch) -> ModuleType:
    import shortcut

    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)
    return shortcut


def config(study: ModuleType, folder: Path, **changes):
    few = {"n_train": 160, "n_validation": 160, "n_test": 160, "heads": (2,), "components": (3,), "n_random": 2}
    paths = {"out": folder / "out", "stores": folder / "stores", "device": "cpu", "n_resamples": 10}
    return study.Config(**{**few, **paths, "shifts": (study.PLAIN,), **changes})


def test_a_finished_study_loads_no_model_and_says_the_same(study, folder, monkeypatch, capsys):
    monkeypatch.setattr(study, "BY", ("supervised",))
    study.main(config(study, folder))
    printed, before = capsys.readouterr().out, (folder / "out" / "shortcut.json").read_bytes()
    found = json.loads(before)["results"][study.PLAIN]
    assert [name for name in found if "heads by" in name] == [
        f"{by}, heads by {how}" for by in ("probe", "refitted") for how in study.BY
    ]
    assert found["zero-shot, nothing trained"]["average"][0] > 95
    assert sum(line.startswith(("| probe", "| refitted")) for line in printed.splitlines()) == 8
    monkeypatch.setattr(HookedViT, "from_pretrained", lambda *_, **__: pytest.fail("the model is not needed"))
    study.main(config(study, folder))
    assert (folder / "out" / "shortcut.json").read_bytes() == before
    assert capsys.readouterr().out == printed
    assert (folder / "out" / "figure.png").exists()


def test_only_training_scenes_have_the_shortcut_and_no_two_sets_share_a_scene(study, folder):
    settings = config(study, folder)
    sets = [
        study.scene_set(settings, "sketch", place, split, 800, correlation)
        for place, (split, correlation) in enumerate([("train", 0.95), ("train", 0.0), ("test", 0.0)])
    ]
    agree = [float((each.scenes.labels["shape"] == each.scenes.labels["colour"]).double().mean()) for each in sets]
    assert agree == pytest.approx([0.95 + 0.05 / len(SHORTCUT), 1 / 8, 1 / 8], abs=0.01)
    assert not np.intersect1d(sets[1].scenes.tint.numpy(), sets[2].scenes.tint.numpy()).size > 5
    assert {each.shift for each in sets} == {"sketch"}
    assert len({each.file for each in sets}) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shifts": ("fog",)}, "got fog"),
        ({"shifts": ()}, "each once"),
        ({"shifts": ("sketch", "sketch")}, "each once"),
        ({"n_test": 100}, "at least 160"),
        ({"heads": ()}, "start at 1"),
        ({"components": (0,)}, "start at 1"),
        ({"n_random": 1}, "Draws start at 2"),
    ],
)
def test_what_makes_no_study_is_refused_before_anything_is_done(changes, message, study, tmp_path):
    with pytest.raises(InputError, match=message):
        study.main(config(study, tmp_path, **changes))
    assert not (tmp_path / "out").exists()
