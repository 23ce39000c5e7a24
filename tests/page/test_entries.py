"""What an entry of the feed says about a record, whatever its form."""

import json
import os
import shlex
import subprocess
from types import SimpleNamespace

import pytest

from mixpanel._page.details import as_assertion, as_curl, details
from mixpanel._page.entries import Entry, RequestRecord, describe, lane_of, preview, summary
from mixpanel._page.feed import Feed


def exchange(path="/track", *, headers=None, query=None, method="POST", received_at=1.0):
    return SimpleNamespace(
        method=method,
        path=path,
        query=query or {},
        headers=headers or {},
        received_at=received_at,
        body=b"",
        status=200,
        response_body=b"",
    )


def entry_of(record, lane="events", *, path="/track", reason=None, **options) -> Entry:
    request = exchange(path, **options)
    (entry,) = Feed().add(request, lane, [RequestRecord(record, reason)], status=200)
    return entry


def event(name="Order Paid", **properties):
    return {"event": name, "properties": {"token": "T", "distinct_id": "u-17", **properties}}


@pytest.mark.parametrize(
    ("path", "lane"),
    [
        ("/track", "events"),
        ("/import", "imports"),
        ("/engage", "profiles"),
        ("/groups", "groups"),
        ("/flags/definitions", "flags"),
        ("/customerio/v1/batch", "customerio"),
        ("/api/query/insights", "queries"),
        ("/nope", "queries"),
    ],
)
def test_each_path_has_a_lane(path, lane):
    """A path that nothing serves is a query that went wrong."""
    assert lane == lane_of(path)


@pytest.mark.parametrize(
    ("lane", "record", "found"),
    [
        ("events", event(**{"$insert_id": "i-1"}), ("Order Paid", "u-17", "i-1")),
        ("events", {"event": "A", "properties": {"$device_id": 7}}, ("A", "7", None)),
        ("profiles", {"$token": "T", "$distinct_id": "u-1", "$set": {}}, ("$set", "u-1", None)),
        (
            "groups",
            {"$group_key": "company", "$group_id": "acme", "$unset": ["a"]},
            ("$unset", "company acme", None),
        ),
        (
            "customerio",
            {"type": "track", "event": "E", "userId": "u", "messageId": "m"},
            ("E", "u", "m"),
        ),
        ("hightouch", {"type": "page", "name": "Home"}, ("page Home", None, None)),
        ("segment", {"type": "identify", "anonymousId": "a"}, ("identify", "a", None)),
    ],
)
def test_a_record_has_a_name_and_ids(lane, record, found):
    """By the form of its lane."""
    assert found == describe(lane, record)[:3]


@pytest.mark.slow
@pytest.mark.parametrize("record", [None, 7, "text", [], {}, {"event": 7, "properties": 8}])
@pytest.mark.parametrize("lane", ["events", "profiles", "groups", "customerio", "flags", "queries"])
def test_a_record_of_any_form_is_described(lane, record):
    """Nothing that arrives may raise."""
    entry = entry_of(record, lane)
    assert json.loads(json.dumps(details(entry, "http://x")))["id"] == 1


def test_a_preview_leaves_out_what_every_event_has():
    """And shows what distinguishes this one."""
    found = preview({"token": "T", "time": 1, "amount": 12.5, "tags": ["a", "b"], "to": {"x": 1}})
    assert "amount 12.5 · tags [a, b] · to {x}" == found


@pytest.mark.slow
def test_a_summary_stays_small():
    """Whatever the size of a record: the stream carries thousands of them."""
    big = "x" * 1_000_000
    entry = entry_of(event(big, distinct_id=big, text=big, deep={"a": [big] * 9}, **{big: 1}))
    assert len(json.dumps(summary(entry))) < 2500


def test_secrets_of_headers_and_queries_are_masked():
    """Nothing on the page shows them, and the command for a shell has variables instead."""
    headers = {"authorization": "Basic czNjcmV0", "cookie": "s3cret", "user-agent": "x"}
    entry = entry_of(event(), headers=headers, query={"api_key": "s3cret", "strict": "1"})
    found = details(entry, "http://127.0.0.1:1")
    shown = json.dumps(found)
    assert "s3cret" not in shown
    assert "czNjcmV0" not in shown
    assert ["authorization", "Basic ••••"] in found["request"]["headers"]
    assert ["strict", "1"] in found["request"]["query"]
    assert '-u "$MP_USERNAME:$MP_SECRET"' in found["curl"]


