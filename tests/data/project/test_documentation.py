"""The pages about project data and the surface: their code runs, and their tables are current."""

import re
import shlex

import pytest

from mixpanel.emulator import Emulator
from tests.cli.cli_data import environment, fill, runner
from tests.data import surface
from tests.data.project import reference

PAGE = reference.PAGE.read_text()
BLOCKS = re.findall(r"^```python\n(.+?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^\$ (mp project .+)$", PAGE, re.MULTILINE)
SEEDS = reference.Path(__file__).parent / "seeds.json"


@pytest.fixture
def emu(monkeypatch, tmp_path):
    """A project with an object of each kind, which the environment names."""
    with Emulator() as emulator:
        fill(emulator, days=1)
        emulator.seed(SEEDS)
        env = {**environment(emulator.url, tmp_path), "MP_PROJECT_ID": "4242", "MP_REGION": "us"}
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HOME", str(tmp_path))
        yield emulator


@pytest.mark.slow
def test_the_code_of_the_page_runs(emu, capsys):
    """In its order, as one program."""
    pytest.importorskip("pandas")
    scope = {}
    for block in BLOCKS:
        exec(compile(block, "project-data.md", "exec"), scope)
    scope["ws"].close()
    scope["bearer"].close()
    shown = capsys.readouterr().out
    assert "Weekly" in shown
    assert "SUCCESS" in shown


@pytest.mark.slow
@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_of_the_page_run(emu, line):
    """As they stand there."""
    done = runner({})(*shlex.split(line)[1:])
    assert done.exit_code == 0, done.stderr


def test_the_reference_is_current():
    """After a change of the table, run `python -m tests.data.project.reference`."""
    assert reference.page() == PAGE


@pytest.mark.slow
def test_the_list_of_methods_and_commands_is_current():
    """After a change of the surface, run `python -m tests.data.surface`."""
    assert surface.page() == surface.PAGE.read_text()


@pytest.mark.slow
def test_nothing_of_the_surface_is_lost():
    """What is not there under its name is there under another."""
    for title, rows in surface.rows().items():
        for name, state, note in rows:
            assert state == "present" or note, (title, name)
