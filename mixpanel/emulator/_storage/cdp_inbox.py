"""The messages received for customer data platforms, for tests to read."""

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from mixpanel.emulator._rules.cdp import (
    CustomerIORules,
    HightouchRules,
    RudderStackRules,
    Rules,
    SegmentSourceRules,
    Vendor,
)
from mixpanel.emulator._rules.oauth import Tokens
from mixpanel.emulator._rules.rate_limits import RollingWindow


class Inbox:
    """The rules of the vendors, the messages they accepted, and those they silently dropped."""

    def __init__(
        self, customerio: CustomerIORules | None = None, hightouch: HightouchRules | None = None
    ) -> None:
        self.customerio = customerio or CustomerIORules()
        self.hightouch = hightouch or HightouchRules()
        # Those whose endpoints are alike, by the first part of their paths.
        self.alike: dict[str, HightouchRules] = {
            rules.vendor: rules
            for rules in (self.hightouch, SegmentSourceRules(), RudderStackRules())
        }
        self.tokens = Tokens(self.hightouch.oauth)
        self._rates: dict[Vendor, RollingWindow] = {
            rules.vendor: RollingWindow(*(rules.rate or (None, 1)))
            for rules in (self.customerio, *self.alike.values())
        }
        self._lock = threading.Lock()
        self._accepted: list[dict[str, Any]] = []
        self._dropped: list[dict[str, Any]] = []

    def allows_request(self, rules: Rules, now: float) -> bool:
        """Count a request; return False if it exceeds the vendor's rate limit."""
        return self._rates[rules.vendor].try_add(1, now)

    def add(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Add messages: those with a `why` as dropped, the others as accepted."""
        with self._lock:
            for entry in entries:
                if entry["why"] is None:
                    self._accepted.append({name: entry[name] for name in entry if name != "why"})
                else:
                    self._dropped.append(dict(entry))

    def messages(self, vendor: Vendor | None, *, unique: bool) -> list[dict[str, Any]]:
        """Return the accepted messages, in the order of arrival."""
        found = self._by_vendor(self._accepted, vendor)
        if not unique:
            return found
        firsts: dict[Any, dict[str, Any]] = {}
        for index, entry in enumerate(found):
            message_id = entry["message"].get("messageId") or index
            firsts.setdefault((entry["vendor"], entry["key"], message_id), entry)
        return list(firsts.values())

    def dropped(self, vendor: Vendor | None) -> list[dict[str, Any]]:
        """Return the dropped messages, in the order of arrival."""
        return self._by_vendor(self._dropped, vendor)

    def clear(self) -> None:
        """Forget messages, tokens and counted requests."""
        with self._lock:
            self._accepted.clear()
            self._dropped.clear()
        self.tokens.clear()
        for rate in self._rates.values():
            rate.clear()

    def _by_vendor(
        self, entries: list[dict[str, Any]], vendor: Vendor | None
    ) -> list[dict[str, Any]]:
        with self._lock:
            return [each for each in entries if vendor in (None, each["vendor"])]
