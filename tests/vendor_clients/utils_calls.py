"""Call each public method of mixpanel-utils' MixpanelUtils; runs in an environment of its own.

    python utils_calls.py URL

Prints a line of JSON for each call, as `headless_calls` does. The client's three addresses are set
to the emulator's; a request to any other host is refused.
"""

import inspect
import io
import json
import logging
import os
import pathlib
import sys
import urllib.error
import urllib.request

import mixpanel_utils

URL = sys.argv[1]
DAYS = {"from_date": "2026-01-01", "to_date": "2026-01-04"}
SCRIPT = "function main() { return Events(params); }"

logging.disable(logging.CRITICAL)
exchanges: list[tuple[str, str, int, str]] = []
urlopen = urllib.request.urlopen


def recorded(request, *args, **kwargs):
    """Send a request, and remember its path and status."""
    if request.host != URL.partition("://")[2]:
        raise urllib.error.URLError(f"{request.host} is not the emulator")
    path = request.selector.partition("?")[0]
    try:
        response = urlopen(request, *args, **kwargs)
    except urllib.error.HTTPError as error:
        body = error.read()
        exchanges.append((request.get_method(), path, error.code, body.decode()))
        raise urllib.error.HTTPError(
            error.url, error.code, error.msg, error.hdrs, io.BytesIO(body)
        ) from error
    exchanges.append((request.get_method(), path, response.status, ""))
    return response


urllib.request.urlopen = recorded
client = mixpanel_utils.MixpanelUtils(
    "s3cret", token="T", service_account_username="robot", project_id=42, pool_size=1,
    max_retries=1,
)  # fmt: skip
client.raw_api = client.formatted_api = f"{URL}/api"
client.import_api = URL


def call(method, *args, label="", read=None, **kwargs):
    """Call a method, and print what came of it; `read` is a file that it writes."""
    before, value, error = len(exchanges), None, None
    try:
        value = getattr(client, method)(*args, **kwargs)
        if read is not None:
            value = pathlib.Path(read).read_text(encoding="utf-8")
    except BaseException as problem:
        if isinstance(problem, KeyboardInterrupt):
            raise
        error = " ".join(f"{type(problem).__name__}: {problem}".split())[:300]
    sent = exchanges[before:]
    refused = [f"{status} {body}" for *_, status, body in sent if status >= 400]
    if refused:
        error = "; ".join(dict.fromkeys(refused))
    line = {
        "method": method,
        "label": label,
        "ok": error is None,
        "error": error,
        "requests": [f"{verb} {path} {status}" for verb, path, status, _ in sent],
        "value": value if isinstance(value, (str, int, float, list, dict)) else None,
    }
    print(json.dumps(line, default=str), flush=True)
    return value


def reads():
    """Events and profiles, to memory and to files."""
    call("query_engage")
    call("query_engage", {"where": '"vip" in properties["tags"]'}, label="where")
    call("query_engage", {"selector": '(defined (properties["seats"]))'}, label="selector")
    behaviors = [{"window": "90d", "name": "b1", "event_selectors": [{"event": "Order Paid"}]}]
    arguments = {"behaviors": json.dumps(behaviors), "where": '(behaviors["b1"] > 1)'}
    call("query_engage", arguments, timezone_offset=0, label="behaviors")
    call("query_export", dict(DAYS))
    call("query_export", {**DAYS, "event": '["Order Paid"]'}, label="event")
    call("query_export", dict(DAYS), add_gzip_header=True, label="gzip")
    call("export_events", "events.json", dict(DAYS), read="events.json")
    call("export_events", "events.csv", dict(DAYS), format="csv", read="events.csv", label="csv")
    call("export_events", "days.json", dict(DAYS), request_per_day=True, label="by day")
    call("export_people", "people.json", read="people.json")
    call("export_people", "people.csv", format="csv", read="people.csv", label="csv")
    call("export_data", [{"a": 1}], "data.json", read="data.json")
    profile = {"$properties": {"$transactions": [{"$amount": 2}, {"$amount": 3}]}}
    call("sum_transactions", profile)
    call("request", client.formatted_api, ["events", "names"], {"type": "general"})


def jql():
    """What runs JQL."""
    call("query_jql", SCRIPT, params=DAYS)
    call("query_jql_events", **DAYS)
    call("query_jql_people")
    call("export_jql_events", "jql.json", **DAYS)
    call("export_jql_people", "jql.json")
    call("jql_operation", SCRIPT, "$set", backup=False)
    call("event_counts_to_people", "2026-01-01", ["Order Paid"])


def writes():
    """Events and profiles, from memory and from files."""
    at = {"time": 1767322800, "distinct_id": "u9", "$insert_id": "i-9", "amount": 3}
    event = {"event": "Order Paid", "properties": at}
    call("import_events", [event], 0)
    pathlib.Path("imported.json").write_text(json.dumps([event]), encoding="utf-8")
    call("import_events", "imported.json", 0, label="file")
    person = {"$distinct_id": "u9", "$properties": {"plan": "team", "$email": "u1@example.org"}}
    call("import_people", [person])
    update = {"$token": "T", "$distinct_id": "u9", "$set": {"seats": 1}}
    call("import_people", [update], raw_record_import=True, label="raw")
    someone = {"profiles": [person], "backup": False}
    call("people_set", {"seats": 4}, **someone)
    call("people_set", lambda each: {"copy": each["$properties"]["plan"]}, label="function",
         query_params={"where": 'properties["plan"] == "team"'}, backup=False)  # fmt: skip
    call("people_set_once", {"seats": 5, "first": 1}, profiles=[person])
    call("people_add", {"seats": 2}, **someone)
    call("people_append", {"tags": "new"}, **someone)
    call("people_union", {"tags": ["vip", "new"]}, **someone)
    call("people_remove", {"tags": "new"}, **someone)
    call("people_unset", ["first"], **someone)
    call("people_change_property_name", "copy", "kept", backup=False)
    call("people_revenue_property_from_transactions", **someone)
    call("people_operation", "$set", {"seats": 9}, profiles=[person])
    call("query_engage", {"distinct_id": "u9"}, label="written")
    call("deduplicate_people", backup=True, backup_file="before.json")
    call("people_delete", query_params={"where": 'properties["seats"] == 9'}, backup=False)
    call("query_engage", {"distinct_id": "u9"}, label="deleted")


def amplitude():
    """What reads from Amplitude first."""
    for method in ("import_from_amplitude", "import_from_amplitude_id_mgmt_v3"):
        call(method, "key", "secret", "20260101T00", "20260102T00")


for area in (reads, jql, writes, amplitude):
    try:
        area()
    except Exception as problem:
        text = " ".join(f"{type(problem).__name__}: {problem}".split())[:400]
        print(json.dumps({"area": area.__name__, "stopped": text}), flush=True)
methods = [
    name
    for name, member in inspect.getmembers(mixpanel_utils.MixpanelUtils)
    if name[0] != "_" and inspect.isfunction(member)
]
print(json.dumps({"methods": methods, "version": "2.2.7"}), flush=True)
os._exit(0)  # its thread pools may wait for more
