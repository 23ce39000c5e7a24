"""The page of the fault matrix shows stored figures, and each of its rows can be run again."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from tests.benchmarks.rows import ROWS as BENCHMARKS
from tests.faults import chaos, disks, kills, page, power
from tests.faults.kinds import KINDS

ROWS = [*page.ROWS, page.LOSS]


def test_the_page_is_what_the_figures_make():
    """Each row was run in the form that is defined, and was as promised."""
    assert page.problems() == []


def test_ids_are_unique():
    """They are the names of rows for `run`, and of figures."""
    assert len({row.id for row in ROWS}) == len(ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted({c for r in ROWS for c in (r.command, r.usual)}))
def test_every_command_exists(command):
    """Its module, files, scenarios, benchmarks or tox environment do."""
    program, *rest = shlex.split(command)
    if program == "python":
        assert rest[0] == "-m"
        assert importlib.util.find_spec(rest[1]), rest[1]
        if rest[1] == "tests.benchmarks":
            names = [each for each in rest[2:] if not (each.startswith("-") or each.isdigit())]
            assert set(names) <= set(BENCHMARKS)
        for option, known in (("--scenario", chaos.SCENARIOS), ("--kind", KINDS)):
            if option in rest:
                assert any(rest[rest.index(option) + 1] in name for name in known)
    else:
        files = [each for each in rest if each.startswith("tests/")]
        assert files
        for file in files:
            assert (page.ROOT / file).exists(), file
        if program == "tox":
            assert rest[:2] == ["run", "-e"]
            assert "thorough" == rest[2]
            assert re.search(
                r"^\[testenv:.*thorough", (page.ROOT / "tox.ini").read_text(), re.MULTILINE
            )
        elif "-k" in rest:
            text = "\n".join(
                path.read_text()
                for file in files
                for path in ([page.ROOT / file] if file.endswith(".py") else
                             Path(page.ROOT / file).rglob("test_*.py"))
            )  # fmt: skip
            for word in rest[rest.index("-k") + 1].split(" or "):
                assert re.search(rf"def test_\w*{word}|parametrize\(.*{word}", text), word


def test_every_scenario_of_the_disk_has_a_row():
    """And every row finds its scenario."""
    shown = "\n".join(f"{name}: ok: figures of {name}" for name in disks.SCENARIOS)
    rows = [row for row in page.ROWS if row.command.startswith(page.DISKS)]
    assert {row.read(shown) for row in rows} == {f"figures of {name}" for name in disks.SCENARIOS}


def test_the_figures_of_kills_and_power_failures_are_read():
    """As they are printed, with what is not as promised."""
    tally = kills.Tally(kills=7, acknowledged=1234, lost=["e1"])
    tally.integrity["ok"] = 14
    assert page.kills(str(tally)) == (
        "7 kills: 1,234 acknowledged; 1 acknowledged and lost; 0 copies under another key; "
        "0 $add applied twice; 14 integrity checks ok, 0 damaged"
    )
    both = "\n".join(
        str(power.Tally(each, cuts=9, acknowledged=2000, lost=["e1", "a2"], checks=3))
        for each in ("process", "power")
    )
    for each in ("process", "power"):
        assert page.power(each)(f"seed 1\n{both}\n") == (
            "9 power failures, 0 with loss: 2,000 acknowledged before; 2 of these lost; "
            "0 copies under another key; 0 $add applied twice; 3 integrity checks; 0 damaged"
        )


def test_a_row_that_was_not_run_or_failed_is_found(monkeypatch, tmp_path):
    """And so is one whose command has changed since."""
    row = page.ROWS[0]
    stored = page.load()
    stored["rows"] = dict(stored["rows"])
    found = {**stored["rows"].get(row.id, {}), "ok": True, "measured": "all is well"}
    for change, problem in [
        ({"command": row.command, "ok": False}, "not as promised"),
        ({"command": "python -m tests.old"}, "run it again"),
    ]:
        stored["rows"][row.id] = {**found, **change}
        monkeypatch.setattr(page, "load", lambda: stored)
        assert any(problem in each and each.startswith(row.id) for each in page.problems())
    del stored["rows"][row.id]
    assert any("never run" in each for each in page.problems())
    assert "not run yet" in page.page(stored)


def test_a_short_form_is_shown_beside_its_figures():
    """A reader sees what was really run."""
    row = page.ROWS[0]
    stored = {row.id: {"command": row.usual, "seconds": 60, "ok": True, "measured": "1 a|b"}}
    assert page.measured(row, stored) == f"1 a\\|b (short form, 60 s: `{row.usual}`)"
    stored[row.id]["ok"] = False
    assert page.measured(row, stored).startswith("**not as promised**")


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ("9 sent, 1 calls of on_error", "9 sent, 1 call of on_error"),
        ("1 tests passed", "1 test passed"),
        ("21 tests passed, 3,001 calls failed", "21 tests passed, 3,001 calls failed"),
    ],
)
def test_one_of_a_kind_is_shown_in_the_singular(stored, shown):
    """Figures are stored with the plural of their names."""
    row = page.ROWS[0]
    found = {"command": row.command, "ok": True, "measured": stored}
    assert page.measured(row, {row.id: found}) == shown


def test_the_score_of_mutants_is_shown():
    """If it was measured."""
    found = {"mutants": 12, "killed": 8, "timeout": 1, "survived": 2, "equivalent": 1,
             "command": "python -m tests.faults.mutation retry"}  # fmt: skip
    text = page.page({"rows": {}, "loss": []}, {"modules": {"retry": found}})
    assert "| retry | 12 | 9 | 2 | 1 | 82 % |" in text
    text = page.page({"rows": {}, "loss": []}, {"modules": {"retry": {**found, "of": 90}}})
    assert "| retry | 12 of 90 | 9 |" in text
    assert "not measured yet" in page.page({"rows": {}, "loss": []})
