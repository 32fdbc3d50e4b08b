"""RMSNorm, final and in blocks: nothing is centred, and the uniform share is of the constant alone."""

import pytest
import torch

from tests.decomposition.models import KINDS, RMS_NORMED
from tests.tolerances import FLOAT32_TOL, assert_changed, assert_close

UNIFORM = tuple(kind for kind in RMS_NORMED if kind != "rms-map")


@torch.no_grad()
@pytest.mark.parametrize("kind", RMS_NORMED)
def test_contributions_are_not_centred(kind):
    hvit, images = KINDS[kind].wrapped(), KINDS[kind].images()
    parts = hvit.decompose(images)
    assert_close(parts.total(), hvit(images), FLOAT32_TOL)
    if kind == "rms-token":
        # The same vector added to a term's every coordinate counts.
        gain = hvit.parts.ln_final.gain
        scale = hvit.run_with_cache(images, names_filter="ln_final.hook_scale")[1]["ln_final.hook_scale"]
        assert_close(parts["1_mlp_out"], hvit.extract(images).mlps[1][:, 0] * gain / scale, FLOAT32_TOL)
        row_sums = hvit.direct_map().sum(dim=0)
        assert_close(row_sums, gain.double(), FLOAT32_TOL)


@torch.no_grad()
@pytest.mark.parametrize("kind", UNIFORM)
def test_uniform_shares_are_zero_without_an_offset(kind):
    hvit, images = KINDS[kind].wrapped(), KINDS[kind].images()
    own, uniform = hvit.decompose(images), hvit.decompose(images, center="uniform")
    assert own["bias"].abs().max() == 0
    assert_close(uniform.total(), hvit(images), FLOAT32_TOL)
    assert_close(uniform.values, own.values[:, :-1], FLOAT32_TOL)


@torch.no_grad()
@pytest.mark.parametrize("kind", RMS_NORMED)
def test_the_spelled_out_norm_is_the_fused_one(kind):
    hvit, images = KINDS[kind].wrapped(), KINDS[kind].images()
    expected = hvit(images)
    names = [name for name in hvit.hook_dict if name.endswith("hook_scale")]
    _, cache = hvit.run_with_cache(images, names_filter=names)
    with hvit.hooks([(name, lambda scale, hook: None) for name in names]):
        assert_close(hvit(images), expected, FLOAT32_TOL)
    with hvit.hooks([("blocks.1.ln2.hook_scale", lambda scale, hook: 2 * scale)]):
        assert_changed(hvit(images), expected)
    _, cache = hvit.run_with_cache(images, names_filter=["blocks.1.hook_resid_mid", "blocks.1.ln2.hook_scale"])
    stream = cache["blocks.1.hook_resid_mid"].double()
    eps = hvit.blocks[1].ln2.parts.eps
    assert_close(cache["blocks.1.ln2.hook_scale"], (stream.square().mean(-1, keepdim=True) + eps).sqrt(), FLOAT32_TOL)
