"""The example that says each thing once, run as it stands against the emulator."""

import asyncio
import importlib.util
from pathlib import Path

from mixpanel.cdp import CUSTOMERIO, HIGHTOUCH
from tests.cdp_worlds import messages

EXAMPLE = Path(__file__).parents[1] / "examples" / "fanout.py"
PRINTED = """\
mixpanel: 81 calls, 80 taken, withheld: 1 action
customerio: 81 calls, 7 taken, withheld: 20 routing, 54 consent
hightouch: 81 calls, 12 taken, withheld: 40 routing, 28 sampling, 1 action
"""


def test_each_sink_gets_its_own(emu, monkeypatch, capsys):
    """One account a sink, and what each vendor has in the end."""
    monkeypatch.setenv("MP_BASE_URL", emu.url)
    monkeypatch.setitem(CUSTOMERIO.hosts, "us", emu.customerio_url)
    monkeypatch.setitem(HIGHTOUCH.hosts, "us-east-1", emu.hightouch_url)
    spec = importlib.util.spec_from_file_location("fanout_example", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    asyncio.run(example.main())
    assert PRINTED == capsys.readouterr().out
    assert (20, 20) == (len(emu.events("Report Opened")), len(emu.events("Order Completed")))
    assert 20 == len(emu.profiles())
    assert {("company", "acme"): {"$name": "Acme"}} == emu.groups()
    told = [(m["userId"], m.get("event", m["type"])) for m in messages(emu, "customerio")]
    bought = ["identify", "group", "Order Completed"]
    agreed = [(who, what) for who in ("u-1", "u-2") for what in bought]
    assert [*agreed, ("u-7", "User Deleted")] == told
    sample = ["u-1", "u-3", "u-4", "u-6", "u-13", "u-16"]
    assert sample == [m["userId"] for m in messages(emu, "hightouch")][::2]
