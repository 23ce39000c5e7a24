"""`mp fetch` of days that fail, of many days, and of days that are named relative to today."""

import json
import os
import pty
import subprocess
import sys

import pytest

from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.data._api import rate_limits
from mixpanel.emulator import Fault
from tests.cli.cli_data import DAYS, EXPORT, FIRST, LAST, environment, fill, runner

pytestmark = pytest.mark.slow

SECOND = "2026-01-02"
RUN = [sys.executable, "-c", "from mixpanel.cli.main import run; run()"]


@pytest.fixture
def env(emu, tmp_path, monkeypatch):
    """Point `mp` at an emulator with three days of orders; exports are not limited per second."""

    def hourly(**time):
        return rate_limits.ApiRateLimiter("exports", (60, 3600.0), concurrent=100, **time)

    monkeypatch.setitem(rate_limits._MAKERS, "export", hourly)
    fill(emu)
    return environment(emu.url, tmp_path)


@pytest.fixture
def mp(env):
    """Run `mp` in this process."""
    return runner(env)


def tables(mp):
    return {one["name"]: one for one in json.loads(mp("inspect", "tables").stdout)}


def breaks(emu, day, fault=None):
    fault = fault or Fault.status(400, body={"error": "No luck"})
    emu.play(fault.forever(), path=EXPORT, when=lambda request: request.query["from_date"] == day)


# Days that fail


def test_a_partial_fetch_ends_with_its_own_code(mp, emu):
    """The gap is named on stderr, in the JSON, and by `mp inspect tables`."""
    breaks(emu, SECOND)
    refused = mp("fetch", "events", *DAYS)
    assert ExitCode.ERROR == refused.exit_code
    assert "2026-01-02 could not be fetched" in refused.stderr
    assert "--partial" in refused.stderr
    done = mp("fetch", "events", *DAYS, "--partial")
    assert ExitCode.PARTIAL == done.exit_code, done.stderr
    assert "events lacks 2026-01-02, until the next fetch: " in done.stderr
    [failed] = json.loads(done.stdout)["failed"]
    assert (SECOND, SECOND, "missing") == (failed["from_date"], failed["to_date"], failed["state"])
    table = tables(mp)["events"]
    assert ("partial", [[SECOND, SECOND]]) == (table["state"], table["gaps"])
    shown = mp("inspect", "tables", "-f", "table").stdout
    assert "partial" in shown
    assert SECOND in shown
    again = mp("fetch", "events", *DAYS, "--partial", "-f", "table")
    assert ExitCode.PARTIAL == again.exit_code, again.stderr
    emu.clear_faults()
    assert ExitCode.OK == mp("fetch", "events", *DAYS, "--partial").exit_code
    assert [] == tables(mp)["events"]["gaps"]


def test_a_report_over_a_gap_warns_on_stderr(mp, emu):
    """One line, without the place in the code."""
    breaks(emu, SECOND)
    mp("fetch", "events", *DAYS, "--partial")
    report = mp("inspect", "daily", *DAYS)
    assert ExitCode.OK == report.exit_code
    assert report.stderr == (
        "events lacks 2026-01-02, so the report is too low: fetch these days, or report on others\n"
    )
    assert "" == mp("inspect", "daily", "--from", LAST, "--to", LAST).stderr


def test_a_sync_before_the_projects_midnight_ends_well(mp, emu):
    """Today is left out, and the message names the options that would prevent it."""
    from mixpanel.data._fetch.plan import today

    day = str(today())
    breaks(emu, day, Fault.status(400, body={"error": "to_date cannot be later than today"}))
    done = mp("fetch", "sync", "--from", "-2d")
    assert ExitCode.OK == done.exit_code, done.stderr
    assert f"{day} was left out" in done.stderr
    assert "--project-timezone" in done.stderr
    assert "--to" in done.stderr
    assert 2 == json.loads(done.stdout)["chunks"]
    alone = mp("fetch", "events", "only", "--from", "today", "--to", "today")
    assert ExitCode.USAGE == alone.exit_code
    assert "--project-timezone" in alone.stderr


# What a sync has changed


def test_a_sync_prints_what_has_changed(mp, emu):
    """One line on stderr, and fields of the JSON."""
    mp("fetch", "sync", "--from", FIRST, "--to", LAST)
    done = mp("fetch", "sync", "--to", LAST, "--lookback-days", "36500")
    assert "0 new, 0 changed, 72 as before, 0 vanished\n" in done.stderr
    found = json.loads(done.stdout)
    counts = {name: found[name] for name in ("new", "changed", "unchanged", "vanished")}
    assert {"new": 0, "changed": 0, "unchanged": 72, "vanished": 0} == counts


# Many requests


@pytest.fixture
def old(mp):
    """Fetch one day of 2013."""
    done = mp("fetch", "sync", "--from", "2013-01-01", "--to", "2013-01-01")
    assert ExitCode.OK == done.exit_code, done.stderr


@pytest.mark.usefixtures("old")
def test_a_table_that_ended_long_ago_is_not_synced_without_a_question(mp, emu):
    """In a pipe it is an error, which names the number of requests and what to add."""
    before = len(emu.requests(EXPORT))
    refused = mp("fetch", "sync")
    assert (ExitCode.USAGE, "") == (refused.exit_code, refused.stdout)
    for part in ("2013-01-02 to 20", "needs 59 requests", "--yes", "--max-requests"):
        assert part in refused.stderr
    limited = mp("fetch", "sync", "--max-requests", "20")
    assert ExitCode.USAGE == limited.exit_code
    assert "more than --max-requests 20" in limited.stderr
    assert before == len(emu.requests(EXPORT))
    assert ExitCode.OK == mp("fetch", "sync", "--to", "2013-01-10").exit_code


@pytest.mark.usefixtures("old")
def test_yes_answers_the_question(mp, emu):
    """For scripts."""
    done = mp("fetch", "sync", "--yes", "--to", "2013-02-20", "--no-progress")
    assert ExitCode.OK == done.exit_code, done.stderr
    assert 1 + 50 == len(emu.requests(EXPORT))


@pytest.mark.usefixtures("old")
def test_a_terminal_is_asked(env, emu):
    """No ends the command without a request."""
    before = len(emu.requests(EXPORT))
    main, terminal = pty.openpty()
    try:
        asked = subprocess.Popen(
            [*RUN, "fetch", "sync"], stdin=terminal, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env={**os.environ, **env, "MP_LIMITS_DIR": "off"},
        )  # fmt: skip
        os.write(main, b"n\n")
        _, messages = asked.communicate(timeout=60)
    finally:
        os.close(main)
        os.close(terminal)
    assert ExitCode.ERROR == asked.returncode, messages
    assert "Continue? [y/N]" in messages
    assert "60 requests" in messages
    assert before == len(emu.requests(EXPORT))


def test_a_new_table_is_not_asked_about(mp, emu):
    """Its first day was typed."""
    done = mp("fetch", "sync", "--from", "2025-11-01", "--to", "2025-12-15", "--no-progress")
    assert ExitCode.OK == done.exit_code, done.stderr


def test_a_dry_run_shows_the_resolved_days(mp):
    """A relative day becomes a date."""
    from datetime import timedelta

    from mixpanel.data._fetch.plan import today

    plan = mp("fetch", "events", "--from", "-6d", "--to", "yesterday", "--dry-run")
    assert ExitCode.OK == plan.exit_code, plan.stderr
    first, last = today() - timedelta(days=6), today() - timedelta(days=1)
    assert f"6 days ({first} to {last}) in 6 calls" in plan.stderr
    assert str(first) == json.loads(plan.stdout)["from_date"]
