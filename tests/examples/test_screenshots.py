"""The pictures of `python -m tests.screenshots`."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_notebooks_are_drawn(tmp_path):
    """Those whose names begin as given."""
    command = [
        sys.executable,
        "-m",
        "tests.screenshots",
        "--into",
        tmp_path,
        "notebook-customerio_1",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (0, f"2 pictures in {tmp_path}\n") == (done.returncode, done.stdout), done.stderr
    pictures = sorted(tmp_path.iterdir())
    assert ["notebook-customerio_10_errors.png", "notebook-customerio_11_webhooks.png"] == [
        each.name for each in pictures
    ]
    assert all(each.read_bytes().startswith(b"\x89PNG") for each in pictures)


@pytest.mark.slow
def test_a_terminal_is_drawn_with_its_colours():
    """Blocks fill their cells."""
    pytest.importorskip("matplotlib")
    from tests.screenshots import terminal

    picture = terminal("\x1b[38;5;33m█\x1b[0m█ ", 4)
    colors = dict(map(reversed, picture.getcolors()))
    assert {(0, 135, 255), (216, 216, 216), (22, 24, 29)} == set(colors)
    assert colors[0, 135, 255] == colors[216, 216, 216]
