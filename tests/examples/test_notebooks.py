"""The notebooks run from top to bottom, show their stored output, and follow the rules."""

import ast
import json
import re
import subprocess
import sys
import unicodedata
from importlib.metadata import version
from pathlib import Path

import pytest

from mixpanel import __version__
from mixpanel.cdp import AsyncCustomerIO
from tests.notebooks import NOTEBOOKS, notebooks

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PATHS = notebooks()
MOST_LINES = 15
KEY = re.compile(r"\b[sp]k_(us|eu)_\w{16}|\b[0-9a-f]{20,}\b|-----BEGIN")
# What is another on each machine, or in each run.
TRACES = [
    "127.0.0.1",
    "localhost",
    "/tmp/",
    "/home/",
    "/Users/",
    str(ROOT),
    sys.prefix,
    __version__,
]
RANDOM_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-")

each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def cells(path, kind=None):
    """Return the cells of a notebook, or those of one kind, with their sources as text."""
    found = json.loads(path.read_text())["cells"]
    return [
        {**cell, "source": "".join(cell["source"])}
        for cell in found
        if kind in (None, cell["cell_type"])
    ]


def words(cell):
    """Return the words of a cell's output, without the layout of tables."""
    shown = [
        output["data"].get("text/plain", "") if "data" in output else output.get("text", "")
        for output in cell["outputs"]
    ]
    return ["".join(text).split() for text in shown]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Run all notebooks once; return the folder of the results, and the errors."""
    folder = tmp_path_factory.mktemp("notebooks")
    command = [sys.executable, "-m", "tests.notebooks", "--into", folder]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    return folder, done.stderr


@pytest.mark.heavy
@each_notebook
def test_a_notebook_runs_and_shows_its_stored_output(path, executed):
    """Word by word; `python -m tests.notebooks` stores the current output."""
    folder, text = executed
    assert (folder / path.name).exists(), text
    stored, shown = cells(path, "code"), cells(folder / path.name, "code")
    assert len(stored) == len(shown)
    if int(version("pandas").partition(".")[0]) < 3:
        pytest.skip("the stored output is that of current versions of pandas and matplotlib")
    for number, (before, now) in enumerate(zip(stored, shown, strict=True), 1):
        assert words(before) == words(now), f"[{number}] {before['source']}"


@each_notebook
def test_a_notebook_was_run_from_top_to_bottom(path):
    """Without warnings, and without traces of the machine."""
    code = cells(path, "code")
    assert list(range(1, len(code) + 1)) == [cell["execution_count"] for cell in code]
    for cell in code:
        kinds = [output.get("name", output["output_type"]) for output in cell["outputs"]]
        assert not {"stderr", "error"} & set(kinds)
        shown = json.dumps(cell["outputs"])
        assert not [trace for trace in TRACES if trace in shown]
        assert not RANDOM_ID.search(shown)


@each_notebook
def test_a_notebook_has_a_title_imports_and_short_cells(path):
    """The first code cell holds the imports, and no others do."""
    first = cells(path)[0]
    assert ("markdown", "# ") == (first["cell_type"], first["source"][:2])
    everything = "".join(cell["source"] for cell in cells(path))
    assert not [letter for letter in everything if unicodedata.category(letter) == "So"]
    code = cells(path, "code")
    for cell in code:
        assert len(cell["source"].splitlines()) <= MOST_LINES, cell["source"]
    trees = [ast.parse(cell["source"]) for cell in code]
    assert {ast.Import, ast.ImportFrom} >= {type(node) for node in trees[0].body}
    later = [node for tree in trees[1:] for node in ast.walk(tree)]
    assert not [node for node in later if isinstance(node, ast.Import | ast.ImportFrom)]


@each_notebook
def test_a_notebook_contains_no_key(path):
    """The text explains how to take it from the environment."""
    text = path.read_text()
    assert not KEY.search(text)
    prose = "".join(cell["source"] for cell in cells(path, "markdown"))
    assert 'os.environ["' in prose
    assert not any("os.environ" in cell["source"] for cell in cells(path, "code"))


def test_links_in_notebooks_exist():
    """In the notebooks and in their README, which lists them all."""
    listed = (NOTEBOOKS / "README.md").read_text()
    for path in PATHS:
        assert f"[{path.stem}]({path.name})" in listed
        listed += "".join(cell["source"] for cell in cells(path, "markdown"))
    for target in re.findall(r"\]\(([^)#:]+)\)", listed):
        assert (NOTEBOOKS / target).exists(), target


def test_every_customerio_method_is_used_in_a_notebook():
    """Every public method of the client is used."""
    code = "".join(cell["source"] for path in PATHS for cell in cells(path, "code"))
    shown = set(re.findall(r"\.(\w+)", code)) | set(re.findall(r"await (\w+)\(", code))
    assert set() == {name for name in dir(AsyncCustomerIO) if name[0] != "_"} - shown


def test_an_unknown_notebook_is_an_error():
    """It must not run nothing silently."""
    with pytest.raises(SystemExit, match="unknown notebooks: nonsense"):
        notebooks("nonsense")
