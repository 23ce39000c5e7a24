"""`mp demo`: what a stranger sees first."""

import io
import re
import socket
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest
from rich.console import Console

from mixpanel.cli import demo
from mixpanel.cli._output.terminal import bar_chart, sparkline

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[80, 120])
def played(request):
    """The demo, played once for each of two widths: what it prints, and whom it talks to."""
    file, hosts = io.StringIO(), set()
    look_up = socket.getaddrinfo

    def getaddrinfo(host, *arguments, **options):
        hosts.add(host)
        return look_up(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        console = Console(file=file, width=request.param, force_terminal=False, highlight=False)
        anyio.run(demo._play, console)
    return SimpleNamespace(text=file.getvalue(), hosts=hosts, width=request.param)


@pytest.fixture
def shown(played):
    """What the demo prints."""
    return played.text


def unwrapped(text):
    return " ".join(text.split())


def test_every_step_is_shown(shown):
    """In their order, each under its number."""
    titles = re.findall(r"^(\d+)  (.+)$", shown, re.MULTILINE)
    assert [(str(n), step.title) for n, step in enumerate(demo.STEPS, 1)] == titles


def test_it_fits_the_screen(played):
    """No line is longer than the terminal is wide."""
    assert max(len(line.rstrip()) for line in played.text.splitlines()) <= played.width


def test_it_needs_no_network(played):
    """Whatever it talks to is on this machine."""
    assert {"127.0.0.1"} >= played.hosts


def test_the_books_balance(shown):
    """Everything accepted is delivered, but for the one event that was broken on purpose."""
    (line,) = re.findall(r"([\d,]+) accepted = ([\d,]+) delivered \+ 1 rejected", shown)
    accepted, delivered = (int(number.replace(",", "")) for number in line)
    assert accepted == delivered + 1
    assert "+ 0 dropped + 0 pending  ✓" in shown


def test_the_outage_loses_nothing(shown):
    """What came in while the server was down arrived afterwards, none of it counted twice."""
    accepted, delivered = re.search(
        r"(\d+) events were accepted and (\d+) delivered", unwrapped(shown)
    ).groups()
    assert accepted == delivered
    assert int(re.search(r"(\d+) events arrived twice", unwrapped(shown))[1]) > 0
    assert re.search(r"events +[\d,]+ without duplicates", shown)


def test_the_rejected_event_comes_with_its_reason(shown):
    """One of ten; the other nine arrive."""
    assert "9 delivered, 1 rejected" in shown
    assert "'undefined' is not allowed as an id" in unwrapped(shown)


def test_the_end_says_where_mp_comes_from(shown):
    """Who ran the demo through tox has no `mp` to type."""
    end = unwrapped(shown.partition("Next:")[2])
    assert "To install `mp`: pip install 'mixpanel-async[all]'" in end
    assert "from a clone: python3 -m pip install '.[all]'" in end


def test_the_real_events_are_found_in_a_checkout(tmp_path, monkeypatch):
    """And in an installed package, where they lie beside the commands."""
    assert 975 == len(demo.flights().read_text().splitlines())
    installed = tmp_path / "mixpanel" / "cli" / "data" / "flights.ndjson"
    installed.parent.mkdir(parents=True)
    installed.touch()
    monkeypatch.setattr(demo, "__file__", str(Path(installed.parents[1]) / "demo.py"))
    assert installed == demo.flights()


def test_a_terminal_sees_the_queue_move(monkeypatch):
    """The picture of the queue is drawn again and again while the server is down."""
    monkeypatch.setattr(demo, "PAUSE", 0)
    file = io.StringIO()
    console = Console(file=file, width=100, force_terminal=True, highlight=False, color_system=None)
    anyio.run(demo._play, console)
    text = file.getvalue()
    assert text.count(" retries") > 10
    assert "events waiting" in text


def test_no_color_means_no_colour(monkeypatch):
    """https://no-color.org, even on a terminal."""
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    console = Console(file=file, force_terminal=True)
    console.print(bar_chart([("Seen", 3)]))
    assert "\x1b[3" not in file.getvalue()


def test_bars_and_sparklines_scale():
    """The highest is full, nothing is empty, and a long row is drawn by its peaks."""
    assert "▁▅█" == sparkline([0, 5, 10])
    assert "▁▂▃" == sparkline([0, 5, 10], full=40)
    assert "" == sparkline([])
    assert 50 >= len(sparkline(list(range(1000)), 50))
    file = io.StringIO()
    Console(file=file, width=60).print(bar_chart([("A", 100), ("B", 1)], width=10))
    assert ["▇" * 10, "▇"] == re.findall("▇+", file.getvalue())
