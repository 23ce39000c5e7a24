"""The fan-out example, run unchanged against the emulator."""

import asyncio
import importlib.util
from pathlib import Path

import pytest

from mixpanel.emulator import Fault
from tests.cdp.run_clients import messages

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "fanout.py"
PRINTED = """\
mixpanel: 81 calls, 80 accepted, filtered: 1 action
customerio: 81 calls, 7 accepted, filtered: 20 routing, 54 consent
hightouch: 81 calls, 12 accepted, filtered: 40 routing, 28 sampling, 1 action
"""


@pytest.fixture
def example(emu, monkeypatch):
    """Import the example, with each vendor's address in the environment."""
    monkeypatch.setenv("MP_BASE_URL", emu.url)
    monkeypatch.setenv("MP_CUSTOMERIO_BASE_URL", f"{emu.url}/customerio")
    monkeypatch.setenv("MP_HIGHTOUCH_BASE_URL", f"{emu.url}/hightouch")
    spec = importlib.util.spec_from_file_location("fanout_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_sink_of_the_fan_out_example_gets_its_messages(emu, example, capsys):
    """Its printed counts, and what each vendor received."""
    asyncio.run(example.main())
    assert PRINTED == capsys.readouterr().out
    assert (20, 20) == (len(emu.events("Report Opened")), len(emu.events("Order Completed")))
    assert 20 == len(emu.profiles())
    assert {("company", "acme"): {"$name": "Acme"}} == emu.groups()
    received = [(m["userId"], m.get("event", m["type"])) for m in messages(emu, "customerio")]
    bought = ["identify", "group", "Order Completed"]
    agreed = [(who, what) for who in ("u-1", "u-2") for what in bought]
    assert [*agreed, ("u-7", "User Deleted")] == received
    sample = ["u-1", "u-3", "u-4", "u-6", "u-13", "u-16"]
    assert sample == [m["userId"] for m in messages(emu, "hightouch")][::2]


def test_the_fan_out_example_reports_the_sink_that_lost_messages(emu, example):
    """One vendor rejects everything; the others receive theirs."""
    emu.play(Fault.status(400).forever(), path="/customerio/v1/batch")
    with pytest.raises(SystemExit, match=r"^customerio lost 7 of 7 messages: .*400"):
        asyncio.run(example.main())
    assert 20 == len(emu.profiles())
    assert 12 == len(messages(emu, "hightouch"))
