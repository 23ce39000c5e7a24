"""Faults as text: `emu.play("503 on /track 10%")`, and `mp emulator --fault`."""

import math

import httpx
import pytest

from mixpanel.emulator import Emulator
from mixpanel.emulator._fault_text import read_fault

EVENT = {"event": "Order Paid", "properties": {"token": "T", "distinct_id": "u"}}


@pytest.mark.parametrize(
    ("text", "name", "times", "path", "share"),
    [
        ("503", "status 503", math.inf, None, 1),
        ("503 on /track 10%", "status 503", math.inf, "/track", 0.1),
        ("  503   on /track/  10 % ", "status 503", math.inf, "/track", 0.1),
        ("429 retry-after 2.5 3 times", "status 429", 3, None, 1),
        ("latency 0.25 on /import 1 time", "latency 0.25", 1, "/import", 1),
        ("reset", "reset before", math.inf, None, 1),
        ("reset answering on / 2 times", "reset answering", 2, "/", 1),
        ("drip 0.01", "drip", math.inf, None, 1),
        ("terminated-early on /api/2.0/export", "terminated early", math.inf, "/api/2.0/export", 1),
        ("partial 0,3 0.5%", "partial", math.inf, None, 0.005),
    ],
)
def test_a_text_names_a_fault_and_what_it_applies_to(text, name, times, path, share):
    """A path, and how many or which share of the requests, are optional."""
    found = read_fault(text)
    assert (name, times) == (found.fault.name, found.fault.times)
    assert (path, share) == (found.path, found.share)


@pytest.mark.parametrize(
    "text",
    ["", "50x", "503 on track", "600", "latency", "latency soon", "reset later", "partial",
     "503 sometimes", "503 0 times", "503 0%", "503 101%", "503 on /a 2 times 10%", "html 3"],
)  # fmt: skip
def test_what_is_not_a_fault_is_refused(text):
    """The message has the text and, if it cannot be read, the grammar."""
    with pytest.raises(ValueError, match=r"percentage|at least 1|FAULT") as raised:
        read_fault(text)
    assert repr(text) in str(raised.value)


def test_a_share_is_spread_evenly():
    """Every fourth request to the path fails, and no other."""
    with Emulator() as emu, httpx.Client(base_url=emu.url) as http:
        emu.play("503 on /track 25%")
        found = [http.post("/track", json=[EVENT]).status_code for _ in range(8)]
        others = [http.post("/engage", json=[]).status_code for _ in range(4)]
    assert ([200, 200, 200, 503] * 2, [200] * 4) == (found, others)


def test_texts_and_faults_are_played_in_order():
    """A count ends a fault; then the next one applies."""
    with Emulator() as emu, httpx.Client(base_url=emu.url) as http:
        emu.play("503 2 times", "429 retry-after 7 1 time", path="/track")
        found = [http.post("/track", json=[EVENT]) for _ in range(4)]
    assert [503, 503, 429, 200] == [each.status_code for each in found]
    assert "7" == found[2].headers["retry-after"]


def test_an_invalid_text_plays_nothing():
    """Not even the faults beside it."""
    with Emulator() as emu:
        with pytest.raises(ValueError, match="not a fault"):
            emu.play("503", "nonsense")
        assert 200 == httpx.post(f"{emu.url}/track", json=[EVENT]).status_code
