"""Hightouch's dialect of the Segment spec: regions, two timestamps, versions of contracts.

Source: Hightouch's HTTP API reference for Events. With OAuth the access token is the authority and
the write key moves into the body.
"""

from __future__ import annotations

from mixpanel.cdp._segment.dialect import Dialect, enveloped
from mixpanel.cdp._segment.values import dumps

__all__ = ["HIGHTOUCH", "VERSION"]

VERSION = "context.protocols.schemaVersion"  # unless a contract says another place
REGIONS = ("us-east-1", "eu-west-1", "ap-south-1")


def envelope(sent_at: str, write_key: str | None) -> tuple[bytes, bytes]:
    """Return what stands around the items; `write_key` is given with OAuth only."""
    before, after = enveloped(sent_at)
    if write_key is None:
        return before, after
    told, _ = dumps({"writeKey": write_key})
    return before, after[:-1] + b"," + told[1:]


HIGHTOUCH = Dialect(
    name="Hightouch",
    hosts={region: f"https://{region}.hightouch-events.com" for region in REGIONS},
    schema_version=VERSION,
    base_url_variable="MP_HIGHTOUCH_BASE_URL",
    moments=("timestamp", "originalTimestamp"),
    envelope=envelope,
)
