"""A project with three days of orders, and `mp` pointed at it."""

import json
import signal
import time
from datetime import UTC, datetime

import httpx
from typer.testing import CliRunner

from mixpanel.cli._options.global_options import reset
from mixpanel.cli.app import app
from mixpanel.emulator import Emulator, Fault

FIRST, LAST = "2026-01-01", "2026-01-03"
DAYS = ("--from", FIRST, "--to", LAST)
PER_DAY = 24
NAMES = ("Order Paid", "Order Shipped", "Paid, late")
HOUR = 3_600_000
EXPORT = "/api/2.0/export"
BEGAN = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 1000


def environment(url, folder):
    """Return what points `mp` at an emulator, and away from the machine's own files."""
    return {
        "MP_USERNAME": "robot",
        "MP_SECRET": "s3cret",
        "MP_PROJECT_ID": "42",
        "MP_BASE_URL": url,
        "MP_DB": str(folder / "shop.db"),
        "MP_CONFIG_PATH": str(folder / "config.toml"),
        "COLUMNS": "160",
        "NO_COLOR": "1",
    }


def events(days=3):
    """Return an order an hour, of three kinds in turn."""
    return [
        {
            "event": NAMES[n % len(NAMES)],
            "properties": {
                "time": BEGAN + n * HOUR,
                "distinct_id": f"u-{n % 5}",
                "$insert_id": f"i-{n}",
                "plan": "team" if n % 2 else "solo",
                "amount": n,
            },
        }
        for n in range(days * PER_DAY)
    ]


def fill(emu, days=3):
    """Bring the orders, and five customers, into an emulator."""
    result = httpx.post(
        f"{emu.url}/import?strict=1&project_id=42", json=events(days), auth=("robot", "s3cret")
    )
    assert 200 == result.status_code
    people = [
        {"$token": "T", "$distinct_id": f"u-{n}", "$set": {"plan": "team", "city": "Porto"}}
        for n in range(5)
    ]
    assert 200 == httpx.post(f"{emu.url}/engage", json=people).status_code


def runner(env):
    """Return what runs `mp` in this process; `None` takes a variable away."""

    def run(*arguments, given=None, **more):
        invoked = CliRunner(env={**env, **more})
        try:
            return invoked.invoke(app, [str(one) for one in arguments], input=given, prog_name="mp")
        finally:
            reset([])  # options of this run, such as --quiet, do not apply to the next test

    return run


def fetched(folder):
    """Fetch the orders into `shop.db`; return what asks it without any credentials."""
    with Emulator() as emu:
        fill(emu)
        env = environment(emu.url, folder)
        mp = runner(env)
        for command in (["events", *DAYS], ["profiles"]):
            done = mp("fetch", *command)
            assert 0 == done.exit_code, done.stderr
    nobody = ("MP_USERNAME", "MP_SECRET", "MP_PROJECT_ID", "MP_BASE_URL")
    return runner({**env, **dict.fromkeys(nobody)})


def lines(text):
    """Read lines of JSON."""
    return [json.loads(line) for line in text.splitlines()]


def wait_until(true, seconds=60):
    """Wait for what another process or thread brings about."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def nine_days(emu):
    """Bring nine days into an emulator; who asks for one of the last four waits."""
    fill(emu, days=9)
    late = Fault.silence().forever()
    emu.play(late, path=EXPORT, when=lambda request: request.query["from_date"] > "2026-01-05")


def interrupt_after_five(emu, folder, running):
    """Send Ctrl-C to a process that fetches nine days: with five in its database, four to come."""
    wait_until(lambda: len(emu.requests(EXPORT)) == 9)
    # It asks for four at a time, so five have arrived; their files go when they are loaded.
    wait_until(lambda: not [*folder.rglob("*.gz"), *folder.rglob("*.ndjson")])
    emu.clear_faults()
    running.send_signal(signal.SIGINT)
