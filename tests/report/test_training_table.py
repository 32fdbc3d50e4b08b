"""The paper's table: nothing is averaged over what is not there, and every format says the same."""

import csv
import io
import json
import sys
from statistics import fmean, stdev

import pytest
from rich.console import Console

from residual_lens import cli
from residual_lens.errors import InputError
from residual_lens.report.training_figure import training_figure
from residual_lens.report.training_formats import training_csv, training_latex, training_markdown, training_rich
from residual_lens.report.training_table import TrainingTable, training_tables
from residual_lens.training.runs import RunConfig, RunResult

METHODS = ("zero-shot", "coarse", "residual*", "residual")
ACCURACIES = {
    ("residual", "svhn"): (0.50, 0.52, 0.54),
    ("residual", "dtd"): (0.70, 0.80, 0.60),
    ("coarse", "svhn"): (0.40, 0.40, 0.40),
    ("coarse", "dtd"): (0.7004, 0.7004, 0.7004),
}


def a_run(method="residual", data="dtd", seed=0, accuracy=0.5, **others):
    parameters = 0 if method == "zero-shot" else 144
    run = {"model": "clip-b", "method": method, "data": data, "seed": seed, "parameters": parameters, "seconds": 2.0}
    return run | {"test_accuracy": accuracy, "options": {}} | others


def runs():
    found = [
        a_run(method, data, seed, accuracy)
        for (method, data), by_seed in ACCURACIES.items()
        for seed, accuracy in enumerate(by_seed)
    ]
    return [*found, a_run("zero-shot", "dtd", 0, 0.3), a_run("zero-shot", "svhn", 0, 0.1)]


def the_table(results, **order) -> TrainingTable:
    (table,) = training_tables(results, **order)
    return table


def cells(table):
    return {row[0]: row[1:] for row in table.body(str, "[{}]".format)}


def test_means_standard_deviations_and_averages_are_those_of_the_runs():
    table = the_table(runs(), methods=METHODS)
    rows = {row.label: row for row in table.rows}
    for (method, data), accuracies in ACCURACIES.items():
        cell = rows[method].cells[table.data.index(data)]
        assert cell.mean == pytest.approx(fmean(accuracies))
        assert cell.sd == pytest.approx(stdev(accuracies))
        assert (cell.n_seeds, cell.complete) == (3, True)
    average = rows["residual"].cells[-1]
    by_seed = [fmean(pair) for pair in zip(*(ACCURACIES["residual", data] for data in ("svhn", "dtd")), strict=True)]
    assert average.mean == pytest.approx(fmean(by_seed))
    assert average.sd == pytest.approx(stdev(by_seed))
    assert (table.missing, table.n_runs) == ((), 14)


def test_rows_and_columns_are_in_the_order_asked_for_and_others_follow():
    table = the_table([*runs(), a_run("own", "aaa")], methods=METHODS, data=("svhn", "dtd"))
    assert [row.label for row in table.rows] == ["zero-shot", "coarse", "residual", "own"]
    assert table.header == ("method", "svhn", "dtd", "aaa", "average", "parameters", "seconds")


def test_the_best_of_a_column_is_bold_as_it_is_shown_and_ties_share_it():
    shown = cells(the_table(runs(), methods=METHODS, data=("svhn", "dtd")))
    assert shown["zero-shot"] == ["10.0", "30.0", "20.0", "0", "2.0"]
    assert shown["coarse"] == ["40.0 ± 0.0", "[70.0 ± 0.0]", "55.0 ± 0.0", "144", "2.0"]
    assert shown["residual"] == ["[52.0 ± 2.0]", "[70.0 ± 10.0]", "[61.0 ± 4.6]", "144", "2.0"]


def test_a_data_set_that_is_missing_leaves_a_dash_and_no_average():
    table = the_table([run for run in runs() if (run["method"], run["data"]) != ("coarse", "svhn")])
    shown = cells(table)
    assert shown["coarse"][:3] == ["[70.0 ± 0.0]", "–", "–"]
    assert table.missing == tuple(f"coarse on svhn, seed {seed}" for seed in range(3))
    assert "11 runs. 3 of 14 are missing" in table.note
    assert "coarse on svhn, seed 2" in table.note


def test_a_seed_that_is_missing_is_marked_and_the_average_is_over_whole_seeds():
    table = the_table([run for run in runs() if (run["method"], run["data"], run["seed"]) != ("residual", "dtd", 1)])
    shown = cells(table)
    assert shown["residual"][:3] == ["65.0 ± 7.1†", "[52.0 ± 2.0]", "[58.5 ± 2.1†]"]
    assert table.missing == ("residual on dtd, seed 1",)


