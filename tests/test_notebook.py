"""notebooks/first_hour.ipynb: what is committed is whole and small, and it still does what it says."""

import json
import re
import runpy

import nbformat
import pytest
from conftest import REPOSITORY

PATH = REPOSITORY / "notebooks" / "first_hour.ipynb"
LARGEST_BYTES = 150_000  # a page, not a download


@pytest.fixture
def notebook():
    return nbformat.read(PATH, as_version=4)


def test_what_is_committed_has_run_from_top_to_bottom(notebook):
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} == {"stream", "display_data"}
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert PATH.stat().st_size < LARGEST_BYTES


def test_a_change_shows_as_one(notebook):
    """Cells have names of their own, and nothing is kept that differs from run to run."""
    assert all(re.fullmatch(r"[a-z-]+", cell.id) for cell in notebook.cells)
    assert all(cell.metadata == {} for cell in notebook.cells)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


def test_its_links_lead_to_files(notebook):
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    targets = [target for target in re.findall(r"\]\(([^)#]+)", prose) if "://" not in target]
    assert len(targets) > 5
    assert [target for target in targets if not (PATH.parent / target).exists()] == []


@pytest.mark.heavy
def test_it_runs_and_only_sequences_find_the_order(notebook):
    telling = "import json; print(json.dumps([[*key, *found] for key, found in recalls.items()]))"
    notebook.cells.append(nbformat.v4.new_code_cell(telling))
    done = runpy.run_path(str(REPOSITORY / "notebooks" / "run.py"))["run"](notebook)
    assert not [out for cell in done.cells for out in cell.get("outputs", []) if out.get("name") == "stderr"]
    recalls = {(method, mode): found for method, mode, *found in json.loads(done.cells[-1].outputs[0].text)}
    assert min(recalls.pop(("SCAV", "sequence"))) > 75
    assert len(recalls) == 3
    assert max(found for pair in recalls.values() for found in pair) < 15  # gallery 64, chance 1.6
