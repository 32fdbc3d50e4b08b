"""Rollout is the sum over all paths; overlays lie on the patches that heads look at; images lie in rows."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from residual_lens import figures
from residual_lens.bases import fit_bases
from residual_lens.errors import InputError, MismatchError
from residual_lens.figures.images import pixels
from residual_lens.hooked import HookedViT
from tests.activations.stores import encoded, image_set, wrapped
from tests.figures.drawn import PICTURE, a_run
from tests.reference import rollout as reference
from tests.tiny_models import tiny_images, tiny_tower
from tests.tolerances import FLOAT32_AGAINST_FLOAT64_TOL, assert_close


def patterns(n_layers: int = 3, heads: int = 2, pos: int = 4) -> list[torch.Tensor]:
    draws = torch.randn(n_layers, 2, heads, pos, pos, generator=torch.Generator().manual_seed(0))
    return list(draws.mul(2).softmax(dim=-1))


class TestRollout:
    @pytest.mark.parametrize("sizes", [(3, 2, 4), (1, 1, 1), (1, 3, 2), (4, 1, 3)])
    def test_it_is_the_sum_over_all_paths(self, sizes):
        found = patterns(*sizes)
        assert_close(figures.attention_rollout(found), reference.attention_rollout(found), FLOAT32_AGAINST_FLOAT64_TOL)

    def test_heads_that_look_at_themselves_move_nothing(self):
        still = torch.eye(3).expand(1, 2, 3, 3)
        assert torch.equal(figures.attention_rollout([still] * 4)[0], torch.eye(3))

    def test_of_a_cache_it_takes_all_layers_in_their_order(self):
        hvit, cached, _ = a_run()
        found = [cached["pattern", layer] for layer in range(hvit.cfg.n_layers)]
        expected = reference.attention_rollout(found)
        assert_close(figures.attention_rollout(cached), expected, FLOAT32_AGAINST_FLOAT64_TOL)
        assert not torch.allclose(figures.attention_rollout(found[::-1]).double(), expected, atol=1e-3)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ([], "at least one layer"),
            ([torch.ones(1, 1, 2, 2) / 2, torch.ones(1, 1, 3, 3) / 3], "of one size"),
            ([torch.ones(1, 2, 2, 2)], "layer 0, .* is no attention"),
            ([torch.ones(1, 2, 1, 3) / 3], "cache it without pos_slice"),
            ([torch.full((1, 2, 2, 2), float("nan"))], "rows that add up to 1"),
        ],
    )
    def test_what_is_no_attention_is_refused(self, given, message):
        with pytest.raises(InputError, match=message):
            figures.attention_rollout(given)


class TestTokens:
    def test_a_class_token_is_read_at_its_row(self):
        _, cached, _ = a_run()
        assert torch.equal(figures.token_attention(cached, "L2H1"), cached["pattern", 2][:, 1, 0])
        assert torch.equal(figures.token_attention(cached), figures.attention_rollout(cached)[:, 0])

    @pytest.mark.parametrize("kind", ["avg-norm-before-pool", "avg-norm-after-pool"])
    def test_a_mean_is_read_at_the_mean_of_its_rows(self, kind):
        hvit, cached, _ = a_run(kind)
        pattern = cached["pattern", 0][:, 1]
        first = hvit.cfg.n_prefix
        torch.testing.assert_close(figures.token_attention(cached, "L0H1"), pattern[:, first:].mean(dim=1))

    def test_attention_pooling_is_read_by_its_own_pattern(self):
        hvit, cached, _ = a_run("coca")
        pooled = cached["pool.hook_pattern"].mean(dim=1)
        pattern = cached["pattern", 1][:, 0][:, -pooled.shape[-1] :]
        found = figures.token_attention(cached, "L1H0")
        torch.testing.assert_close(found, torch.einsum("bp,bpq->bq", pooled, pattern))
        torch.testing.assert_close(found.sum(dim=-1), torch.ones(3))
        assert figures.token_attention(cached).shape == (3, hvit.cfg.n_ctx)

    def test_a_cache_without_batch_axis_is_one_image(self):
        hvit = HookedViT.wrap(tiny_tower("ViT-B-16"))
        image = tiny_images(hvit.source, 1)
        _, cached = hvit.run_with_cache(image, remove_batch_dim=True)
        expected = figures.token_attention(hvit.run_with_cache(image)[1])
        torch.testing.assert_close(figures.token_attention(cached), expected)

    def test_what_was_not_cached_is_named(self):
        hvit = HookedViT.wrap(tiny_tower("ViT-B-16"))
        _, cached = hvit.run_with_cache(tiny_images(hvit.source), names_filter="blocks.0.attn.hook_pattern")
        assert figures.token_attention(cached, "L0H0").shape == (3, hvit.cfg.n_ctx)
        for unit in (None, "L1H0"):
            with pytest.raises(InputError, match=r"Not cached: blocks\.1\.attn\.hook_pattern"):
                figures.token_attention(cached, unit)

    @pytest.mark.parametrize(
        ("unit", "message"),
        [
            ("1_mlp_out", "Only heads attend, and 1_mlp_out is none"),
            ("L9H0", "3 layers × 3 heads, and no L9H0"),
            ("L0H9", "and no L0H9"),
            ("head", "No unit is called 'head'"),
        ],
    )
    def test_what_is_no_head_is_refused(self, unit, message):
        with pytest.raises(InputError, match=message):
            figures.token_attention(a_run()[1], unit)


class TestOverlays:
    def test_weights_lie_on_their_patches(self):
        hvit, cached, images = a_run("not-square")
        weights = figures.token_attention(cached, "L1H1")[1, hvit.cfg.n_prefix :].reshape(2, 3)
        axes = figures.attention(cached, images[1], "L1H1", sample=1)
        photograph, overlay = axes.images
        assert photograph.get_extent() == overlay.get_extent() == [0, 48, 32, 0]
        np.testing.assert_allclose(overlay.get_array()[..., 3], 0.65 * weights / weights.max(), rtol=1e-5)
        share = round(100 * float(weights.sum()))
        assert (axes.get_title("left"), axes.texts[0].get_text()) == ("L1H1", f"{share} % on patches")
        assert figures.attention(cached, images[1]).get_title("left") == "rollout"

    def test_images_of_the_same_proportions_and_no_others_are_taken(self):
        _, cached, _ = a_run("not-square")
        larger = figures.attention(cached, Image.new("RGB", (96, 64)), "L0H0")
        assert larger.images[1].get_array().shape == (2, 3, 4)
        with pytest.raises(InputError, match="6 patches of 16 × 16 pixels do not lie on an image of 48 × 32"):
            figures.attention(cached, Image.new("RGB", (32, 48)), "L0H0")

    @pytest.mark.parametrize("sample", [-1, 3])
    def test_an_image_that_is_not_in_the_batch_is_refused(self, sample):
        with pytest.raises(InputError, match=f"holds 3 images, 0 to 2; got sample={sample}"):
            figures.attention(a_run()[1], PICTURE, "L0H0", sample=sample)

    @pytest.mark.parametrize("weights", [[[0.0, 0.0]], [[-0.1, 1.0]], [[float("nan"), 1.0]]])
    def test_weights_that_are_none_are_refused(self, weights):
        with pytest.raises(InputError, match=r"not negative|NaN"):
            figures.attention_overlay(PICTURE, np.array(weights))


class TestImages:
    def test_rows_begin_on_the_left_and_on_top_and_longer_sides_fill_a_cell(self):
        axes = figures.image_grid({"wide": [PICTURE, PICTURE], "grey": [torch.full((1, 4, 4), 0.5)]}, title="t")
        boxes = [[round(float(side), 3) for side in image.get_extent()] for image in axes.images]
        assert boxes[0] == [-0.47, 0.47, 0.294, -0.294]
        assert boxes[1][:2] == [0.53, 1.47]
        assert boxes[2] == [-0.47, 0.47, 1.47, 0.53]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["wide", "grey"]
        assert axes.yaxis_inverted()
        assert (axes.images[2].get_array() == 128).all()

    @pytest.mark.parametrize(
        ("picture", "message"),
        [
            (torch.zeros(4, 8, 8), r"1 or 3 channels, got shape \[4, 8, 8\]"),
            (torch.full((3, 2, 2), 1.5), r"Pixels lie in \[0, 1\]"),
            (torch.full((3, 2, 2), float("nan")), r"Pixels lie in \[0, 1\]"),
        ],
    )
    def test_what_is_no_image_is_refused(self, picture, message):
        with pytest.raises(InputError, match=message):
            pixels(picture)

    @pytest.mark.parametrize("rows", [{}, {"a": []}])
    def test_no_image_is_refused(self, rows):
        with pytest.raises(InputError, match="no image to draw"):
            figures.image_grid(rows)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    hvit = wrapped("rotary-timm")
    images = image_set(12, bad=(3,))
    path = tmp_path_factory.mktemp("figures") / "noise.h5"
    found = encoded(hvit, images, path, on_corrupt="skip")
    yield found, images
    found.close()


class TestEnds:
    @pytest.mark.parametrize("unit", ["L0H1", "1_mlp_out"])
    @pytest.mark.parametrize("component", [0, 2])
    def test_ends_are_the_samples_of_smallest_and_largest_coordinate(self, store, unit, component):
        found, _ = store
        bases = fit_bases(found, units=unit)
        direction, mean = bases[unit].components[component].double(), bases[unit].mean.double()
        along = (found.decompose(None, unit, dtype=torch.float64).values[:, 0] - mean) @ direction
        order = along.argsort().tolist()
        low, high = figures.ends_of_component(found, unit, component, bases, 3)
        assert (low.tolist(), high.tolist()) == (order[:3], order[:-4:-1])

    def test_rows_limit_what_is_chosen_from(self, store):
        found, _ = store
        bases = fit_bases(found, units="L0H0")
        low, high = figures.ends_of_component(found, "L0H0", 0, bases, 2, rows=[9, 1, 4, 6])
        assert {*low.tolist(), *high.tolist()} == {1, 4, 6, 9}

    def test_images_are_found_by_name_where_some_could_not_be_read(self, store):
        found, images = store
        bases = fit_bases(found, units="L0H0")
        low, high = figures.ends_of_component(found, "L0H0", 0, bases, 4)
        # Behind the image that was skipped, places in the store are not those in the data set.
        assert max(*low, *high) > 3
        axes = figures.component_ends(found, images, "L0H0", n_images=4)
        drawn = [image.get_array() for image in axes.images]
        for place, array in zip((*high, *low), drawn, strict=True):
            row = int(found.sample_ids[place][-7:-4])
            np.testing.assert_array_equal(array, np.asarray(images[row][0]))
        assert [label.get_text() for label in axes.get_yticklabels()] == ["along", "against"]
        share = 100 * float(bases["L0H0"].variances[0]) / bases["L0H0"].total_variance
        assert axes.get_title("left") == f"L0H0, component 0: {share:.0f} % of its variance"

    def test_other_images_bases_and_numbers_are_refused(self, store):
        found, images = store
        bases = fit_bases(found, units="L0H0")
        with pytest.raises(MismatchError, match=r"has no image .* open noise/train with the same limit and seed"):
            figures.component_ends(found, images.subset(np.arange(3)), "L0H0", n_images=4)
        with pytest.raises(MismatchError, match="fit bases on a store of the same model"):
            figures.component_ends(found, images, "L0H0", bases=replace(bases, fingerprint="0"), n_images=4)
        with pytest.raises(InputError, match="each end has 1 to 5, got 6: ask for fewer"):
            figures.component_ends(found, images, "L0H0", n_images=6)
        with pytest.raises(InputError, match="L0H0 has components 0 to"):
            figures.component_ends(found, images, "L0H0", 99, n_images=2)