def test_what_trains_nothing_needs_no_seeds_and_what_trains_needs_all():
    table = the_table([a_run("zero-shot"), a_run("coarse"), a_run(seed=0), a_run(seed=1)])
    assert table.missing == ("coarse on dtd, seed 1",)


def test_options_that_differ_are_rows_of_their_own_and_shared_ones_are_named_below():
    shots = [a_run(options={"limit": 500, "shots": n}, accuracy=n / 20) for n in (4, 16)]
    table = the_table([*shots, a_run("coarse", options={"limit": 500})])
    shown = cells(table)
    assert {label: row[0] for label, row in shown.items()} == {
        "coarse": "50.0",
        "residual (shots 16)": "[80.0]",
        "residual (shots 4)": "20.0",
    }
    assert table.note == "Test accuracy in percent, one seed; 3 runs, with limit 500."


def test_an_option_is_shared_by_all_that_have_a_use_for_it():
    runs = [
        a_run("zero-shot") | {"useless": ["l1"]},
        *(a_run(name, options={"l1": 0.1}) for name in ("coarse", "residual")),
    ]
    order = ("zero-shot", "coarse", "residual")
    assert [row.label for row in the_table(runs, methods=order).rows] == ["zero-shot", "coarse", "residual"]
    assert the_table(runs).note.endswith("3 runs, with l1 0.1.")
    runs[0]["useless"] = []
    labels = [row.label for row in the_table(runs, methods=order).rows]
    assert labels == ["zero-shot", "coarse (l1 0.1)", "residual (l1 0.1)"]


def test_options_of_one_method_alone_are_in_its_label():
    table = the_table([a_run("coarse"), a_run("residual", options={"units": ["heads"]})])
    assert [row.label for row in table.rows] == ["coarse", "residual (units ['heads'])"]


def test_one_run_twice_is_refused():
    with pytest.raises(InputError, match="residual of clip-b on dtd with seed 1 came twice"):
        training_tables([a_run(seed=1, accuracy=0.1), a_run(seed=0), a_run(seed=1, accuracy=0.9)])


def test_no_runs_are_refused():
    with pytest.raises(InputError, match="No finished run was found"):
        training_tables([])


def test_models_have_tables_of_their_own():
    tables = training_tables([a_run(model="b"), a_run("coarse", "svhn", model="a")])
    assert [(table.model, table.data) for table in tables] == [("a", ("svhn",)), ("b", ("dtd",))]


def test_parameters_are_a_range_and_seconds_a_mean_where_they_differ():
    two = [a_run(data="dtd", parameters=1000, seconds=1.0), a_run(data="svhn", parameters=4104, seconds=2.5)]
    assert cells(the_table(two))["residual"][-2:] == ["1,000–4,104", "1.8"]


ODD = "a|b_c*<d> & 50% $x$ #1 {e} ~ ^ \\ [bold]"


def test_markdown_keeps_its_columns_whatever_the_names():
    text = training_markdown(the_table([a_run("residual*", ODD), a_run("zero-shot", ODD, accuracy=0.1)]))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert [line.replace("\\|", "").count("|") for line in lines] == [6] * 4
    assert lines[1] == "| --- | --: | --: | --: | --: |"
    assert lines[2] == r"| residual\* | **50.0** | **50.0** | 144 | 2.0 |"
    assert r"a\|b\_c\*\<d>" in lines[0]


def test_latex_escapes_what_means_something_else():
    two_seeds = [a_run("residual*", ODD, seed) for seed in (0, 1)]
    text = training_latex(the_table([*two_seeds, a_run("coarse", ODD), a_run("coarse", "x", 1), a_run("own", "x")]))
    assert r"a|b\_c*\textless{}d\textgreater{} \& 50\% \$x\$ \#1 \{e\} \textasciitilde{}" in text
    assert r"\textasciicircum{} \textbackslash{} [bold]" in text
    assert r"residual* & \textbf{50.0 $\pm$ 0.0} & -- & -- & 144 & 2.0 \\" in text
    assert r"\textbf{50.0$^\dagger$}" in text
    assert r"\begin{tabular}{lrrrrr}" in text
    assert not set("–±†") & set(text)
    assert text.count("{") == text.count("}")


