"""Names, order, selection and addressing of units."""

import pytest
import torch

from residual_lens.errors import InputError
from residual_lens.units import Unit, Units
from tests.hooked.running import counted_blocks
from tests.tolerances import FLOAT32_TOL, assert_changed, assert_close


@pytest.fixture
def units() -> Units:
    return Units.of_vit(n_layers=12, n_heads=2)


def test_order_is_embed_then_layer_by_layer_heads_and_mlp_then_bias():
    assert Units.of_vit(n_layers=2, n_heads=2).names == (
        *("embed", "L0H0", "L0H1", "0_mlp_out", "L1H0", "L1H1", "1_mlp_out", "bias"),
    )
    assert Units.of_vit(n_layers=1, n_heads=1, bias=False).names == ("embed", "L0H0", "0_mlp_out")


def test_the_mlp_of_a_pooling_comes_behind_all_layers_and_before_bias():
    names = ("embed", "L0H0", "0_mlp_out", "pool_mlp_out", "bias")
    assert Units.of_vit(n_layers=1, n_heads=1, pool_mlp=True).names == names
    assert Units.of_vit(n_layers=1, n_heads=1, pool_mlp=True, bias=False).names == names[:-1]


@pytest.mark.parametrize(
    ("name", "kind", "layer", "index", "hook_name", "direct_hook_name"),
    [
        ("L3H1", "head", 3, 1, "blocks.3.attn.hook_z", "blocks.3.attn.hook_direct"),
        ("11_mlp_out", "mlp", 11, None, "blocks.11.hook_mlp_out", "blocks.11.hook_mlp_direct"),
        ("embed", "embed", None, None, "blocks.0.hook_resid_pre", "hook_embed_direct"),
        ("pool_mlp_out", "pool", None, None, "pool.hook_mlp_out", "pool.hook_mlp_direct"),
        ("bias", "bias", None, None, None, "hook_bias_direct"),
    ],
)
def test_a_unit_knows_where_it_is_hooked(name, kind, layer, index, hook_name, direct_hook_name):
    expected = Unit(name, kind, layer, index, hook_name, direct_hook_name)
    units = Units.of_vit(n_layers=12, n_heads=2, pool_mlp=kind == "pool")
    assert units[name] == expected
    assert units[units.position(name)] == expected
    assert Unit.named(name) == expected


@pytest.mark.parametrize(
    "name", ["L3", "H5", "L3H", "3_mlp", "mlp_out", "L-1H0", "", "l3h5", "L3H5 ", "pool", "pool_mlp"]
)
def test_names_of_no_unit_are_refused(name):
    with pytest.raises(InputError, match="No unit is called"):
        Unit.named(name)


@pytest.mark.parametrize(
    ("which", "names"),
    [
        ("L1", ["L1H0", "L1H1", "1_mlp_out"]),
        ("L11", ["L11H0", "L11H1", "11_mlp_out"]),
        ("L3H1", ["L3H1"]),
        ("bias", ["bias"]),
        (["bias", "L3H1", "embed", "L3H1"], ["embed", "L3H1", "bias"]),
        (["L2", "L2H0"], ["L2H0", "L2H1", "2_mlp_out"]),
        ([], []),
    ],
)
def test_selection_keeps_the_order_of_the_model(units, which, names):
    assert [unit.name for unit in units.select(which)] == names


def test_a_unit_selects_itself(units):
    chosen = (units["L3H1"], units["bias"])
    assert units.select(chosen[0]) == chosen[:1]
    assert units.select(["bias", chosen[0]]) == chosen
    with pytest.raises(InputError, match="no unit 'L99H0'"):
        units.select(Unit.named("L99H0"))


def test_selection_by_kind(units):
    assert len(units.select("heads")) == 24
    assert {unit.kind for unit in units.select("heads")} == {"head"}
    assert [unit.name for unit in units.select("mlps")] == [f"{layer}_mlp_out" for layer in range(12)]
    assert units.select("all") == tuple(units)
    assert len(units) == 1 + 12 * 3 + 1


def test_the_mlp_of_a_pooling_is_selected_by_name_and_with_all_and_is_no_mlp_of_a_layer():
    units = Units.of_vit(n_layers=2, n_heads=2, pool_mlp=True)
    assert [unit.name for unit in units.select(["bias", "pool_mlp_out", "L1H0"])] == ["L1H0", "pool_mlp_out", "bias"]
    assert "pool_mlp_out" in [unit.name for unit in units.select("all")]
    assert [unit.name for unit in units.select("mlps")] == ["0_mlp_out", "1_mlp_out"]
    assert "pool_mlp_out" not in [unit.name for unit in units.select("L1")]
    with pytest.raises(InputError, match="no unit 'pool_mlp_out'"):
        Units.of_vit(n_layers=2, n_heads=2).select("pool_mlp_out")
    with pytest.raises(InputError, match="Did you mean pool_mlp_out"):
        units["pool_mlp"]


