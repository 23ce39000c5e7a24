"""The small shop of `mp demo`: visitors, a back office, and ten orders of which one is invalid."""

import random
import time
from collections.abc import Iterator
from typing import Any

import anyio

from mixpanel import AsyncMixpanel, Mixpanel, context

TOKEN = "corner-bookshop"  # noqa: S105 - the emulator takes any token
BRANCHES = {
    "harbour": {"$name": "Harbour Street", "city": "Porto", "staff": 4},
    "station": {"$name": "Old Station", "city": "Porto", "staff": 2},
}
BOOKS = {"Moby Dick": 12.5, "Emma": 9.0, "Dracula": 11.0, "Walden": 14.0, "Candide": 7.5}
CHANNELS = ("search", "newsletter", "direct")
NAMES = ("Ada", "Bo", "Chen", "Dina", "Emil", "Fay", "Gus", "Hana", "Ivo", "June")
HOURS = 8
INVALID_USER = "undefined"  # as sent by a web page with a bug


class Shop:
    """A day of customers, the same in every run, who know nothing of how it is recorded."""

    def __init__(self) -> None:
        self.opened: float = time.time() - HOURS * 3600
        self.orders: list[tuple[str, float]] = []

    def visitors(self, count: int, first: int = 1) -> list[str]:
        """Return the ids of some visitors."""
        return [f"visitor-{number}" for number in range(first, first + count)]

    async def visit(self, mp: AsyncMixpanel, visitor: str) -> None:
        """Visit the shop, view books, perhaps buy some; the context holds the visitor's id."""
        chance = random.Random(visitor)
        clock = self._clock(chance)
        properties = {"channel": chance.choice(CHANNELS), "branch": chance.choice(list(BRANCHES))}
        with context(visitor, properties):
            await mp.track(None, "Shop Visited", time=next(clock))
            cart = chance.sample(list(BOOKS), chance.randint(1, 4))
            for book in cart:
                await anyio.lowlevel.checkpoint()
                view = {"book": book, "price": BOOKS[book]}
                await mp.track(None, "Book Viewed", view, time=next(clock))
            if chance.random() < 0.5:
                await mp.track(None, "Cart Filled", {"books": cart}, time=next(clock))
                if chance.random() < 0.7:
                    amount = sum(BOOKS[book] for book in cart)
                    self.orders.append((visitor, amount))
                    await mp.track(None, "Order Paid", {"amount": amount}, time=next(clock))

    async def all_visit(self, mp: AsyncMixpanel, visitors: list[str]) -> None:
        """Let all of them visit at the same time."""
        async with anyio.create_task_group() as tasks:
            for visitor in visitors:
                tasks.start_soon(self.visit, mp, visitor)

    def ship(self, mp: Mixpanel) -> None:
        """Ship the orders, and update the profiles of customers and branches."""
        for branch, facts in BRANCHES.items():
            mp.group_set("branch", branch, facts)
        for number, (customer, amount) in enumerate(self.orders):
            mp.track(customer, "Order Shipped", {"amount": amount, "parcels": 1})
            mp.people_set_once(customer, {"$name": NAMES[number % len(NAMES)], "city": "Porto"})
            mp.people_increment(customer, {"orders": 1, "spent": amount})

    def ten_orders(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield ten orders, one of them of an invalid user."""
        for number in range(10):
            yield (
                INVALID_USER if number == 6 else f"visitor-{number + 1}",
                {"amount": 10.0 + number},
            )

    def _clock(self, chance: random.Random) -> Iterator[float]:
        now = self.opened + chance.random() * (HOURS - 1) * 3600
        while True:
            now += chance.randint(5, 90)
            yield now
