"""Customer.io's dialect of the Segment spec: regions, two kinds of key, strict mode.

Source: Customer.io's Data Pipelines API reference. It gives the limits as "32 KB" and "500 KB"
without defining the kilobyte, and the server drops larger messages with a 200; so the limits here
use the smaller one, of 1,000 bytes.
"""

from __future__ import annotations

import re

from mixpanel.cdp._segment.dialect import Dialect, basic

__all__ = ["CUSTOMERIO", "PERMISSIVE"]

_PREFIXED = re.compile(r"(?:pk|sk)_(us|eu)_")


def region_of(key: str) -> str | None:
    """Return the region in the prefix of a key, as in `sk_eu_…`; None for a classic key."""
    found = _PREFIXED.match(key)
    return found[1] if found else None


def authorize(key: str) -> str:
    """Return the `Authorization` header: Bearer for prefixed keys, else HTTP Basic."""
    return basic(key) if region_of(key) is None else f"Bearer {key}"


def _dialect(strict_headers: dict[str, str]) -> Dialect:
    return Dialect(
        name="Customer.io",
        hosts={"us": "https://cdp.customer.io", "eu": "https://cdp-eu.customer.io"},
        rate=(3000, 3.0),
        strict_headers=strict_headers,
        group_alone=True,
        email_identifies=True,
        actions=True,
        base_url_variable="MP_CUSTOMERIO_BASE_URL",
        no_user_events=frozenset({"Report Delivery Event", "Report Content Event"}),
        authorize=authorize,
        region_of=region_of,
    )


CUSTOMERIO = _dialect({"X-Strict-Mode": "1"})
# Without strict mode the server answers 200 also to a wrong key, a missing id or a large message.
PERMISSIVE = _dialect({})
