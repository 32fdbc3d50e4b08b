"""Every method by name: what it makes, counts, saves and refuses."""

from dataclasses import fields

import pytest
import torch

from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.interventions.adapter import Origin
from residual_lens.text import ZeroShotClassifier
from residual_lens.training.methods import METHODS, Options, embedding_basis, load_adapter, method_named
from tests.backbones.test_timm_zoo import without_memory
from tests.interventions.tiny_bases import bases_for, hooks_in_force, synthetic_bases
from tests.tiny_models import tiny_images
from tests.training.toy import toy_classifier

NAMES = (
    *("zero-shot", "coarse", "residual*", "residual", "residual-stream", "spectral-output"),
    *("linear", "linear-probe", "lora", "svd", "finetune"),
)


def made(name: str, hvit: HookedViT, options: Options | None = None):
    """The adapter of a method for a tiny model."""
    method, bases = METHODS[name], None
    if method.needs_bases == "units":
        bases = bases_for(hvit)
    if method.needs_bases == "embedding":
        with torch.no_grad():
            bases = embedding_basis(hvit(tiny_images(hvit.source, 40, seed=5)))
    return method.make(hvit, bases, toy_classifier(hvit), options or Options())


def test_the_methods_are_those_of_the_paper_and_more_in_the_order_of_tables():
    assert tuple(METHODS) == NAMES
    assert all(method.name == name for name, method in METHODS.items())
    assert method_named("residual*") is METHODS["residual*"]
    with pytest.raises(InputError, match=r"Unknown method 'resid'\. Did you mean residual, .*Methods are zero-shot,"):
        method_named("resid")


@pytest.mark.parametrize("name", NAMES)
def test_a_method_reads_the_options_that_it_names_and_no_others(hvit, name):
    others = {"units": ("L1",), "explained_variance": 0.5, "scales": "ones", "keep_mean": True, "rank": 2}
    assert {*others, "seed"} == {field.name for field in fields(Options)}
    plain = made(name, hvit)
    for option, value in others.items():
        other = made(name, hvit, Options(**{option: value}))
        same = other.config == plain.config and all(
            torch.equal(tensor, plain.state_dict()[key]) for key, tensor in other.state_dict().items()
        )
        assert same == (option not in METHODS[name].options), option


@pytest.mark.parametrize("name", NAMES)
def test_a_method_says_what_its_adapter_needs(hvit, images, name):
    method, adapter = METHODS[name], made(name, hvit)
    assert (adapter.parameter_count() == 0) == (method.learning_rate is None) == (name == "zero-shot")
    if method.learning_rate is not None:
        assert method.learning_rate == adapter.learning_rate
    assert (adapter.cached_form(Origin.of_model(hvit)) is not None) == method.cached or name == "residual-stream"
    assert method.cached == (method.path == "direct")
    with torch.no_grad(), adapter.attached(hvit, method.path):
        assert hvit(images).isfinite().all()
    assert hooks_in_force(hvit) == 0


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_any_adapter_is_read_back_from_its_folder(hvit, images, name, tmp_path):
    method, adapter = METHODS[name], made(name, hvit, Options(rank=2, seed=3))
    for parameter in adapter.parameters():
        parameter += 0.1
    adapter.save(tmp_path)
    again, classifier = load_adapter(tmp_path, hvit), toy_classifier(hvit, seed=4)
    assert type(again) is type(adapter)
    assert again.config == adapter.config
    logits = []
    for each in (adapter, again):
        with each.attached(hvit, method.path):
            logits.append(each.logits(hvit(images), classifier))
    assert torch.equal(*logits)


@pytest.mark.parametrize("name", ["linear", "svd"])
def test_adapters_go_through_the_hubs_own_functions(hvit, name, tmp_path):
    adapter = made(name, hvit)
    adapter.save_pretrained(tmp_path)
    needed = {} if METHODS[name].cached else {"hvit": hvit}
    again = type(adapter).from_pretrained(tmp_path, **needed)
    assert again.config == adapter.config


