"""Tens of thousands of messages to each vendor while everything around them fails."""

import json
import random
from collections import Counter

import anyio
import pytest

from mixpanel import Limits, RetryPolicy
from mixpanel.cdp import AsyncCustomerIO, AsyncHightouch, HightouchOAuth
from mixpanel.emulator import CustomerIORules, Emulator, Fault, HightouchRules, OAuthRules
from tests.cdp.test_oauth import key_pair
from tests.effort import cases

pytestmark = [pytest.mark.slow, pytest.mark.heavy]

LARGE = range(12_000, 12_300)
SLOTS = 40  # places in the stream where something happens
FAULTS = [
    lambda: Fault.status(429, retry_after=0),
    lambda: Fault.status(500),
    lambda: Fault.reset("before"),
    lambda: Fault.status(503, retry_after=0),
    lambda: Fault.reset("during"),
    lambda: Fault.status(502) * 2,
    lambda: Fault.reset("after"),  # it was kept, and only the answer lost
]


class Clock:
    now = 1_764_000_000.0

    def __call__(self):
        return self.now


def text(n):
    """Most are small; some have the largest allowed size, with characters of one to four bytes."""
    chosen = random.Random(n)
    large = n in LARGE or chosen.random() < 0.002
    return chosen.choice(("x", "é", "🎈")) * (7600 if large else 10)


def play(emu, count):
    """Play a fault at each slot, for the request with that message."""
    afters = 0
    for slot in range(SLOTS):
        fault = FAULTS[slot % len(FAULTS)]()
        afters += fault.name.endswith("after")
        marker = f'"m-{slot * (count // SLOTS)}"'.encode()
        emu.play(fault, when=lambda request, marker=marker: marker in request.body)
    return afters


@pytest.mark.parametrize(
    ("backend", "count"), [("asyncio", cases(30_000, 100_000)), ("trio", cases(15_000, 20_000))]
)
@pytest.mark.parametrize("vendor", ["customerio", "hightouch"])
def test_every_message_arrives_once_and_within_the_limits(vendor, backend, count):
    """Despite 429, 5xx, resets and expired tokens; sizes are measured at the server."""
    clock, actual, drops = Clock(), Counter(), []
    with Emulator(
        now=clock,
        customerio=CustomerIORules(),
        hightouch=HightouchRules(oauth=OAuthRules(required=True, expires_in=3600)),
    ) as emu:
        afters = play(emu, count)
        options = {
            "base_url": getattr(emu, f"{vendor}_url"),
            "retry": RetryPolicy(first_wait=0.01),
            "limits": Limits(max_queue_size=5000),
            "when_full": "wait",
            "on_error": lambda *_: None,
            "on_drop": lambda *drop: drops.append(drop),
            "on_delivery": lambda one: actual.update([(one.message_id, one.fate)]),
        }
        if vendor == "hightouch":
            who = HightouchOAuth("c", key_pair()[0], "key-1", server=emu.hightouch_oauth_url)
            client = AsyncHightouch("k", oauth=who, **options)
        else:
            client = AsyncCustomerIO("k", **options)

        async def main():
            async with client:
                for n in range(count):
                    await client.track("u", "Visit", {"text": text(n)}, message_id=f"m-{n}")
                    if n in (count // 4, count * 3 // 4):
                        clock.now += 7200  # no token is good any more
                    if n == count // 2:
                        emu.revoke_tokens()
                return await client.flush(300)

        result = anyio.run(main, backend=backend)
        stats = client.stats()
        assert (result.pending, result.ok, drops) == (0, True, [])
        assert (count, count, 0, True) == (
            stats.accepted, stats.delivered, stats.lost, stats.balanced,
        )  # fmt: skip
        assert {(f"m-{n}", "delivered"): 1 for n in range(count)} == dict(actual)

        kept = emu.cdp_messages(vendor)
        ids = [entry["message"]["messageId"] for entry in kept]
        firsts = list(dict.fromkeys(ids))
        assert [f"m-{n}" for n in range(count)] == firsts
        assert len(emu.cdp_messages(vendor, unique=True)) == count
        assert max(entry["bytes"] for entry in kept) <= 32_000
        batches = [r for r in emu.requests(f"/{vendor}/v1/batch") if r.status == 200]
        assert 445_000 < max(len(request.body) for request in batches) <= 475_000
        most = max(len(json.loads(request.body)["batch"]) for request in batches)
        assert 1000 < most <= 2000
        # Only where an answer was lost was anything sent again, under the same id.
        assert len(ids) - len(firsts) <= afters * most
        if vendor == "hightouch":
            assert 3 <= len(emu.requests("/hightouch/oauth/token")) <= 10