def test_csv_has_every_digit_and_nothing_where_runs_are_missing():
    results = [*runs(), a_run("coarse", "eurosat", model="vit-l", accuracy=1 / 3)]
    lines = list(csv.DictReader(io.StringIO(training_csv(training_tables(results, methods=METHODS)))))
    assert [(line["model"], line["method"]) for line in lines] == [
        *(("clip-b", method) for method in ("zero-shot", "coarse", "residual")),
        ("vit-l", "coarse"),
    ]
    assert float(lines[2]["dtd sd"]) == pytest.approx(10)
    assert [lines[2][name] for name in ("dtd seeds", "eurosat", "eurosat seeds")] == ["3", "", ""]
    assert float(lines[3]["eurosat"]) == pytest.approx(100 / 3, abs=1e-12)
    assert [lines[3][name] for name in ("eurosat sd", "dtd", "average", "most parameters")] == [
        "",
        "",
        lines[3]["eurosat"],
        "144",
    ]


def test_the_terminal_shows_names_with_brackets_as_they_are():
    stream = io.StringIO()
    Console(file=stream, width=200).print(training_rich(the_table([a_run(data="a[bold]b", options={"x": "[y]"})])))
    printed = " ".join(stream.getvalue().split())
    for word in ("a[bold]b", "clip-b", "50.0", "1 run, with x [y].", "average"):
        assert word in printed


def test_the_figure_shows_averages_by_the_numbers_trained():
    without = a_run("own", "dtd", 0, 0.9)
    axes = training_figure(the_table([*runs(), without], methods=METHODS)).axes[0]
    shown = {bars.get_label(): (bars.lines[0].get_xdata()[0], bars.lines[0].get_ydata()[0]) for bars in axes.containers}
    assert shown == {
        "zero-shot": (0, pytest.approx(20)),
        "coarse": (144, pytest.approx(55.02)),
        "residual": (144, pytest.approx(61)),
    }
    with pytest.raises(InputError, match="No method of clip-b has all its data sets"):
        training_figure(the_table([a_run("own", "dtd"), a_run("coarse", "svhn")]))


@pytest.fixture
def folder(tmp_path):
    """Two finished runs, one of an image column of its own, as `residual-lens train` leaves them."""
    for seed, options in ((0, {}), (1, {"image_column": "b"})):
        config = RunConfig("clip-b", "dtd", "coarse", seed=seed, limit=500, **options)
        run = tmp_path / "runs" / "deep" / config.folder_name
        run.mkdir(parents=True)
        found = {"path": "direct", "variant": None, "classifier": "text", "n_classes": 47, "n_train": 500}
        found |= {"n_validation": 500, "n_test": 500, "parameters": 144, "learning_rate": 0.8, "seconds": 1.0}
        found |= {"epochs": 3, "best_epoch": 2, "validation_accuracy": 0.6, "test_accuracy": 0.5 + 0.1 * seed}
        (run / "config.json").write_text(json.dumps(config.to_dict()))
        RunResult(config=config, **found).save(run)
    (tmp_path / "runs" / "begun").mkdir()
    return tmp_path / "runs"


def test_the_command_gathers_runs_and_writes_every_format(folder, tmp_path, monkeypatch, capsys):
    written = {kind: tmp_path / "made" / f"table.{kind}" for kind in ("markdown", "csv", "latex")}
    texts = [text for kind, path in written.items() for text in (f"--{kind}", str(path))]
    monkeypatch.setattr(
        sys, "argv", ["residual-lens", "table", str(folder), *texts, "--figures", str(tmp_path / "made")]
    )
    cli.main()
    printed = capsys.readouterr().out
    assert "55.0 ± 7.1" in printed
    assert "2 runs, with limit 500." in " ".join(printed.split())
    assert r"| coarse | **55.0 ± 7.1** | **55.0 ± 7.1** | 144 | 1.0 |" in written["markdown"].read_text()
    assert r"\textbf{55.0 $\pm$ 7.1}" in written["latex"].read_text()
    assert written["csv"].read_text().startswith("model,method,dtd,dtd sd,dtd seeds,average")
    assert (tmp_path / "made" / "clip-b.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["nowhere"], "There is no folder nowhere"),
        (["."], "No finished run was found"),
        (["runs", "runs"], "coarse of clip-b on dtd with seed 0 came twice"),
        (["runs", "--csv", "a", "--latex", "a"], "Two tables would go to one file"),
    ],
)
def test_what_makes_no_table_is_one_line(texts, message, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder / "begun" if texts == ["."] else folder.parent)
    monkeypatch.setattr(sys, "argv", ["residual-lens", "table", *texts])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    out, err = capsys.readouterr()
    assert message in err
    assert (out, err.count("\n")) == ("", 1)
