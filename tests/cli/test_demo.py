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
from mixpanel.cli._output.terminal import BAR, bar_chart, sparkline

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[60, 80, 120])
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
    """In order, each with its number."""
    titles = re.findall(r"^(\d+)  (.+)$", shown, re.MULTILINE)
    assert [(str(n), step.title) for n, step in enumerate(demo.STEPS, 1)] == titles


def test_the_demo_fits_the_terminal(played):
    """No line is longer than the terminal is wide."""
    assert max(len(line.rstrip()) for line in played.text.splitlines()) <= played.width


def test_the_demo_needs_no_network(played):
    """It connects to this machine only."""
    assert {"127.0.0.1"} >= played.hosts


def test_the_bars_of_the_demo_are_in_proportion(played):
    """In a narrow terminal, too: they are made shorter, not cut off."""
    bars = [line.count(BAR) for line in played.text.rpartition("revenue")[2].splitlines()]
    revenue = [
        float(line.split()[3].replace(",", ""))
        for line in played.text.rpartition("revenue")[2].splitlines()
        if BAR in line
    ]
    drawn = [count for count in bars if count]
    assert len(drawn) == len(revenue) > 2
    assert [round(max(drawn) * each / max(revenue)) for each in revenue] == drawn


def test_every_event_of_the_demo_is_accounted_for(shown):
    """All are delivered, except the one that is invalid on purpose."""
    (line,) = re.findall(r"([\d,]+) accepted = ([\d,]+) delivered \+ 1 rejected", shown)
    accepted, delivered = (int(number.replace(",", "")) for number in line)
    assert accepted == delivered + 1
    assert "+ 0 dropped + 0 pending ✓" in unwrapped(shown)


def test_the_outage_loses_nothing(shown):
    """Events accepted during the outage arrive afterwards, and none is counted twice."""
    accepted, delivered = re.search(
        r"(\d+) events were accepted and (\d+) delivered", unwrapped(shown)
    ).groups()
    assert accepted == delivered
    assert int(re.search(r"(\d+) events arrived twice", unwrapped(shown))[1]) > 0
    assert re.search(r"events +[\d,]+ without duplicates", shown)


def test_the_rejected_event_comes_with_its_reason(shown):
    """The other nine arrive."""
    assert "9 delivered, 1 rejected" in shown
    assert "'undefined' is not allowed as an id" in unwrapped(shown)


def test_the_demo_ends_with_how_to_install_mp(shown):
    """tox runs the demo without installing the command."""
    end = unwrapped(shown.partition("Next:")[2])
    assert "To install `mp`: pip install 'mixpanel-async[all]'" in end
    assert "from a clone: python3 -m pip install '.[all]'" in end


def test_the_file_of_events_is_found_in_a_checkout_and_an_installed_package(tmp_path, monkeypatch):
    """The package has it beside the commands."""
    assert 975 == len(demo.flights().read_text().splitlines())
    installed = tmp_path / "mixpanel" / "cli" / "data" / "flights.ndjson"
    installed.parent.mkdir(parents=True)
    installed.touch()
    monkeypatch.setattr(demo, "__file__", str(Path(installed.parents[1]) / "demo.py"))
    assert installed == demo.flights()


def test_the_queue_is_drawn_live_on_a_terminal(monkeypatch):
    """Again and again while the server is down."""
    monkeypatch.setattr(demo, "PAUSE", 0)
    file = io.StringIO()
    console = Console(file=file, width=100, force_terminal=True, highlight=False, color_system=None)
    anyio.run(demo._play, console)
    text = file.getvalue()
    assert text.count(" retries") > 10
    assert "events waiting" in text


def test_no_color_turns_colours_off(monkeypatch):
    """https://no-color.org, also on a terminal."""
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    console = Console(file=file, force_terminal=True)
    console.print(bar_chart([("Seen", 3)]))
    assert "\x1b[3" not in file.getvalue()


def test_bars_and_sparklines_scale():
    """The largest value is full, a small one is not empty, and a long row keeps its maxima."""
    assert "▁▅█" == sparkline([0, 5, 10])
    assert "▁▂▃" == sparkline([0, 5, 10], full=40)
    assert "" == sparkline([])
    assert 50 >= len(sparkline(list(range(1000)), 50))
    file = io.StringIO()
    Console(file=file, width=60).print(bar_chart([("A", 100), ("B", 1)], width=10))
    assert ["▇" * 10, "▇"] == re.findall("▇+", file.getvalue())
