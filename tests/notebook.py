"""``make notebook``: runs docs/from_search_to_prediction.ipynb and keeps what it shows.

Figures are kept as pictures, which every viewer of notebooks can show.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "from_search_to_prediction.ipynb"


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Run all cells in ``folder``; an error of a cell is raised."""
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=280, resources=resources, kernel_name="python3").execute()


def main() -> None:
    os.environ["PLOTLY_RENDERER"] = "png"
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        execute(notebook, Path(folder))
    for cell in notebook.cells:
        # The times of its execution are nobody's concern.
        cell.metadata.pop("execution", None)
        # Ray writes an empty element into a notebook when it starts.
        shown = [each for each in cell.get("outputs", ()) if "text/html': ''" not in str(each)]
        if cell.cell_type == "code":
            cell.outputs = shown
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
