"""The tables show each unit's first texts with what they explain, and mark labels that mean nothing."""

import io

from rich.console import Console

from residual_lens.descriptions import AgainstChance, Description, Descriptions
from residual_lens.report import descriptions_markdown, descriptions_table

GOOD, BAD = AgainstChance(0.6, 0.254, 0.031, 0.025), AgainstChance(0.2, 0.3, 0.02, 0.7)
DESCRIPTIONS = Descriptions(
    {
        "L0H0": Description(
            "L0H0", ("red [bold]", "a|b", "c", "d", "e", "f"), (0.2, 0.3, 0.4, 0.5, 0.6, 0.65), GOOD, BAD
        ),
        "L0H1": Description("L0H1", ("zebra", "two"), (0.1, 0.2), BAD, GOOD),
        "L1H0": Description("L1H0", (), (), AgainstChance(0.0, 0.0, 0.0, 1.0), AgainstChance(0.0, 0.0, 0.0, 1.0)),
    },
    {
        "store": {"model": "clip-b", "data": "imagenet", "split": "train"},
        "dictionary": {"source": "words[b].txt"},
        "n_samples": 1234,
        "n_texts": 3500,
        "n_null": 39,
    },
)


def printed(width: int, *, color: bool = False) -> str:
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=color, color_system="standard" if color else None).print(
        descriptions_table(DESCRIPTIONS)
    )
    return file.getvalue()


def test_a_row_is_a_unit_with_its_first_five_texts_and_its_numbers():
    lines = [line.rstrip() for line in printed(120).splitlines()]
    rows = [line.split() for line in lines if line.startswith((" L0", " L1"))]
    assert rows == [
        ["L0H0", "red", "[bold],", "a|b,", "c,", "d,", "e", "20", "60", "65", "25", "±", "3", "0.025", "0.20", "0.700"],
        ["L0H1", "✗", "zebra,", "two", "10", "20", "20", "30", "±", "2", "0.700", "0.60", "0.025"],
        ["L1H0", "✗", "does", "not", "vary", "0", "0", "0", "0", "±", "0", "1.000", "0.00", "1.000"],
    ]
    assert lines[0] == "clip-b on imagenet/train (1,234 samples), in 3,500 texts of words[b].txt"
    legend = " ".join(" ".join(lines[-3:]).split())
    assert "39 random dictionaries. ✗: a label that means nothing (p > 0.05), 2 of 3 here; of units" in legend
    assert "about 1 in 20 passes" in legend


def test_it_fits_80_columns_without_losing_a_letter():
    lines = printed(80).splitlines()
    assert max(map(len, lines)) <= 80
    for number in ("25 ± 3", "0.025", "0.700"):
        assert number in "\n".join(lines)
    # Folded over several lines, but whole.
    first = "".join(line[10:].split("  ")[0].strip() for line in lines if "…" not in line)
    assert "…" not in "\n".join(lines)
    assert "[bold]" in first.replace(" ", "")


def test_rows_without_meaning_are_dim():
    rows = {line.split("L")[1][:3]: line for line in printed(120, color=True).splitlines() if "L0H" in line}
    assert "\x1b[2m" not in rows["0H0"]
    assert "\x1b[2m" in rows["0H1"]


def test_markdown_has_the_same_rows():
    lines = descriptions_markdown(DESCRIPTIONS).splitlines()
    assert lines[2] == "| unit | first texts | 1 | 5 | 20 | chance | p | coherence | p |"
    assert lines[3] == "|---|---|--:|--:|--:|--:|--:|--:|--:|"
    assert lines[4] == "| L0H0 | red [bold], a\\|b, c, d, e | 20 | 60 | 65 | 25 ± 3 | 0.025 | 0.20 | 0.700 |"
    assert lines[6].startswith("| L1H0 | ✗ does not vary | 0 |")
    assert lines[7] == ""
    assert lines[8].startswith("Share of variance (%)")
