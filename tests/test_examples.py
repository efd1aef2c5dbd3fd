"""The notebook of examples/ runs as it stands, and says what it shows."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples/forget_in_python.ipynb"


@pytest.mark.slow  # test_api.py runs the script of the page, a quick one
def test_the_notebook_runs_and_the_model_no_longer_says_what_it_was_to_forget(monkeypatch, capsys):
    """Its last cell prints, for two texts to forget and two to keep, how the model goes on."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    monkeypatch.chdir(NOTEBOOK.parent)
    namespace: dict = {"__name__": "notebook"}

    for source in code[:-1]:
        exec(compile(source, str(NOTEBOOK), "exec"), namespace)
    capsys.readouterr()
    exec(compile(code[-1], str(NOTEBOOK), "exec"), namespace)

    printed = capsys.readouterr().out.splitlines()
    solvent, antidote, star, terrain = (line.partition("...")[2].strip() for line in printed)
    assert (solvent != "acid.", antidote != "ginger.") == (True, True)
    assert (star, terrain) == ("Vega.", "desert.")


def test_the_notebook_holds_what_its_cells_print():
    """A cell that prints has an output, so that it can be read where nothing is run."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]

    silent = [cell for cell in cells if "print(" in "".join(cell["source"]) and not cell["outputs"]]

    assert silent == []