def test_folders_that_hold_no_adapter_are_refused(hvit, tmp_path):
    with pytest.raises(InputError, match="is no saved adapter"):
        load_adapter(tmp_path, hvit)
    for text, message in (
        ("{", "is no saved adapter"),
        ("[]", "names no kind of adapter"),
        ('{"kind": "Bases"}', "holds 'Bases'; adapters are Coarse, ResiDual"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match=message):
            load_adapter(tmp_path, hvit)
    made("linear", hvit).save(tmp_path)
    made("coarse", hvit).save(tmp_path / "other")
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"is not the file that config\.json describes"):
        load_adapter(tmp_path, hvit)


@pytest.mark.parametrize(
    ("model", "width", "counts"),
    [
        ("ViT-L-14", 768, {"heads": 24_576, "both": 43_008, "coarse": 384, "linear": 768 * 769}),
        ("ViT-B-16", 512, {"heads": 9_216, "both": 15_360, "coarse": 144, "linear": 512 * 513}),
    ],
    ids=["CLIP-L", "CLIP-B"],
)
def test_parameter_counts_of_the_real_clips_are_the_papers(model, width, counts):
    hvit = HookedViT.wrap(without_memory(model))
    bases = synthetic_bases(hvit.cfg.n_layers, hvit.cfg.n_heads, hvit.cfg.d_head, width)
    classifier = ZeroShotClassifier(torch.zeros(10, width), tuple("0123456789"), 100.0)
    found = {}
    for key, name, units in (
        ("heads", "residual", ("heads",)),
        ("both", "residual", ()),
        ("coarse", "coarse", ()),
        ("linear", "linear", ()),
    ):
        found[key] = METHODS[name].make(hvit, bases, classifier, Options(units=units)).parameter_count()
    assert found == counts
    assert METHODS["linear-probe"].make(hvit, None, classifier, Options()).parameter_count() == 10 * (width + 1)


def test_chosen_units_are_rescaled_and_no_others(hvit):
    for units, expected in (
        (("L2",), ("L2H0", "L2H1", "L2H2", "2_mlp_out")),
        (("mlps",), ("0_mlp_out", "1_mlp_out", "2_mlp_out")),
    ):
        assert made("residual", hvit, Options(units=units)).config.units == expected
    assert made("residual*", hvit, Options(units=("L2",))).config.units == ("L2H0", "L2H1", "L2H2")


def test_options_reach_what_learns_scales(hvit):
    options = Options(scales="ones", keep_mean=True, explained_variance=0.5)
    for name in ("residual*", "residual", "residual-stream", "spectral-output"):
        adapter = made(name, hvit, options)
        assert bool((adapter.scales == 1).all())
        assert adapter.config.keep_mean
    half, most = (made("residual*", hvit, Options(explained_variance=share)) for share in (0.5, 0.99))
    assert half.parameter_count() < most.parameter_count()
    for name in ("residual", "spectral-output", "lora"):
        first, same, other = (next(made(name, hvit, Options(seed=seed)).parameters()) for seed in (0, 0, 1))
        assert torch.equal(first, same)
        assert not torch.equal(first, other)
    assert made("lora", hvit, Options(rank=2)).parameter_count() * 4 == made("lora", hvit).parameter_count()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"explained_variance": 0.0}, r"a share in \(0, 1\], got 0.0"),
        ({"scales": "zeros"}, "'randn', 'ones' or 'spectrum', got 'zeros'"),
        ({"rank": 0}, "rank starts at 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Options(**options)


def test_bases_of_the_wrong_kind_or_of_too_few_units_are_refused(hvit):
    classifier, of_heads = toy_classifier(hvit), bases_for(hvit, units="heads")
    embedding = embedding_basis(torch.randn(30, 20, generator=torch.Generator().manual_seed(0)))
    for name in ("residual*", "residual", "residual-stream"):
        for wrong in (None, embedding):
            with pytest.raises(InputError, match="needs bases of units"):
                METHODS[name].make(hvit, wrong, classifier, Options())
    for wrong in (None, of_heads):
        with pytest.raises(InputError, match="needs the basis of embeddings"):
            METHODS["spectral-output"].make(hvit, wrong, classifier, Options())
    with pytest.raises(InputError, match="no unit '0_mlp_out'"):
        METHODS["residual"].make(hvit, of_heads, classifier, Options(units=("heads", "mlps")))
