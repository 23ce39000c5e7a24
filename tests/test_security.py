"""SECURITY.md: each defence that it lists has a test."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"\|(?P<risk>[^|]+)\|(?P<defence>[^|]+)\|(?P<tests>[^|]+)\|")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows():
    lines = (ROOT / "SECURITY.md").read_text(encoding="utf-8").splitlines()
    tables = [line for line in lines if line.startswith("|")]
    found = [ROW.fullmatch(line) for line in tables]
    assert None not in found, [line for line, row in zip(tables, found, strict=True) if not row]
    cells = [{name: text.strip() for name, text in row.groupdict().items()} for row in found]
    return [row for row in cells if row["risk"] != "risk" and set(row["risk"]) != {"-"}]


def defined(path):
    return {
        node.name
        for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }


def test_each_risk_has_a_defence_and_a_test():
    """No row lacks a test."""
    assert rows()
    unproven = [
        row["risk"] for row in rows() if not row["defence"] or not NAMED.findall(row["tests"])
    ]
    assert unproven == []


def test_each_test_that_is_named_exists():
    """Renaming or removing a test requires a change of its row."""
    named = [pair for row in rows() for pair in NAMED.findall(row["tests"])]
    here = {path: defined(path) if (ROOT / path).is_file() else set() for path, _ in named}
    assert [f"{path}::{name}" for path, name in named if name not in here[path]] == []


def test_the_column_of_tests_holds_nothing_else():
    """A misspelt path fails."""
    left = [re.sub(r"[,\s]", "", NAMED.sub("", row["tests"])) for row in rows()]
    assert [text for text in left if text] == []
