"""The notebook that walks from a folder of music to live genres."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from support.run import LONGEST_TRAINING_SECONDS

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
for needed in ("ipykernel", "keras", "tf2onnx", "soundfile"):
    pytest.importorskip(needed)

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "trainer" / "tour.ipynb"
MOST_BYTES = 200_000
"""Size of the notebook with its pictures."""


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the notebook with its outputs, run in an empty folder by the code of this tree."""
    folder = tmp_path_factory.mktemp("tour")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
        nbclient.NotebookClient(
            notebook,
            timeout=LONGEST_TRAINING_SECONDS,
            resources={"metadata": {"path": str(folder)}},
        ).execute()
    return notebook


def printed(notebook: Any, words: str) -> str:
    """Return what the cell printed whose code contains `words`."""
    code = [each for each in notebook.cells if each.cell_type == "code"]
    (cell,) = (each for each in code if words in each.source)
    return "".join(output.get("text", "") for output in cell.outputs)


def test_the_notebook_trains_exports_and_hears_each_genre(executed: Any) -> None:
    training = printed(executed, "{genre_train} ")
    assert "head 5/5" in training
    (right,) = re.findall(r"^valid: ([\d.]+)% of 3 tracks right", training, flags=re.MULTILINE)
    assert float(right) == 100
    assert "Wrote tour/model.onnx" in printed(executed, "{genre_export} ")
    heard = [line.split(" s  ")[1] for line in printed(executed, "streamer.replay(").splitlines()]
    genres = [label for label in dict.fromkeys(heard) if label != "uncertain"]
    assert genres == ["arpeggio", "drone", "drums"]


def test_the_notebook_comes_with_small_outputs() -> None:
    assert NOTEBOOK.stat().st_size < MOST_BYTES
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [output for cell in code for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 3
    assert not any(output.output_type == "error" for output in shown)
