"""Hightouch's dialect of the Segment spec: regions, two timestamps, versioned contracts.

Source: Hightouch's HTTP API reference for Events. With OAuth the access token authorizes the
request, and the write key is sent in the body.
"""

from __future__ import annotations

from mixpanel.cdp._segment.dialect import Dialect, key_in_body

__all__ = ["HIGHTOUCH", "SCHEMA_VERSION_PATH"]

# The default; a workspace may configure another path.
SCHEMA_VERSION_PATH = "context.protocols.schemaVersion"
REGIONS = ("us-east-1", "eu-west-1", "ap-south-1")


HIGHTOUCH = Dialect(
    name="Hightouch",
    hosts={region: f"https://{region}.hightouch-events.com" for region in REGIONS},
    schema_version_path=SCHEMA_VERSION_PATH,
    base_url_variable="MP_HIGHTOUCH_BASE_URL",
    timestamp_fields=("timestamp", "originalTimestamp"),
    envelope=key_in_body,
)
