"""The page about the emulator says what is so."""

import re
from pathlib import Path

import pytest
import typer

from mixpanel.cli.app import app
from mixpanel.emulator._fault_text import read_fault

PAGE = (Path(__file__).parents[2] / "docs" / "emulator.md").read_text(encoding="utf-8")
KINDS = re.findall(r"^\| (`.+?) \|", PAGE, re.MULTILINE)
FAULTS = [each for row in KINDS for each in re.findall(r"`([^`]+)`", row)]


@pytest.mark.parametrize(
    "text", [*FAULTS, *re.findall(r'--fault "([^"]+)"', PAGE)], ids=lambda text: text
)
def test_each_fault_of_the_page_is_one(text):
    """As the table and the examples write it."""
    assert read_fault(text.replace("SECONDS", "0.5")).fault.name


@pytest.mark.slow
def test_each_option_of_the_page_exists():
    """Under the name that it has there."""
    command = typer.main.get_command(app).commands["emulator"]
    known = {name for each in command.params for name in each.opts}
    named = set(re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", PAGE)) - {"--", "-e", "-m"}
    assert {"-v", "--fault", "--token"} <= named <= known