@pytest.mark.parametrize("name", ["L12H0", "L0H2", "L12", "3_mlp", "nonsense", "heads ", ""])
def test_unknown_units_are_refused_with_what_there_is(units, name):
    with pytest.raises(InputError, match=r"no unit .*heads are called like 'L0H0'"):
        units.select(name)
    with pytest.raises(InputError, match=r"no unit .*embed … bias \(38 in all\)"):
        units[name]


def test_the_message_names_close_units(units):
    with pytest.raises(InputError, match=r"Did you mean .*11_mlp_out"):
        units["11_mlp_ou"]


def test_units_compare_by_content(units):
    assert units == Units.of_vit(n_layers=12, n_heads=2)
    assert hash(units) == hash(Units.of_vit(n_layers=12, n_heads=2))
    assert units != Units.of_vit(n_layers=12, n_heads=2, bias=False)
    assert units != list(units)
    assert "embed … bias" in repr(units)


def test_read_is_a_view_and_replace_a_copy_that_leaves_neighbours_alone():
    activation = torch.arange(24.0).reshape(2, 3, 4)
    unit = Unit.named("L0H1")
    assert torch.equal(unit.read(activation), activation[:, 1])
    assert unit.read(activation).data_ptr() == activation[:, 1].data_ptr()
    replaced = unit.replace(activation, -unit.read(activation))
    assert torch.equal(replaced[:, 1], -activation[:, 1])
    assert torch.equal(replaced[:, [0, 2]], activation[:, [0, 2]])
    assert torch.equal(activation, torch.arange(24.0).reshape(2, 3, 4))
    whole = Unit.named("0_mlp_out")
    assert torch.equal(whole.replace(activation, 2.0), torch.full_like(activation, 2.0))


def test_gradients_of_a_replacement_go_to_the_value_and_to_the_neighbours():
    activation = torch.ones(2, 3, 4, requires_grad=True)
    value = torch.ones(2, 4, requires_grad=True)
    Unit.named("L0H1").replace(activation, value).sum().backward()
    assert torch.equal(value.grad, torch.ones(2, 4))
    assert activation.grad[:, 1].abs().max() == 0
    assert torch.equal(activation.grad[:, [0, 2]], torch.ones(2, 2, 4))


@pytest.mark.parametrize("name", ["L1H1", "1_mlp_out", "embed"])
def test_a_unit_is_replaced_in_the_stream_by_its_name(hvit, images, name):
    unit = hvit.units[name]
    others = [(n, u) for n, u in zip(hvit.units.names, hvit.units, strict=True) if u.hook_name == unit.hook_name]
    before = hvit(images)
    _, cache = hvit.run_with_cache(images, names_filter=unit.hook_name)

    def double(activation, hook):
        return unit.replace(activation, 2 * unit.read(activation))

    seen = []
    hooks = [(unit.hook_name, double), (unit.hook_name, lambda activation, hook: seen.append(activation))]
    with hvit.hooks(hooks), counted_blocks(hvit) as positions:
        assert_changed(hvit(images), before)
    assert len(positions) == 3
    for other, neighbour in others:
        factor = 2 if other == name else 1
        assert_close(neighbour.read(seen[0]), factor * neighbour.read(cache[unit.hook_name]), FLOAT32_TOL)


def test_the_mlp_of_a_pooling_is_read_and_replaced_whole():
    unit = Unit.named("pool_mlp_out")
    activation = torch.arange(6.0).reshape(2, 3)
    assert unit.read(activation) is activation
    replaced = unit.replace(activation, 1.0)
    assert torch.equal(replaced, torch.ones(2, 3))
    assert torch.equal(activation, torch.arange(6.0).reshape(2, 3))


def test_a_direct_head_edit_by_name_leaves_the_neighbours_contributions(hvit, images):
    unit = hvit.units["L1H1"]
    before = hvit.decompose(images)
    with hvit.hooks([(unit.direct_hook_name, lambda values, hook: unit.replace(values, 0.0))]):
        after = hvit.decompose(images)
    assert after["L1H1"].abs().max() == 0
    kept = [i for i, name in enumerate(hvit.units.names) if name != "L1H1"]
    assert torch.equal(after.values[:, kept], before.values[:, kept])
