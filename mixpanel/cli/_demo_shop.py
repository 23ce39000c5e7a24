"""Play a small shop: its visitors, its back office, and ten orders of which one is broken."""

import random
import time
from collections.abc import Iterator
from typing import Any

import anyio

from mixpanel import AsyncMixpanel, Mixpanel, context

TOKEN = "corner-bookshop"  # noqa: S105 - it opens nothing
BRANCHES = {
    "harbour": {"$name": "Harbour Street", "city": "Porto", "staff": 4},
    "station": {"$name": "Old Station", "city": "Porto", "staff": 2},
}
BOOKS = {"Moby Dick": 12.5, "Emma": 9.0, "Dracula": 11.0, "Walden": 14.0, "Candide": 7.5}
CHANNELS = ("search", "newsletter", "direct")
NAMES = ("Ada", "Bo", "Chen", "Dina", "Emil", "Fay", "Gus", "Hana", "Ivo", "June")
HOURS = 8
BROKEN = "undefined"  # what a web page sends when nobody filled in the user


class Shop:
    """A day of customers who always do the same, and know nothing of how it is recorded."""

    def __init__(self) -> None:
        self.opened: float = time.time() - HOURS * 3600
        self.orders: list[tuple[str, float]] = []

    def visitors(self, count: int, first: int = 1) -> list[str]:
        """Return the ids of some visitors."""
        return [f"visitor-{number}" for number in range(first, first + count)]

    async def visit(self, mp: AsyncMixpanel, visitor: str) -> None:
        """Come in, look at books, perhaps buy some; who it is stands in the context."""
        chance = random.Random(visitor)
        clock = self._clock(chance)
        about = {"channel": chance.choice(CHANNELS), "branch": chance.choice(list(BRANCHES))}
        with context(visitor, about):
            await mp.track(None, "Shop Visited", time=next(clock))
            cart = chance.sample(list(BOOKS), chance.randint(1, 4))
            for book in cart:
                await anyio.lowlevel.checkpoint()
                look = {"book": book, "price": BOOKS[book]}
                await mp.track(None, "Book Viewed", look, time=next(clock))
            if chance.random() < 0.5:
                await mp.track(None, "Cart Filled", {"books": cart}, time=next(clock))
                if chance.random() < 0.7:
                    amount = sum(BOOKS[book] for book in cart)
                    self.orders.append((visitor, amount))
                    await mp.track(None, "Order Paid", {"amount": amount}, time=next(clock))

    async def all_visit(self, mp: AsyncMixpanel, visitors: list[str]) -> None:
        """Let all of them visit at the same time."""
        async with anyio.create_task_group() as crowd:
            for visitor in visitors:
                crowd.start_soon(self.visit, mp, visitor)

    def ship(self, mp: Mixpanel) -> None:
        """Ship what was ordered, and keep the customers' profiles and the branches up to date."""
        for branch, facts in BRANCHES.items():
            mp.group_set("branch", branch, facts)
        for number, (customer, amount) in enumerate(self.orders):
            mp.track(customer, "Order Shipped", {"amount": amount, "parcels": 1})
            mp.people_set_once(customer, {"$name": NAMES[number % len(NAMES)], "city": "Porto"})
            mp.people_increment(customer, {"orders": 1, "spent": amount})

    def ten_orders(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Return ten orders, one of them from nobody."""
        for number in range(10):
            yield BROKEN if number == 6 else f"visitor-{number + 1}", {"amount": 10.0 + number}

    def _clock(self, chance: random.Random) -> Iterator[float]:
        moment = self.opened + chance.random() * (HOURS - 1) * 3600
        while True:
            moment += chance.randint(5, 90)
            yield moment
