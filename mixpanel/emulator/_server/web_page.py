"""The web page of the emulator: what it received, and the feature flags."""

import json
from datetime import UTC, datetime
from html import escape
from operator import itemgetter
from typing import Any

from pydantic_core import from_json

from mixpanel.emulator._rules.events import json_text
from mixpanel.emulator._storage.cdp_inbox import Inbox
from mixpanel.emulator._storage.request_log import RecordedRequest, RequestLog
from mixpanel.emulator._storage.warehouse import Warehouse

NEWEST = 20
MAX_TEXT_LENGTH = 200
HIDDEN = frozenset({"token", "time", "distinct_id", "$insert_id"})

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Mixpanel emulator</title>
<style>
  :root {{ color-scheme: light dark; --line: #8884; --soft: #888; }}
  body {{ font: 15px/1.5 system-ui, sans-serif; }}
  body {{ max-width: 64rem; margin: 3rem auto; padding: 0 1rem; }}
  h1 {{ font-size: 1.4rem; margin: 0; }} h2 {{ font-size: 1.05rem; margin: 2.5rem 0 .5rem; }}
  p, dt, th, .none {{ color: var(--soft); }}
  dl {{ display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; }} dd {{ margin: 0; font-size: 1.6rem; }}
  table {{ border-collapse: collapse; width: 100%; }}
  th {{ font-weight: normal; text-align: left; }}
  th, td {{ padding: .3rem 1rem .3rem 0; vertical-align: top; }}
  th, td {{ border-bottom: 1px solid var(--line); }}
  td {{ overflow-wrap: anywhere; }} td:first-child {{ white-space: nowrap; }}
  code {{ font-size: .85em; }} .bad {{ color: #c33; }}
</style>
</head>
<body>
<h1>Mixpanel emulator</h1>
<p>A local server with Mixpanel's HTTP API. Nothing leaves this machine.</p>
{invitation}<dl>{counts}</dl>
<h2>Events, last arrived first</h2>
{events}
{cdp}<h2>Requests, last arrived first</h2>
{requests}
<h2>Feature flags</h2>
{flags}
</body>
</html>
"""

# The browser knows the address that it used.
INVITATION = """<p>Nothing received so far. Send something:
<code>MP_BASE_URL=<span id="url">(this page's address)</span> python app.py</code></p>
<script>document.getElementById("url").textContent = location.origin</script>
"""


def render_web_page(
    warehouse: Warehouse, request_log: RequestLog, flags: list[Any], inbox: Inbox
) -> str:
    """Return the page as HTML: counts, the newest events, messages and requests, the flags."""
    counts = warehouse.counts()
    counts["events"] = warehouse.count()
    shown = {**counts, "requests": request_log.seen, "flags": len(flags)}
    events = [_event(*each) for each in warehouse.newest(NEWEST)]
    requests = [_request(each) for each in reversed(request_log.requests()[-NEWEST:])]
    return PAGE.format(
        invitation="" if request_log.seen or any(counts.values()) else INVITATION,
        counts="".join(
            f"<div><dt>{escape(name.replace('_', ' '))}</dt><dd>{number:,}</dd></div>"
            for name, number in shown.items()
        ),
        events=_table(("Event time (UTC)", "Event", "distinct_id", "Properties"), events),
        cdp=_messages(inbox),
        requests=_table(("Arrived (UTC)", "Request", "Body", "BufferedResponse"), requests),
        flags=_table(("Flag", "Context", "Variants", "Rollouts"), [_flag(each) for each in flags]),
    )


def _event(name: str, time: int, distinct_id: str, properties: dict[str, Any]) -> tuple[str, ...]:
    rest = {key: value for key, value in properties.items() if key not in HIDDEN}
    return _format_time(time / 1000), escape(name), escape(distinct_id), _code(rest)


def _messages(inbox: Inbox) -> str:
    """Return the messages for Customer.io and Hightouch; nothing if there are none."""
    messages = [*inbox.messages(None, unique=False), *inbox.dropped(None)]
    if not messages:
        return ""
    newest = sorted(messages, key=itemgetter("received_at"))[-NEWEST:]
    head = ("Arrived (UTC)", "Vendor", "Message", "")
    rows = _table(head, [_message(each) for each in reversed(newest)])
    return f"<h2>Customer.io and Hightouch, last arrived first</h2>\n{rows}\n"


def _message(entry: dict[str, Any]) -> tuple[str, ...]:
    why = entry.get("why")
    parsed = f'<span class="bad">dropped</span> {escape(why[:MAX_TEXT_LENGTH])}' if why else ""
    # Half a surrogate pair is stored as it was sent, but cannot be encoded for a browser.
    text = json.dumps(entry["message"], ensure_ascii=False).encode("utf-8", "replace").decode()
    return _format_time(entry["received_at"]), entry["vendor"], _shorten(text), parsed


def _request(request: RecordedRequest) -> tuple[str, ...]:
    response = "none" if request.status is None else str(request.status)
    if response not in ("200", "304"):
        response = f'<span class="bad">{response}</span> {escape(_reason(request.response_body))}'
    line = escape(f"{request.method} {request.path}")
    return _format_time(request.received_at), line, f"{len(request.body):,} bytes", response


def _reason(response: bytes) -> str:
    """Return why a request was refused: the error of the first record, else of the request."""
    try:
        parsed = from_json(response)
    except ValueError:
        return ""
    match parsed:
        case {"failed_records": [{"index": index, "message": str(message)}, *_]}:
            return f"record {index}: {message}"[:MAX_TEXT_LENGTH]
        case {"error": str(message)}:
            return message[:MAX_TEXT_LENGTH]
    return ""


def _flag(flag: Any) -> tuple[str, ...]:
    match flag:
        case {
            "key": str(key),
            "context": str(context),
            "ruleset": {"variants": [*variants], "rollout": [*rollouts]},
        }:
            shares = _listed(rollouts, "rollout_percentage")
            return escape(key), escape(context), _listed(variants, "key"), shares
    return _code(flag), "", "", ""


def _listed(items: list[Any], name: str) -> str:
    found = (each[name] for each in items if isinstance(each, dict) and name in each)
    return escape(", ".join(map(str, found)))


def _code(value: Any) -> str:
    return _shorten(json_text(value))


def _shorten(text: str) -> str:
    text = text if len(text) <= MAX_TEXT_LENGTH else text[:MAX_TEXT_LENGTH] + "…"
    return f"<code>{escape(text)}</code>"


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return '<p class="none">None yet.</p>'
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{lines}</table>"
