"""Activation patching against a loop that writes one entry at a time, and against TransformerLens' own."""

from dataclasses import asdict
from itertools import product
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from transformer_lens import patching

from residual_lens.errors import InputError
from residual_lens.hooked.cache.lookup import NotCachedError
from residual_lens.hooked.vit import HookedViT
from residual_lens.interventions.patching import activation_patch
from tests.tiny_models import WIRINGS, tiny_images, tiny_tower
from tests.tolerances import FLOAT32_TOL, FLOAT64_TOL, VISIBLE_CHANGE, assert_changed, assert_close

SIZES = {"layer": 3, "head": 3, "pos": 5, "dest_pos": 5, "src_pos": 5}
AXES = {
    "z": ("pos", "head"),
    "q": ("pos", "head"),
    "v": ("pos", "head"),
    "result": ("pos", "head"),
    "pattern": ("head", "dest_pos", "src_pos"),
    "resid_pre": ("pos",),
    "mlp_out": ("pos",),
    "attn.hook_direct": ("head",),
    "mlp_direct": (),
}
SWEEPS = [
    ("z", ("layer", "head")),
    ("z", ("head", "layer")),
    ("z", ("layer",)),
    ("z", ("layer", "pos")),
    ("z", ("layer", "head", "pos")),
    ("q", ("layer", "head")),
    ("v", ("pos", "layer")),
    ("result", ("layer", "head")),
    ("pattern", ("layer", "head")),
    ("pattern", ("layer", "head", "dest_pos")),
    ("pattern", ("layer", "src_pos")),
    ("resid_pre", ("layer", "pos")),
    ("mlp_out", "layer"),
    ("attn.hook_direct", ("layer", "head")),
    ("mlp_direct", ("layer",)),
]
FULL_NAMES = {"attn.hook_direct": "blocks.{}.attn.hook_direct", "mlp_direct": "blocks.{}.hook_mlp_direct"}


def full_name(hook: str, layer: int) -> str:
    part = {"resid_pre": "hook_resid_pre", "mlp_out": "hook_mlp_out"}.get(hook, f"attn.hook_{hook}")
    return FULL_NAMES.get(hook, f"blocks.{{}}.{part}").format(layer)


def first_coordinates(embedding: Tensor) -> Tensor:
    return embedding[:, :3].sum()


def by_hand(hvit, images, cache, hook, swept, chosen=SIZES) -> Tensor:
    """One run an entry, the activation written by plain indexing."""
    values = []
    for place in product(*(range(SIZES[axis]) for axis in swept)):
        at = dict(zip(swept, place, strict=True))
        where = (slice(None), *(at.get(axis, slice(None)) for axis in AXES[hook]))
        name = full_name(hook, at["layer"])

        def write(activation, hook, where=where, name=name):
            activation = activation.clone()
            activation[where] = cache[name][where]
            return activation

        with hvit.hooks([(name, write)]):
            values.append(first_coordinates(hvit(images)))
    return torch.stack(values).reshape([SIZES[axis] for axis in swept])


@pytest.fixture
def pair(hvit):
    images = tiny_images(hvit.source, 2, seed=3)
    return images, hvit.run_with_cache(tiny_images(hvit.source, 2, seed=4))[1]


@pytest.mark.parametrize(
    ("kind", "hook", "swept"),
    [("ViT-B-16", *sweep) for sweep in SWEEPS] + [(kind, *SWEEPS[4]) for kind in WIRINGS[1:]],
)
def test_maps_by_hand(kind, hook, swept):
    hvit = HookedViT.wrap(tiny_tower(kind).double())
    images = tiny_images(hvit.source, 2, seed=3).double()
    _, cache = hvit.run_with_cache(tiny_images(hvit.source, 2, seed=4).double())
    actual = activation_patch(hvit, images, cache, first_coordinates, hook=hook, index=swept)
    swept = (swept,) if isinstance(swept, str) else swept
    assert_close(actual, by_hand(hvit, images, cache, hook, swept), FLOAT64_TOL)
    plain = first_coordinates(hvit(images))
    assert (actual - plain).abs().max() > VISIBLE_CHANGE * plain.abs()
    assert not actual.requires_grad
    assert not any(point._forward_hooks for point in hvit.hook_dict.values())


