"""Customer.io's dialect of the Segment spec: regions, two kinds of key, strict answers.

Source: Customer.io's Data Pipelines API reference. Its "32 KB" and "500 KB" do not say which
kilobyte, and what is larger is answered with 200 and dropped: so the smaller ones are kept to.
"""

from __future__ import annotations

import re

from mixpanel.cdp._segment.dialect import Dialect, basic

__all__ = ["CUSTOMERIO", "PERMISSIVE"]

_PREFIXED = re.compile(r"(?:pk|sk)_(us|eu)_")


def region_of(key: str) -> str | None:
    """Return the region that a prefixed key names, as in `sk_eu_…`; None for a classic key."""
    found = _PREFIXED.match(key)
    return found[1] if found else None


def authorize(key: str) -> str:
    """Return the `Authorization` header: a bearer for prefixed keys, else HTTP Basic."""
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
PERMISSIVE = _dialect({})  # answers 200 to a wrong key, a missing id, a message that is too large
