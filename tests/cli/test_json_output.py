"""The page about JSON output: its shapes are those that commands write, and none is missing."""

import pytest

from mixpanel.cli import flags, inspect, query
from tests.cli.json_shapes import COMMANDS, PAGE, page

pytestmark = pytest.mark.slow
# They print no result, need a fault, print until Ctrl-C, or return what a script does.
WITHOUT = {"typed-view", "drop", "drop-all", "lexicon-schema", "watch", "jql"}


def test_the_shapes_on_the_page_are_those_of_the_commands():
    """Renew it with `python -m tests.cli.json_shapes`: a field that is gone breaks scripts."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_command_with_a_result_is_on_the_page():
    """A new one is added to the list."""
    shown = {command[:2] for commands in COMMANDS.values() for command in commands}
    for group, module in (("query", query), ("inspect", inspect), ("flags", flags)):
        names = {name for name, *_ in module.COMMANDS} - WITHOUT
        assert names == {command[1] for command in shown if command[0] == group}
