"""The examples of docs/fetching.md, and its script for cron, run against the emulator."""

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mixpanel.data._api import rate_limits
from mixpanel.emulator import Fault
from tests.cli.cli_data import EXPORT, environment

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "fetching.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
NOW = datetime.now(UTC)


@pytest.fixture
def env(emu, tmp_path):
    """Point `mp` at an emulator with an event every six hours."""
    times = [NOW - timedelta(hours=6 * n) for n in range(130)]
    events = [
        {
            "event": "Opened",
            "properties": {
                "time": int(at.timestamp() * 1000), "distinct_id": "u", "$insert_id": str(n),
            },
        }
        for n, at in enumerate(times)
    ]  # fmt: skip
    path = tmp_path / "events.ndjson"
    path.write_text("".join(json.dumps(each) + "\n" for each in events))
    emu.load(path)
    return environment(emu.url, tmp_path)


def test_the_python_examples_run(env, monkeypatch, tmp_path, capsys):
    """In their order."""
    from mixpanel.data import Workspace

    def hourly(**time):
        return rate_limits.ApiRateLimiter("exports", (60, 3600.0), concurrent=100, **time)

    monkeypatch.setitem(rate_limits._MAKERS, "export", hourly)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("mixpanel.data._paths.DATABASES", tmp_path)
    names = {}
    for kind, code in BLOCKS:
        if kind == "python":
            exec(compile(code, "fetching.md", "exec"), names)
    assert isinstance(names["ws"], Workspace)
    assert names["found"].ok
    assert capsys.readouterr().out.startswith("None None None None\n")
    names["ws"].close()


@pytest.fixture
def nightly(env, tmp_path):
    """Run the script as cron does: by /bin/sh, with `mp` in the path, and nothing on stdin."""
    [script] = [code for kind, code in BLOCKS if kind == "sh"]
    path = tmp_path / "nightly.sh"
    path.write_text(script.replace("--from -8d", "--from -2d"))  # fewer requests, as of a new table
    command = tmp_path / "bin" / "mp"
    command.parent.mkdir()
    run = "from mixpanel.cli.main import run; run()"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{run}" "$@"\n')
    command.chmod(0o700)
    folder = tmp_path / "mixpanel"
    values = {
        **os.environ,
        **env,
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "HOME": str(tmp_path),
        "MIXPANEL_FROM": "-2d",
        "MP_LIMITS_DIR": "off",
    }

    def start(*before):
        done = subprocess.run(
            [*before, "/bin/sh", path], env=values, stdin=subprocess.DEVNULL, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
        )  # fmt: skip
        return done.returncode, done.stdout, (folder / "sync.log").read_text()

    return start


def test_the_script_is_silent_if_all_is_well(nightly, emu):
    """Also when a day fails in one night and is filled in the next."""
    bad = str((NOW - timedelta(days=1)).date())
    fault = Fault.status(400, body={"error": "No luck"}).forever()
    emu.play(fault, path=EXPORT, when=lambda request: request.query["from_date"] == bad)
    code, printed, log = nightly()
    assert 6 == code, log
    assert "some days are missing until the next run" in printed
    assert "last week's counts differ" in printed
    assert f"events lacks {bad}" in log
    emu.clear_faults()
    code, printed, log = nightly()
    assert (0, "") == (code, printed), log
    assert 2 == log.count("== ")
    assert "as at Mixpanel" in log


def test_the_script_reports_what_must_be_mended(nightly, emu):
    """With the exit code of `mp`."""
    emu.play(Fault.status(401).forever(), path=EXPORT)
    code, printed, _ = nightly()
    assert 2 == code
    assert "the sync failed with exit code 2, see " in printed


@pytest.mark.skipif(shutil.which("flock") is None, reason="flock is a command of Linux")
def test_a_second_run_is_kept_out_by_the_lock(nightly, tmp_path):
    """As the line of the crontab does it."""
    assert "flock -n " in PAGE
    lock = tmp_path / "lock"
    with subprocess.Popen(["flock", lock, "cat"], stdin=subprocess.PIPE) as holder:
        while (
            not lock.exists()
            or not subprocess.run(["flock", "-n", lock, "true"], check=False).returncode
        ):
            pass
        (tmp_path / "mixpanel").mkdir()
        (tmp_path / "mixpanel" / "sync.log").touch()
        assert (1, "", "") == nightly("flock", "-n", lock)
        holder.communicate()
