"""docs/concepts.md: its tables are those that its pictures were drawn with, and its commands compute them."""

import re

import pytest
from conftest import REPOSITORY
from PIL import Image

from docs import figures

PAGE = (REPOSITORY / "docs" / "concepts.md").read_text()
FOLDER = REPOSITORY / "docs" / "figures"
TABLES = figures.tables(PAGE)
NUMBER = re.compile(r"-?\d+\.\d+")


def test_every_picture_was_drawn_with_the_table_beside_it():
    assert {path.stem for path in FOLDER.glob("*.png")} == TABLES.keys()
    for name, table in TABLES.items():
        with Image.open(FOLDER / f"{name}.png") as picture:
            assert picture.info["Description"] == table
    assert TABLES.keys() == figures.FIGURES.keys()
    words = " ".join(PAGE.split())
    assert [name for name in TABLES if f"`python -m docs.figures {name}`" not in words] == []


def test_one_mean_of_two_orders_that_sequential_distances_tell_apart():
    rows = dict(re.findall(r"^\| (.+) \| [\d.-]+ \| ([\d.-]+) \|$", TABLES["mean"], re.MULTILINE))
    assert float(rows.pop("cosine of the means")) == 0
    del rows["Wasserstein, `position_weight=0`"]
    assert len(rows) == 3
    assert all(float(other) > 0.3 for other in rows.values())


def recomputed(shell, folder, *names):
    done = shell("-m", "docs.figures", *names, "--out", folder)
    assert done.returncode == 0, done.stderr
    return figures.tables((folder / "concepts.md").read_text())


def check(name, table):
    """The same words, and the same numbers but for the last digit."""
    assert NUMBER.sub("#", table) == NUMBER.sub("#", TABLES[name])
    found, quoted = ([float(number) for number in NUMBER.findall(text)] for text in (table, TABLES[name]))
    assert found == pytest.approx(quoted, abs=0.0015, rel=0.03)


@pytest.mark.heavy
def test_the_command_computes_the_first_table(shell, tmp_path):
    check("mean", recomputed(shell, tmp_path, "mean")["mean"])
    with Image.open(tmp_path / "figures" / "mean.png") as drawn, Image.open(FOLDER / "mean.png") as committed:
        assert drawn.size == committed.size


@pytest.mark.heavy
def test_the_command_computes_the_other_tables(shell, tmp_path):
    names = [name for name in TABLES if name != "mean"]
    tables = recomputed(shell, tmp_path, *names)
    for name in names:
        check(name, tables[name])
