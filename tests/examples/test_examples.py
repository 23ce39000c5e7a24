"""The examples, run as they stand against the emulator."""

import asyncio
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from mixpanel.emulator import Emulator

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
ACCOUNT = {"MP_TOKEN": "T", "MP_USERNAME": "robot", "MP_SECRET": "s", "MP_PROJECT_ID": "42"}


@pytest.fixture
def emu(monkeypatch):
    """Start a local Mixpanel, and point every client to it through the environment."""
    with Emulator(service_accounts={"robot": "s"}) as emulator:
        monkeypatch.setenv("MP_BASE_URL", emulator.url)
        for name, value in ACCOUNT.items():
            monkeypatch.setenv(name, value)
        yield emulator


def run(name, *arguments):
    """Run an example in a process of its own, with warnings as errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name, *arguments],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout


def failed(name, *arguments):
    """Run an example that exits with an error, and return its stderr."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (1, "") == (done.returncode, done.stdout)
    return done.stderr


def test_the_quickstart_example_tracks_four_events_and_a_profile(emu):
    """Four events of one user, and a profile."""
    assert "5 delivered, 0 pending\n" == run("quickstart.py")
    names = [event["event"] for event in emu.events(distinct_id="u-17")]
    assert ["Signed Up", *["Report Opened"] * 3] == names
    assert {"u-17": {"$name": "Ada", "plan": "team"}} == emu.profiles()
    assert "/reports" == emu.events("Report Opened")[0]["properties"]["page"]


def test_the_sync_script_creates_no_duplicates(emu):
    """A second run sends the same three invoices and companies."""
    run("sync_script.py")
    assert "delivered=6" in run("sync_script.py")
    assert (3, 6) == (len(emu.events("Invoice Sent")), len(emu.events(raw=True)))
    assert {"last_invoice": 80.0} == emu.groups()["company", "initech"]
    assert 4 == len(emu.requests())


def test_the_bulk_import_example_imports_every_event(emu):
    """With a service account."""
    assert run("bulk_import.py").endswith("975 imported, 0 rejected\n")
    assert 393 == len(emu.events("Flight Cancelled"))
    assert {"/import"} == {request.path for request in emu.requests()}


def test_the_bulk_import_example_names_missing_variables(monkeypatch):
    """A message, not a traceback."""
    for name in ("MP_TOKEN", "MP_USERNAME"):
        monkeypatch.setenv(name, ACCOUNT[name])
    error = "a project token and a service account are required: set MP_SECRET, MP_PROJECT_ID\n"
    assert error == failed("bulk_import.py")


@pytest.mark.parametrize("name", ["data_quickstart.py", "local_reports.py", "sync_nightly.py"])
def test_examples_without_arguments_print_their_usage(name):
    """One line, not a traceback."""
    assert re.fullmatch(rf"usage: {name} .*DAY.*\n", failed(name))


FLIGHTS = EXAMPLES / "data" / "flights.ndjson"
DATA_QUICKSTART = """\
2 days in 2 calls
975 events, 0 duplicates merged
    393  Flight Cancelled, by 393
    291  Flight Arrived, by 291
    291  Flight Departed, by 291
busiest hour: 2013-02-09 21:00 UTC, 86 events
"""


def test_the_data_quickstart_example_fetches_and_queries_two_days(emu):
    """Two days need two calls."""
    emu.load(FLIGHTS)
    assert DATA_QUICKSTART == run("data_quickstart.py", "2013-02-09", "2013-02-10")
    assert ["/api/2.0/export"] * 2 == [request.path for request in emu.requests()]


def test_the_local_reports_example_fits_the_terminal(emu):
    """Hours, a funnel by airport and the carriers, drawn 78 columns wide."""
    emu.load(FLIGHTS)
    shown = run("local_reports.py", "2013-02-09", "2013-02-10")
    assert max(map(len, shown.splitlines())) <= 79
    assert "events per hour · 2013-02-09 to 2013-02-10 (America/New_York)" in shown
    assert re.search(r"^1 Flight Departed +█+ +291 +100\.0%$", shown, re.MULTILINE)
    assert re.search(r"^B6 +█+ +73$", shown, re.MULTILINE)
    assert ["/api/2.0/export"] * 2 == [request.path for request in emu.requests()]