@pytest.mark.parametrize(
    ("sweep", "hook", "swept"),
    [
        (patching.get_act_patch_attn_head_out_all_pos, "z", ("layer", "head")),
        (patching.get_act_patch_attn_head_k_all_pos, "k", ("layer", "head")),
        (patching.get_act_patch_attn_head_pattern_all_pos, "pattern", ("layer", "head")),
        (patching.get_act_patch_resid_pre, "resid_pre", ("layer", "pos")),
        (patching.get_act_patch_attn_out, "attn_out", ("layer", "pos")),
        (patching.get_act_patch_attn_head_out_by_pos, "z", ("layer", "pos", "head")),
        (patching.get_act_patch_attn_head_pattern_by_pos, "pattern", ("layer", "head", "dest_pos")),
    ],
)
@torch.no_grad()
def test_the_same_numbers_as_transformer_lens(hvit, pair, sweep, hook, swept):
    images, cache = pair
    hvit.eval()
    # TransformerLens asks the config for two things more, and takes the last axis of its tokens for positions.
    known = type("Known", (type(hvit.cfg),), {"device": "cpu", "n_key_value_heads": None})(**asdict(hvit.cfg))
    rows = patching.make_df_from_ranges([SIZES[axis] for axis in swept], list(swept))
    with patch.object(hvit, "cfg", known):
        expected = sweep(hvit, images, cache, first_coordinates, index_axis_names=None, index_df=rows)
    actual = activation_patch(hvit, images, cache, first_coordinates, hook=hook, index=swept)
    assert_close(actual.flatten(), expected, FLOAT32_TOL)


def test_patching_everything_gives_the_clean_run(hvit):
    clean, corrupted = tiny_images(hvit.source, 2, seed=4), tiny_images(hvit.source, 2, seed=3)
    embedding, cache = hvit.run_with_cache(clean)
    values = activation_patch(hvit, corrupted, cache, lambda x: x, hook="resid_pre", index="layer")
    assert values.shape == (3, 2, 20)
    for value in values:
        assert_close(value, embedding, FLOAT32_TOL)
    one = activation_patch(hvit, corrupted, cache, lambda x: x, hook="resid_pre", index="layer", only={"pos": [1]})
    assert_changed(one[0], embedding)


def test_single_hook_points_by_their_full_names(hvit, pair):
    images, cache = pair
    whole = activation_patch(hvit, images, cache, first_coordinates, hook="z", index=("layer", "head", "pos"))
    single = activation_patch(
        hvit, images, cache, first_coordinates, hook="blocks.1.attn.hook_z", index=("pos", "head")
    )
    assert_close(single, whole[1].T, FLOAT32_TOL)
    tokens = activation_patch(hvit, images, cache, first_coordinates, hook="hook_full_embed", index="pos")
    assert tokens.shape == (5,)
    neurons = activation_patch(hvit, images, cache, first_coordinates, hook="blocks.2.mlp.hook_post", index="neuron")
    assert neurons.shape == (hvit.cfg.d_mlp,)


def test_one_patch_of_everything(hvit, pair):
    images, cache = pair
    value = activation_patch(hvit, images, cache, first_coordinates, hook="hook_pooled", index=())
    assert_close(value, first_coordinates(cache["hook_image_embed"]), FLOAT32_TOL)


