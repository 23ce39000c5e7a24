"""Which requests Mixpanel counts against the hourly quota, and the limits in its headers.

As observed, since it is not documented: paths under `/api/query/` count by their first segment;
pages of profiles count only once, for the first; a rejected call (401, 402, 429) is free, while a
cached response and a query that failed are not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Quota", "exceeded_quota", "is_counted", "quotas_in"]

COUNTED = frozenset({
    *("arb_funnels", "cohorts", "correlate", "custom-query", "data_definitions", "engage"),
    *("events", "experiments", "flows", "formulas", "funnels", "impact", "insights"),
    *("integrations", "jql", "metrics", "query", "retention", "segmentation", "stream", "trends"),
})  # fmt: skip
PATH = re.compile(r"/api/(?:query|2\.0)/(?P<rest>[^?#]*)")
ITEM = re.compile(r'"(?P<name>[^"]*)"(?P<parameters>[^,]*)')
PARAMETER = re.compile(r';\s*(?P<key>[a-z]+)\s*=\s*(?:"(?P<text>[^"]*)"|(?P<number>\d+))')


@dataclass(frozen=True, slots=True)
class Quota:
    """One limit of a project, from the headers `RateLimit-Policy` and `RateLimit`.

    It allows `calls` in `seconds`, of which `remaining` are left; each is None if the server did
    not send it. `concurrent` is True for the limit of calls at the same time.
    """

    name: str
    calls: int | None = None
    seconds: int | None = None
    remaining: int | None = None
    concurrent: bool = False


def is_counted(url: str, params: Mapping[str, Any]) -> bool:
    """Return True if a query counts against the hourly quota of its project."""
    found = PATH.search(url)
    if found is None:
        return False
    first, _, rest = found["rest"].strip("/").partition("/")
    if first == "engage":
        return rest != "aliases" and not params.get("session_id")
    return first in COUNTED


def quotas_in(headers: Mapping[str, str]) -> list[Quota]:
    """Return the limits in the headers of a response.

    >>> policy = '"project";q=60;w=3600, "project-concurrency";q=5;qu="concurrent-requests"'
    >>> for quota in quotas_in({"ratelimit-policy": policy, "ratelimit": '"project";r=0'}):
    ...     print(quota.name, quota.calls, quota.seconds, quota.remaining, quota.concurrent)
    project 60 3600 0 False
    project-concurrency 5 None None True
    """
    policies, left = _items(headers, "ratelimit-policy"), _items(headers, "ratelimit")
    return [
        Quota(
            name=name,
            calls=_number(policies.get(name, {}).get("q")),
            seconds=_number(policies.get(name, {}).get("w")),
            remaining=_number(left.get(name, {}).get("r", left.get(name, {}).get("a"))),
            concurrent=name.endswith("-concurrency")
            or policies.get(name, {}).get("qu") == "concurrent-requests",
        )
        for name in dict.fromkeys([*policies, *left])
    ]


def exceeded_quota(quotas: Sequence[Quota]) -> Quota | None:
    """Return the limit that a rejected call exceeded, if the server names it."""
    return next((quota for quota in quotas if quota.remaining == 0), None)


def _items(headers: Mapping[str, str], name: str) -> dict[str, dict[str, str]]:
    return {
        found["name"]: {
            each["key"]: each["text"] if each["number"] is None else each["number"]
            for each in PARAMETER.finditer(found["parameters"])
        }
        for found in ITEM.finditer(headers.get(name, "")[:2000])
        if found["name"]
    }


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() and len(text) < 10 else None