def test_a_nightly_sync_without_news_makes_no_call(emu, tmp_path):
    """The first run fetches everything; a run without news fetches nothing and makes no call."""
    emu.load(FLIGHTS)
    night = ("sync_nightly.py", tmp_path / "shop.db", tmp_path / "lake", "2013-02-09", "2013-02-10")
    first = run(*night).splitlines()
    assert "975 events in 2 calls" == first[0]
    assert ["2013-02-09: 0 -> 716", "2013-02-10: 0 -> 259"] == first[1:-1]
    assert ["0 events in 0 calls", f"975 events in {tmp_path / 'lake'}"] == run(*night).splitlines()
    assert 2 == len(emu.requests())
    days = sorted(path.name for path in (tmp_path / "lake").iterdir())
    assert ["day=2013-02-09", "day=2013-02-10"] == days


def fastapi_app():
    spec = importlib.util.spec_from_file_location("fastapi_app", EXAMPLES / "fastapi_app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


def serve(app, requests):
    """Run `requests(http)` against the app, and return the stats of its client."""

    async def main():
        wire = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=wire, base_url="http://shop") as http,
        ):
            await requests(http)
        return app.state.mp.stats()

    return asyncio.run(main())


def test_the_fastapi_example_tracks_the_user_of_each_request(emu):
    """Closing the app sends pending events."""

    async def shop(http):
        await http.get("/books/emma", headers={"X-User": "ada"})
        await http.get("/books/dracula", headers={"X-User": "bo"})
        for _ in range(2):
            await http.post("/orders", params={"amount": 9.5}, headers={"X-User": "ada"})

    app = fastapi_app()
    assert 6 == serve(app, shop).delivered
    viewed = {
        (each["properties"]["distinct_id"], each["properties"]["book"], each["properties"]["app"])
        for each in emu.events("Book Viewed")
    }
    assert {("ada", "emma", "shop"), ("bo", "dracula", "shop")} == viewed
    assert {"ada": {"orders": 2, "spent": 19.0}} == emu.profiles()
    assert 0 == serve(app, lambda _http: asyncio.sleep(0)).accepted  # it can open again


def test_the_fastapi_example_loses_no_event_under_load(emu):
    """2,000 requests, 50 at a time, result in 2,000 events."""

    async def crowd(http):
        free = asyncio.Semaphore(50)

        async def one(number):
            async with free:
                answer = await http.get(f"/books/{number}", headers={"X-User": f"u-{number}"})
                assert 200 == answer.status_code

        await asyncio.gather(*map(one, range(2000)))

    stats = serve(fastapi_app(), crowd)
    assert (2000, 2000, 0) == (stats.accepted, stats.delivered, stats.lost)
    views = [
        (event["properties"]["distinct_id"], event["properties"]["book"])
        for event in emu.events("Book Viewed", raw=True)
    ]
    assert sorted((f"u-{number}", str(number)) for number in range(2000)) == sorted(views)


def test_every_example_is_listed_and_run():
    """An example that is not run becomes outdated."""
    listed = (EXAMPLES / "README.md").read_text()
    tests = Path(__file__).parents[1]
    tested = "".join(
        p.read_text() for p in [*tests.glob("examples/*.py"), *tests.glob("*/test_open*.py")]
    )
    for example in EXAMPLES.glob("*.py"):
        assert f"[{example.name}]({example.name})" in listed
        assert f'"{example.stem}' in tested or f"{example.stem}.py" in tested


def test_examples_set_no_base_url():
    """They use MP_BASE_URL, as a reader's own program would."""
    for example in EXAMPLES.glob("*.py"):
        assert "base_url" not in example.read_text()