def test_the_pattern_of_an_attention_pooling():
    options = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 1, "num_heads": 3, "num_classes": 0}
    hvit = HookedViT.wrap(VisionTransformer(**options, global_pool="map").eval())
    _, cache = hvit.run_with_cache(tiny_images(SimpleNamespace(image_size=(32, 32)), 2, seed=4))
    images = tiny_images(SimpleNamespace(image_size=(32, 32)), 2, seed=3)
    values = activation_patch(
        hvit, images, cache, first_coordinates, hook="pool.hook_pattern", index=("head", "src_pos")
    )
    assert values.shape == (3, 4)

    def write(pattern, hook):
        pattern = pattern.clone()
        pattern[:, 1, 2] = cache[hook.name][:, 1, 2]
        return pattern

    with hvit.hooks([("pool.hook_pattern", write)]):
        assert_close(values[1, 2], first_coordinates(hvit(images)), FLOAT32_TOL)


def test_a_metric_may_run_the_model(hvit, pair):
    images, cache = pair
    reference = hvit(images)
    values = activation_patch(hvit, images, cache, lambda x: (hvit(images) - reference).abs().max())
    assert values.max() == 0


def test_only_some_entries(hvit, pair):
    images, cache = pair
    whole = activation_patch(hvit, images, cache, first_coordinates, index=("layer", "pos", "head"))
    some = activation_patch(
        hvit,
        images,
        cache,
        first_coordinates,
        index=("layer", "pos", "head"),
        only={"layer": [2, 0], "pos": [-1], "head": (1, 2)},
    )
    assert_close(some, whole[[2, 0]][:, [4]][:, :, [1, 2]], FLOAT32_TOL)
    # An axis that is not swept: the class token alone, for all heads of a layer.
    by_layer = activation_patch(hvit, images, cache, first_coordinates, index="layer", only={"pos": [0]})
    by_token = activation_patch(hvit, images, cache, first_coordinates, index=("layer", "pos"))
    assert_close(by_layer, by_token[:, 0], FLOAT32_TOL)
    # Two such axes: every combination of their entries.
    region = activation_patch(hvit, images, cache, first_coordinates, index="layer", only={"pos": [0, 3], "head": [1]})

    def write(z, hook):
        z = z.clone()
        for position in (0, 3):
            z[:, position, 1] = cache[hook.name][:, position, 1]
        return z

    for layer in range(3):
        with hvit.hooks([(f"blocks.{layer}.attn.hook_z", write)]):
            assert_close(region[layer], first_coordinates(hvit(images)), FLOAT32_TOL)


def test_a_cache_without_batch_axis_and_one_of_few_hook_points(hvit):
    corrupted, clean = tiny_images(hvit.source, 1, seed=3), tiny_images(hvit.source, 1, seed=4)
    _, whole = hvit.run_with_cache(clean)
    expected = activation_patch(hvit, corrupted, whole, first_coordinates)
    _, cache = hvit.run_with_cache(clean, remove_batch_dim=True, names_filter=lambda name: name.endswith("hook_z"))
    assert_close(activation_patch(hvit, corrupted, cache, first_coordinates), expected, FLOAT32_TOL)
    _, last = hvit.run_with_cache(clean, names_filter="blocks.2.attn.hook_z")
    some = activation_patch(hvit, corrupted, last, first_coordinates, only={"layer": [2]})
    assert_close(some, expected[2:], FLOAT32_TOL)


def test_metrics_may_be_numbers_and_must_keep_their_shape(hvit, pair):
    images, cache = pair
    numbers = activation_patch(hvit, images, cache, lambda x: first_coordinates(x).item())
    assert_close(numbers, activation_patch(hvit, images, cache, first_coordinates), FLOAT32_TOL)
    shapes = iter([torch.zeros(2), torch.zeros(3)])
    with pytest.raises(InputError, match=r"The metric gave shape \[2\] and then \[3\]"):
        activation_patch(hvit, images, cache, lambda x: next(shapes))


def test_the_cache_and_the_images_stay_as_they_are(hvit, pair):
    images, cache = pair
    before, kept = images.clone(), {name: activation.clone() for name, activation in cache.items()}
    activation_patch(hvit, images, cache, first_coordinates, hook="resid_pre", index=("layer", "pos"))
    assert torch.equal(images, before)
    assert all(torch.equal(cache[name], activation) for name, activation in kept.items())


