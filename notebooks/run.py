"""Runs the notebook from top to bottom and keeps what it printed and drew: python notebooks/run.py"""

from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

PATH = Path(__file__).with_name("first_hour.ipynb")


def run(notebook: NotebookNode) -> NotebookNode:
    """Executes all cells in the folder of PATH. Keeps outputs, but no times and versions: each run would differ."""
    folder = {"metadata": {"path": PATH.parent}}
    NotebookClient(notebook, resources=folder, record_timing=False, coalesce_streams=True).execute()
    notebook.metadata.language_info = {"name": "python"}
    return notebook


if __name__ == "__main__":
    nbformat.write(run(nbformat.read(PATH, as_version=4)), PATH)