@pytest.mark.slow
def test_the_shell_command_quotes_what_a_shell_would_run():
    """A hostile value is data in it."""
    hostile = "'; rm -rf ~ #$(id)`id`"
    found = as_curl(entry_of(event(hostile)), "http://127.0.0.1:1")
    assert found.startswith("curl -X POST http://127.0.0.1:1/track")
    body = found.partition("--data-raw ")[2]
    assert body.replace("'\"'\"'", "\0").count("'") == 2  # the quotes around it


@pytest.mark.parametrize("method", ["`id`", "A|id", "POST; id", "A&id"])
def test_the_shell_command_quotes_the_method(method):
    """A method may have characters that a shell would run."""
    found = as_curl(entry_of(event(), method=method), "http://127.0.0.1:1")
    assert ["curl", "-X", method] == shlex.split(found)[:3]


def test_the_shell_command_of_a_program_has_the_address_that_it_sent_to():
    """Not that of the page in addition; and there is none before it is sent."""
    sent = as_curl(entry_of(event(), path="https://api.mixpanel.com/track"), "http://127.0.0.1:1")
    assert sent.startswith("curl -X POST https://api.mixpanel.com/track ")
    assert as_curl(entry_of(event(), path="(events)"), "http://127.0.0.1:1") == ""


def test_the_shell_command_expands_the_variables_of_secrets_only():
    """A shell puts a secret into the address; what the sender wrote stays as it is."""
    query = {"api_secret": "s3cret", "strict": "$(id)", "a b": "'"}
    found = as_curl(entry_of(event(), query=query), "http://127.0.0.1:1").partition(" \\\n")[0]
    script = found.replace("curl -X POST", "printf %s", 1)
    environment = {"API_SECRET": "from the environment", "PATH": os.environ["PATH"]}
    printed = subprocess.run(
        ["sh", "-c", script], env=environment, capture_output=True, text=True, check=True
    ).stdout
    expected = "http://127.0.0.1:1/track?strict=%24%28id%29&a+b=%27&api_secret=from the environment"
    assert printed == expected


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        (
            entry_of(event(ratio=float("nan"), sizes=[float("inf")], amount=2)),
            "emu.wait_for('Order Paid', distinct_id='u-17', amount=2)",
        ),
        (entry_of({"properties": {}}), "assert emu.requests('/track')"),
        (
            entry_of(event(amount=12.5, **{"$os": "iOS", "class": 1})),
            (
                "emu.wait_for('Order Paid', distinct_id='u-17', amount=12.5, "
                "**{'$os': 'iOS', 'class': 1})"
            ),
        ),
        (
            entry_of({"$distinct_id": "u-1", "$set": {"plan": "pro"}}, "profiles"),
            "assert emu.profiles()['u-1'].items() >= {'plan': 'pro'}.items()",
        ),
        (
            entry_of({"$group_key": "c", "$group_id": "a", "$unset": ["x"]}, "groups"),
            "assert emu.groups()[('c', 'a')]",
        ),
        (
            entry_of(event(), reason="too old"),
            (
                "assert emu.live(lane='events', verdict='rejected', event='Order Paid')[-1]"
                "[\"reason\"] == 'too old'"
            ),
        ),
        (
            entry_of({"type": "track", "event": "E", "userId": "u"}, "customerio"),
            "emu.wait_for('E', lane='customerio', distinct_id='u')",
        ),
        (entry_of({}, "queries", path="/api/app/me"), "assert emu.requests('/api/app/me')"),
    ],
)
def test_an_entry_becomes_a_line_of_a_test(entry, line):
    """Names that are no Python names are in a dict."""
    assert line == as_assertion(entry)


def test_numbers_are_exact():
    """Those that a browser would round are text before they reach it."""
    found = details(entry_of(event(number=2**60 + 1)), "http://x")
    (number,) = [each for each in found["properties"] if each["name"] == "number"]
    assert (str(2**60 + 1), "number") == (number["text"], number["type"])


def test_long_values_are_cut_and_their_length_is_kept():
    """A browser would take seconds to lay out a megabyte."""
    found = details(entry_of(event(text="x" * 1_000_000)), "http://x")
    (text,) = [each for each in found["properties"] if each["name"] == "text"]
    assert (20_000, 1_000_000) == (len(text["text"]), text["length"])
    assert len(found["raw"]) == 200_000 < found["raw_length"]