def test_progress_is_off_unless_asked_for(hvit, pair, capsys):
    images, cache = pair
    activation_patch(hvit, images, cache, first_coordinates)
    assert capsys.readouterr().err == ""
    activation_patch(hvit, images, cache, first_coordinates, progress=True)
    assert "9/9" in capsys.readouterr().err


def test_a_failing_metric_leaves_no_hook(hvit, pair):
    images, cache = pair
    with pytest.raises(ZeroDivisionError):
        activation_patch(hvit, images, cache, lambda x: 1 / 0)
    assert not any(point._forward_hooks for point in hvit.hook_dict.values())


def test_what_the_cache_lacks_is_named_before_anything_runs(hvit, pair):
    images, _ = pair
    _, cache = hvit.run_with_cache(images, names_filter="blocks.1.attn.hook_z")
    missing = r"Not cached: blocks.0.attn.hook_z, blocks.2.attn.hook_z\. .*endswith\(\('.attn.hook_z',\)\)"
    with pytest.raises(NotCachedError, match=missing), patch.object(hvit, "forward", None):
        activation_patch(hvit, images, cache, first_coordinates)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hook": "zz"}, r"'zz' names no activation of every block.*attn.hook_z, "),
        ({"hook": "z1"}, r"'z1' names no activation of every block"),
        ({"hook": "blocks.1.attn.hook_z"}, r"Leave 'layer' out"),
        ({"hook": "z", "index": "head"}, r"'z' is an activation of every block: give its full name, or index with"),
        ({"hook": "hook_pooledd", "index": ()}, r"no hook point 'hook_pooledd'. Did you mean hook_pooled"),
        ({"hook": "resid_pre"}, r"blocks.0.hook_resid_pre has the axes pos;"),
        ({"hook": "pattern", "index": ("layer", "pos")}, r"has the axes head, dest_pos, src_pos;"),
        ({"hook": "hook_pooled", "index": "pos"}, r"has the axes \(none\)"),
        ({"index": ("layer", "layer")}, r"at most once"),
        ({"only": {"token": [0]}}, r"only=\{'token': \[0\]\}: blocks.0.attn.hook_z has the axes pos, head"),
        ({"hook": "blocks.0.attn.hook_z", "index": "pos", "only": {"layer": [0]}}, r"has the axes pos, head"),
        ({"only": {"pos": [5]}}, r"only\['pos'\] = \[5\]: expected some of 0 to 4"),
        ({"only": {"layer": []}}, r"only\['layer'\] = \[\]: expected some of 0 to 2"),
    ],
)
def test_names_axes_and_entries_are_checked_before_anything_runs(hvit, pair, options, message):
    images, cache = pair
    with pytest.raises(InputError, match=message), patch.object(hvit, "forward", None):
        activation_patch(hvit, images, cache, first_coordinates, **options)


def test_runs_that_cannot_be_compared_are_refused(hvit, pair):
    images, cache = pair
    with pytest.raises(InputError, match="Got 1 corrupted images and a cache of 2 clean ones"):
        activation_patch(hvit, images[:1], cache, first_coordinates)
    with pytest.raises(InputError, match=r"Expected a float tensor \[batch, 3"):
        activation_patch(hvit, images[0], cache, first_coordinates)
    _, cut = hvit.run_with_cache(images, pos_slice=0)
    with pytest.raises(
        InputError, match=r"hook_z is \[2, 5, 3, 8\] in the corrupted run and \[2, 1, 3, 8\] in the cache"
    ):
        activation_patch(hvit, images, cut, first_coordinates)
    hvit.train()
    with pytest.raises(InputError, match=r"train mode.*hvit.eval\(\)"):
        activation_patch(hvit, images, cache, first_coordinates)
