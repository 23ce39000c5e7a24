"""The delivery of one batch, without a clock or a socket."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixpanel._delivery.retry import (
    DisableGzip,
    ReduceBatchBytes,
    Resolve,
    Stop,
    Wait,
    delivery_steps,
)
from mixpanel._http.request import Send
from mixpanel._http.responses import (
    Response,
    ResponseOutcome,
    TransportFailure,
    classify_response,
    retry_after,
)
from mixpanel._records.record import Record
from mixpanel.exceptions import (
    AmbiguousDeliveryError,
    AuthenticationError,
    PayloadTooLargeError,
    RateLimitError,
    RejectedError,
    TransportError,
)
from mixpanel.settings import RetryPolicy

OK = Response(200, {}, b'{"status":1,"error":null}')


def records(count, endpoint="events", *, repeatable=True):
    return [Record(endpoint, b'{"n":%d}' % n, repeatable=repeatable) for n in range(count)]


def response(status, body=None, **headers):
    text = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    return Response(status, {k.replace("_", "-"): v for k, v in headers.items()}, text)


def numbers(some):
    return [record.decoded()["n"] for record in some]


class Run:
    """Drive a delivery with a function as the server, and record what it did."""

    def __init__(self, some, server, *, policy=None, gzip=False, **options):
        self.now, self.sent, self.settled, self.steps = 0.0, [], {}, []
        self.attempts_at = []
        policy = policy or RetryPolicy(attempts=20, max_age=1e9)
        steps = delivery_steps(
            some,
            policy=policy,
            clock=lambda: self.now,
            random=lambda: 0.5,
            gzip=gzip,
            **options,
        )
        reply = None
        for _ in range(10_000):
            try:
                step = steps.send(reply)
            except StopIteration:
                return
            self.steps.append(step)
            reply = None
            if isinstance(step, Send):
                self.sent.append(numbers(step.records))
                self.attempts_at.append(self.now)
                reply = server(len(self.sent), step)
            elif isinstance(step, Wait):
                self.now += step.seconds
            elif isinstance(step, Resolve):
                key = f"{step.fate} {step.reason}".strip()
                self.settled.setdefault(key, []).extend(numbers(step.records))
                self.settle(step)
        raise AssertionError("the exchange does not end")

    def settle(self, step):
        """Record what else matters when records are settled."""

    def of(self, kind):
        return [step for step in self.steps if isinstance(step, kind)]


def script(*replies):
    """Reply with each response in turn, then with success."""
    return lambda attempt, _step: replies[attempt - 1] if attempt <= len(replies) else OK


def broken(may_have_been_sent=True):
    return TransportFailure(TransportError("broken"), may_have_been_sent)


def test_a_success_settles_the_batch():
    """One request, every record delivered."""
    run = Run(records(3), script())
    assert run.settled == {"delivered": [0, 1, 2]}


@pytest.mark.parametrize(
    "body",
    [
        b"1",
        b'{"status":1}',
        b'{"status":"OK","code":200,"num_records_imported":3}',
        b'{"code":200,"status":0}',
        b'{"status":1,"error":null}',
    ],
)
def test_every_documented_success_delivers(body):
    """Plain, verbose and strict responses."""
    assert (
        classify_response(Response(200, {}, body), records(3)).outcome is ResponseOutcome.DELIVERED
    )


def test_a_partial_success_maps_failures_to_their_records():
    """A strict 400 delivers the rest; both spellings of the id are read."""
    body = {
        "failed_records": [
            {"index": 1, "$insert_id": "a", "field": "properties.time", "message": "too old"},
            {"index": 3, "insert_id": "b", "message": "bad id"},
        ]
    }
    run = Run(records(5), script(response(400, body)))
    assert run.settled == {"delivered": [0, 2, 4], "rejected": [1, 3]}
    error = run.of(Resolve)[1].error
    assert isinstance(error, RejectedError)
    assert [(f.index, f.insert_id, f.field) for f in error.rejected_records] == [
        (1, "a", "properties.time"),
        (3, "b", None),
    ]
    assert error.rejected_records[0].record == {"n": 1}
    assert len(run.sent) == 1


@pytest.mark.parametrize("index", [-1, 5, True, "1", None, 1.5, 10**30])
def test_a_rejected_record_with_an_invalid_index_is_not_attributed(index):
    """The whole batch counts as rejected and is bisected."""
    assert (
        classify_response(
            response(400, {"failed_records": [{"index": index}]}), records(5)
        ).rejected
        == {}
    )


def test_a_batch_with_one_invalid_record_is_bisected():
    """A 400 without details is traced to the record it is about."""

    def server(_attempt, step):
        poisoned = 7 in numbers(step.records)
        return response(400, {"error": "malformed"}) if poisoned else OK

    run = Run(records(10), server)
    assert run.settled["rejected"] == [7]
    assert sorted(run.settled["delivered"]) == [n for n in range(10) if n != 7]
    assert run.of(Resolve)[-1].fate == "delivered"


@pytest.mark.parametrize(
    "refusal", [response(400, {"error": "token"}), response(200, {"status": 0, "error": "token"})]
)
def test_a_rejection_of_what_all_records_share_is_not_bisected(refusal):
    """A wrong token takes a few requests, not two per event; every record is reported."""
    run = Run(records(2000), lambda *_: refusal)
    assert sorted(run.settled["rejected"]) == list(range(2000))
    assert len(run.sent) == 17
    named = [one for step in run.of(Resolve) for one in step.error.rejected_records]
    assert sorted(one.record["n"] for one in named) == list(range(2000))
    assert {one.message for one in named} == {f"events: HTTP {refusal.status}: token"}


@pytest.mark.slow
@pytest.mark.parametrize("poor", [{0, 1999}, set(range(1000)), set(range(2000)) - {133}])
def test_equal_errors_do_not_reject_valid_events(poor):
    """With one valid event among those probed, the batch is bisected to the end."""

    def server(_attempt, step):
        return response(400, {"error": "token"}) if poor & set(numbers(step.records)) else OK

    run = Run(records(2000), server)
    assert sorted(run.settled["rejected"]) == sorted(poor)
    assert len(run.settled["delivered"]) == 2000 - len(poor)


def test_profiles_are_bisected_in_order():
    """No update is probed out of order: it could overtake an older one."""
    run = Run(records(64, "people"), lambda *_: response(400, {"error": "token"}))
    assert [sent[0] for sent in run.sent if len(sent) == 1] == list(range(64))


def test_413_halves_the_batch_and_the_limit():
    """The queue remembers how much the server takes."""

    def server(_attempt, step):
        return response(413) if len(step.records) > 2 else OK

    run = Run(records(8), server)
    assert run.settled == {"delivered": list(range(8))}
    assert [step.max_bytes for step in run.of(ReduceBatchBytes)]
    single = Run(records(1), lambda *_: response(413))
    assert single.settled == {"rejected": [0]}
    assert isinstance(single.of(Resolve)[0].error, PayloadTooLargeError)


def test_429_without_retry_after_backs_off_with_full_jitter():
    """Waits are drawn from U(0, first * 2**n), capped."""
    run = Run(records(1), script(*[response(429)] * 8))
    assert [step.seconds for step in run.of(Wait)] == [1, 2, 4, 8, 16, 30, 30, 30]
    assert isinstance(run.of(Wait)[0].error, RateLimitError)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("99999", 300.0),
        ("Fri, 20 Nov 2026 10:00:30 GMT", 30.0),
        ("Fri, 20 Nov 2026 09:00:00 GMT", 1.0),
        ("Sun, 20 Nov 9999 09:00:00 GMT", 300.0),
        ("-5", 1.0),
        ("NaN", 1.0),
        ("1e999", 1.0),
        ("soon", 1.0),
        ("", 1.0),
    ],
)
def test_retry_after_is_a_minimum_within_bounds(header, seconds):
    """Numbers and dates count, nonsense does not, and `max_retry_after` caps it."""
    limited = response(429, retry_after=header, date="Fri, 20 Nov 2026 10:00:00 GMT")
    assert [step.seconds for step in Run(records(1), script(limited)).of(Wait)] == [seconds]


@pytest.mark.slow
@given(st.text(max_size=30), st.text(max_size=30))
def test_retry_after_never_raises(text, date):
    """Any header gives a wait or none."""
    seconds = retry_after({"retry-after": text, "date": date})
    assert seconds is None or seconds >= 0


OWN_ERRORS = [
    {"code": 0, "error": "busy", "status": "Service Unavailable"},
    {"error": "busy", "status": "error"},
    {"error": "busy", "status": 0},
]
FOREIGN_ERRORS = [
    b"",
    b"<html>503 Service Temporarily Unavailable</html>",
    b"upstream connect error or disconnect/reset before headers",
    b'{"error":"busy","status":',
    {},
    {"message": "Service Unavailable"},
    {"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}},
    {"timestamp": "2026-11-20", "status": 503, "error": "Service Unavailable", "path": "/engage"},
    {"code": 502, "error": "bad gateway", "status": "Bad Gateway"},
    {"error": "", "status": "error"},
    {"error": "busy", "status": False},
    {"error": "busy", "status": "error", "num_records_imported": 1},
    ["error"],
]


@pytest.mark.slow
@pytest.mark.parametrize("body", [b"", b"<html>", *OWN_ERRORS])
@pytest.mark.parametrize(
    "status", [408, 425, 460, 500, 501, 502, 504, 505, 506, 507, 508, 510, 511, 520, 529, 599]
)
def test_an_unrepeatable_update_is_ambiguous_after_an_error_without_proof(status, body):
    """`$add` may have been applied: it is counted as ambiguous; `$set` stays queued."""
    mixed = [
        Record("people", b'{"n":0}', repeatable=False),
        Record("people", b'{"n":1}', repeatable=True),
    ]
    run = Run(mixed, script(response(status, body)))
    assert run.settled.pop("dropped ambiguous") == [0]
    assert isinstance(run.of(Resolve)[0].error, AmbiguousDeliveryError)
    paused_by = status in (501, 505)  # kept, until somebody has looked
    assert bool(run.of(Stop)) is paused_by
    assert run.settled == ({} if paused_by else {"delivered": [1]})


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("body", OWN_ERRORS)
def test_an_unrepeatable_update_is_sent_again_after_mixpanels_own_error(status, body):
    """With its own error body Mixpanel says that it processed nothing."""
    if "code" in body:
        body = body | {"code": status}
    run = Run(records(2, "people", repeatable=False), script(response(status, body)))
    assert run.settled == {"delivered": [0, 1]}
    assert len(run.sent) == 2


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("body", FOREIGN_ERRORS)
def test_an_unrepeatable_update_is_not_sent_again_after_a_gateways_error(status, body):
    """The server behind the gateway may have had the request."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    some = [*records(1, "people", repeatable=False), Record("people", b'{"n":1}')]
    run = Run(some, script(Response(status, {"retry-after": "7"}, content)))
    assert run.settled == {"dropped ambiguous": [0], "delivered": [1]}
    assert [step.seconds for step in run.of(Wait)] == [7.0]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (413, {"num_records_imported": 1}),
        (422, {"failed_records": [{"index": 0, "message": "bad"}]}),
        (400, {"failed_records": [{"index": 9, "message": "bad"}]}),
        (400, {"num_records_imported": 1}),
        (404, {"num_records_imported": 1}),
    ],
)
def test_an_error_that_counts_accepted_records_is_not_a_proof(status, body):
    """Its unrepeatable updates are not sent again in smaller batches."""
    run = Run(records(4, "people", repeatable=False), script(response(status, body)))
    assert run.settled == {"dropped ambiguous": [0, 1, 2, 3]}
    assert len(run.sent) == 1


def test_transport_failures_know_whether_anything_was_sent():
    """Before the request left even `$add` is sent again; after it, it is not."""
    unsafe = records(1, "people", repeatable=False)
    assert Run(unsafe, script(broken(may_have_been_sent=False))).settled == {"delivered": [0]}
    assert Run(unsafe, script(broken())).settled == {"dropped ambiguous": [0]}
    assert Run(records(1), script(broken(), broken())).settled == {"delivered": [0]}
    again = Run(unsafe, script(broken()), repeat_ambiguous=True)
    assert again.settled == {"delivered": [0]}


DELIVERED, REJECTED, AMBIGUOUS = (
    ResponseOutcome.DELIVERED,
    ResponseOutcome.REJECTED,
    ResponseOutcome.AMBIGUOUS,
)


def bad(*indices):
    return [{"index": index, "message": "bad"} for index in indices]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "body", "outcome", "failed"),
    [
        # a success that counts: of the three that were sent
        (200, {"code": 200, "status": "OK", "num_records_imported": 3}, DELIVERED, []),
        (200, {"code": 200, "status": "OK"}, DELIVERED, []),
        (200, {"code": 200, "status": "OK", "num_records_imported": 0}, AMBIGUOUS, []),
        (200, {"code": 200, "status": "OK", "num_records_imported": 2}, AMBIGUOUS, []),
        (200, {"code": 200, "status": "OK", "num_records_imported": 4}, AMBIGUOUS, []),
        (200, {"code": 200, "status": "OK", "num_records_imported": -1}, AMBIGUOUS, []),
        (200, {"code": 200, "status": "OK", "num_records_imported": 10**30}, AMBIGUOUS, []),
        (200, {"code": 200, "status": "OK", "num_records_imported": "3"}, AMBIGUOUS, []),
        (200, {"code": 200, "status": "OK", "num_records_imported": 3.0}, AMBIGUOUS, []),
        (200, {"code": 200, "status": "OK", "num_records_imported": True}, AMBIGUOUS, []),
        (200, {"code": 200, "status": "OK", "num_records_imported": None}, AMBIGUOUS, []),
        (200, {"code": 200, "status": "OK", "num_records_imported": [3]}, AMBIGUOUS, []),
        (200, {"status": 1, "num_good_events": 3, "num_records_imported": 3}, DELIVERED, []),
        (200, {"status": 1, "num_good_events": 2, "num_records_imported": 3}, AMBIGUOUS, []),
        (200, {"status": 1, "num_good_events": 0}, AMBIGUOUS, []),
        # the verbose response of /track
        (200, {"status": 1, "error": None}, DELIVERED, []),
        (200, {"status": 1, "error": ""}, DELIVERED, []),
        (200, {"status": 1, "error": "one was bad"}, AMBIGUOUS, []),
        (200, {"status": 1, "num_records_imported": 3}, DELIVERED, []),
        (200, {"status": 1, "num_records_imported": 1}, AMBIGUOUS, []),
        (200, {"status": True}, AMBIGUOUS, []),
        (200, {"status": 0}, REJECTED, []),
        (200, {"status": 0, "error": "bad"}, REJECTED, []),
        (200, {"status": "error", "error": "bad"}, REJECTED, []),
        (200, {"status": "error"}, AMBIGUOUS, []),
        # codes that contradict the status
        (200, {"code": 400, "status": "OK"}, AMBIGUOUS, []),
        (200, {"code": 500, "error": "x", "status": "Internal Server Error"}, AMBIGUOUS, []),
        (200, {"code": 200, "status": "OK", "error": "x"}, AMBIGUOUS, []),
        (200, {"code": "200", "status": "OK"}, AMBIGUOUS, []),
        # a partial success
        (
            200,
            {"status": "OK", "failed_records": bad(1), "num_records_imported": 2},
            DELIVERED,
            [1],
        ),
        (200, {"status": "OK", "failed_records": bad(1)}, DELIVERED, [1]),
        (200, {"status": 0, "error": "x", "failed_records": bad(1)}, DELIVERED, [1]),
        (200, {"status": "OK", "failed_records": []}, DELIVERED, []),
        (200, {"status": "OK", "failed_records": None}, DELIVERED, []),
        (200, {"status": "OK", "failed_records": bad(1), "num_records_imported": 3}, AMBIGUOUS, []),
        (200, {"status": "OK", "failed_records": bad(1), "num_records_imported": 1}, AMBIGUOUS, []),
        (200, {"status": "OK", "failed_records": bad(3)}, AMBIGUOUS, []),
        (200, {"status": "OK", "failed_records": bad(0, 7)}, AMBIGUOUS, []),
        (200, {"status": "OK", "failed_records": ["bad"]}, AMBIGUOUS, []),
        (200, {"status": "OK", "failed_records": {"index": 1}}, AMBIGUOUS, []),
        (200, {"status": "OK", "failed_records": "1"}, AMBIGUOUS, []),
        (202, {"status": "OK", "failed_records": bad(1)}, AMBIGUOUS, []),
        (400, {"failed_records": bad(1), "num_records_imported": 2, "code": 400}, DELIVERED, [1]),
        (400, {"failed_records": bad(1, 1), "num_records_imported": 2}, DELIVERED, [1]),
        (400, {"failed_records": bad(0, 1, 2), "num_records_imported": 0}, DELIVERED, [0, 1, 2]),
        (400, {"failed_records": bad(1)}, DELIVERED, [1]),
        (400, {"failed_records": bad(1), "num_records_imported": 1}, REJECTED, []),
        (400, {"failed_records": bad(1), "num_records_imported": 0}, REJECTED, []),
        (400, {"failed_records": bad(1), "num_records_imported": 3}, AMBIGUOUS, []),
        (400, {"failed_records": bad(1), "num_records_imported": "2"}, REJECTED, []),
        (400, {"failed_records": bad(1, 9), "num_records_imported": 2}, REJECTED, []),
        (400, {"failed_records": bad(1), "code": 413}, REJECTED, []),
        (400, {"num_records_imported": 3}, AMBIGUOUS, []),
        (400, {"num_records_imported": 2}, REJECTED, []),
        (400, {"num_records_imported": 0}, REJECTED, []),
        # in any other response the status decides
        (401, {"status": 1, "num_records_imported": 3}, ResponseOutcome.FATAL, []),
        (403, {"failed_records": bad(1)}, ResponseOutcome.FATAL, []),
        (413, {"failed_records": bad(1), "num_records_imported": 2}, REJECTED, []),
        (422, {"failed_records": bad(1), "num_records_imported": 2}, REJECTED, []),
        (429, {"failed_records": bad(1), "num_records_imported": 2}, AMBIGUOUS, []),
        (500, {"failed_records": bad(1), "num_records_imported": 2}, AMBIGUOUS, []),
        (503, {"status": 1}, AMBIGUOUS, []),
        (304, {"status": 1}, ResponseOutcome.FATAL, []),
        (101, {"status": 1}, AMBIGUOUS, []),
        (199, {"status": 1}, AMBIGUOUS, []),
        (600, {"status": 1}, AMBIGUOUS, []),
        # what is not one JSON document
        (200, b'{"status":1', AMBIGUOUS, []),
        (200, b'{"status":1}{"status":1}', AMBIGUOUS, []),
        (200, b"1 1", AMBIGUOUS, []),
        (200, b"", AMBIGUOUS, []),
        (204, b"", AMBIGUOUS, []),
        (200, b"1.0", AMBIGUOUS, []),
        (200, b'"OK"', AMBIGUOUS, []),
    ],
)
def test_only_consistent_responses_deliver(status, body, outcome, failed):
    """Nothing counts as delivered unless the response plainly says so."""
    classification = classify_response(response(status, body), records(3))
    assert classification.outcome is outcome
    assert sorted(classification.rejected) == failed


def test_an_import_that_accepted_nothing_is_repeated_once():
    """Events are safe to repeat; then the server's counts decide."""
    none = response(200, {"code": 200, "status": "OK", "num_records_imported": 0})
    run = Run(records(3, "imports"), lambda *_: none)
    assert run.settled == {"dropped ambiguous": [0, 1, 2]}
    assert len(run.sent) == 2
    assert "counts 0 of 3" in str(run.of(Resolve)[0].error)
    assert Run(records(3, "imports"), script(none)).settled == {"delivered": [0, 1, 2]}


def test_a_strict_rejection_that_lists_too_few_records_is_bisected():
    """The server accepted one of three and listed one: bisecting finds the other."""

    def server(_attempt, step):
        here = numbers(step.records)
        if not {1, 2} & set(here):
            return OK
        return response(400, {"failed_records": bad(0), "num_records_imported": 0})

    run = Run(records(4, "imports"), server)
    assert sorted(run.settled["rejected"]) == [1, 2]
    assert sorted(run.settled["delivered"]) == [0, 3]


def test_a_captive_portals_page_is_not_a_success():
    """200 with HTML is retried like a broken connection, until the records expire."""
    html = Response(200, {"content-type": "text/html"}, b"<html>Welcome to the lobby</html>")
    assert Run(records(1), script(html, html, html)).settled == {"delivered": [0]}


@pytest.mark.parametrize("body", [b"[1]", b"{}", b"null", b'"ok?"', b"2", b"true", b"[]"])
def test_a_success_of_unknown_shape_is_retried_once(body):
    """Then it counts as ambiguous: more repeats would only create duplicates."""
    odd = Response(200, {}, body)
    if body == b"null":
        assert classify_response(odd, records(1)).outcome is ResponseOutcome.AMBIGUOUS
        return
    run = Run(records(2), lambda *_: odd)
    assert run.settled == {"dropped ambiguous": [0, 1]}
    assert len(run.sent) == 2
    [step] = run.of(Resolve)  # what the caller of an unbuffered client gets is of that type too
    assert isinstance(step.error, AmbiguousDeliveryError)


def test_a_rejected_batch_of_updates_does_not_repeat_unrepeatable_ones():
    """Status 0 may mean "not all were valid": `$add` in such a batch is ambiguous."""
    mixed = [
        Record("people", b'{"n":0}', repeatable=False),
        Record("people", b'{"n":1}'),
        Record("people", b'{"n":2}'),
    ]

    def server(_attempt, step):
        poor = {0, 1} & set(numbers(step.records))
        return response(200, {"status": 0, "error": "bad"}) if poor else OK

    run = Run(mixed, server)
    assert run.settled == {"dropped ambiguous": [0], "rejected": [1], "delivered": [2]}


@pytest.mark.parametrize("status", [301, 302, 401, 402, 403, 404, 405, 501, 505])
def test_an_error_only_a_human_can_fix_stops_and_keeps_the_records(status):
    """Nothing is settled; the records stay for later."""
    run = Run(records(3), lambda *_: response(status, {"error": "no"}))
    assert run.settled == {}
    [halt] = run.of(Stop)
    assert isinstance(halt.error, AuthenticationError) is (status in (401, 402, 403))


def test_retries_end_by_age_or_by_attempts():
    """Too old: dropped and counted. Too many attempts: kept for the next flush."""
    old = Run(records(1), lambda *_: response(503), policy=RetryPolicy(max_age=30))
    assert old.settled == {"dropped expired": [0]}
    often = Run(records(1), lambda *_: response(503), policy=RetryPolicy(attempts=3, max_age=1e9))
    assert often.settled == {}
    assert len(often.sent) == 3
    assert often.of(Stop)


def aged(*ages, endpoint="events"):
    """Return records that were enqueued so many seconds before 0."""
    some = records(len(ages), endpoint)
    for record, age in zip(some, ages, strict=True):
        record.enqueued_at = -float(age)
    return some


class Ages(Run):
    """Record how old each record is when it expires, and at the last attempt before."""

    def __init__(self, some, server, **options):
        self.ages, self.record_at = (
            {},
            {record.decoded()["n"]: record.enqueued_at for record in some},
        )
        super().__init__(some, server, **options)

    def settle(self, step):
        if (step.fate, step.reason) == ("dropped", "expired"):
            for n in numbers(step.records):
                self.ages[n] = self.now - self.record_at[n]


@pytest.mark.parametrize("retry_after", [None, 1, 3, 100])
def test_each_record_has_its_own_age_limit(retry_after):
    """None expires before its own `max_age`, however old the others in its batch are."""
    ages = [4.9, 4.0, 0.1, 3.0, 0.0, 2.5]
    headers = {} if retry_after is None else {"retry_after": str(retry_after)}
    run = Ages(
        aged(*ages),
        lambda *_: response(503, **headers),
        policy=RetryPolicy(max_age=5, first_wait=1),
    )
    assert sorted(run.settled["dropped expired"]) == list(range(6))
    assert min(run.ages.values()) >= 5 - 0.01
    youngest = run.record_at[4]
    assert run.attempts_at[-1] - youngest > 4.4  # one more try before the end


def test_younger_records_are_delivered_when_older_ones_expire():
    """They wait on, and are sent when the server is back."""
    run = Run(
        aged(100, 299.5, 20, 300, 400, 0),
        script(response(503), response(503)),
        policy=RetryPolicy(first_wait=8, max_wait=8),
    )
    assert run.settled == {"dropped expired": [3, 4, 1], "delivered": [0, 2, 5]}
    assert run.sent == [[0, 1, 2, 3, 4, 5], [0, 2, 5], [0, 2, 5]]


def test_parts_of_a_batch_expire_by_the_age_of_their_own_records():
    """Also after a bisection and a partial rejection."""

    def server(attempt, step):
        if len(step.records) == 8:
            return response(413)
        return response(503) if numbers(step.records)[0] == 0 or attempt < 4 else OK

    run = Ages(
        aged(290, 0, 298, 0, 0, 299, 0, 299), server, policy=RetryPolicy(first_wait=4, attempts=9)
    )
    assert run.ages
    assert min(run.ages.values()) >= 300 - 0.01
    assert set(run.settled["dropped expired"]) <= {0, 2, 5, 7}


def test_sleeps_that_end_early_do_not_add_attempts():
    """Clocks are coarse: a remaining wait too small to sleep is the last."""
    steps = delivery_steps(
        aged(4.9999, 0.1),
        policy=RetryPolicy(max_age=5, first_wait=1),
        clock=lambda: now,
        random=lambda: 0.9,
    )
    now, reply, taken, expired = 0.0, None, [], []
    with pytest.raises(StopIteration):
        for _ in range(1000):
            taken.append(steps.send(reply))
            reply = response(503) if isinstance(taken[-1], Send) else None
            if isinstance(taken[-1], Wait):
                now += max(0.0, taken[-1].seconds - 0.0005)
            elif isinstance(taken[-1], Resolve):
                expired += numbers(taken[-1].records)
    assert expired == [0, 1]
    assert len(taken) < 30


def test_gzip_is_disabled_when_the_first_response_rejects_it():
    """The queue remembers it for a server that does not take gzip."""

    def server(_attempt, step):
        return response(415) if step.gzip else OK

    run = Run(records(4), server, gzip=None)
    assert run.settled == {"delivered": [0, 1, 2, 3]}
    assert [step.gzip for step in run.of(Send)] == [True, False]
    assert len(run.of(DisableGzip)) == 1


NAMES = [
    "status", "error", "failed_records", "index", "code", "message", "num_records_imported",
    "num_good_events",
]  # fmt: skip
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 12)
    | st.sampled_from(["OK", "ok", "error", "busy", "Too Many Requests", 200, 400, 429, 503, 1.0]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner),
    max_leaves=10,
)
failures = st.lists(st.fixed_dictionaries({"index": st.integers(-1, 9)}), max_size=4)
near = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(["OK", 1, 0, "error", True, "Service Unavailable"]),
        "code": st.sampled_from([200, 400, 429, 503, "200"]),
        "error": st.sampled_from([None, "", "busy"]),
        "num_records_imported": st.integers(-1, 10) | st.none() | st.booleans(),
        "failed_records": failures | st.none(),
    },
)
bodies = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"1", b"0", b"{}", b'{"status":1}', b"[[[[", b"<html>", b"1 1", b""]),
    values.map(lambda value: json.dumps(value).encode()),
    near.map(lambda value: json.dumps(value).encode()),
)
replies = st.builds(
    Response,
    st.integers(100, 650) | st.sampled_from([200, 400, 413, 429, 503]),
    st.dictionaries(
        st.sampled_from(["retry-after", "date", "content-type"]),
        st.text(max_size=12) | st.sampled_from(["0", "5", "99999", "-1", "NaN"]),
    ),
    bodies,
) | st.builds(broken, st.booleans())


def says_success(reply, sent):
    """Return the numbers that a reply says were accepted, derived anew; None: not a success."""
    try:
        data = json.loads(reply.body)
    except (ValueError, RecursionError):
        return None
    if type(data) is int and data == 1 and 200 <= reply.status < 300:
        return set(sent)
    if not isinstance(data, dict):
        return None
    listed = data.get("failed_records")
    entries = listed if isinstance(listed, list) else []
    named = {one.get("index") if isinstance(one, dict) else None for one in entries}
    if None in named or (listed is not None and listed != entries):
        return None
    taken = {n for at, n in enumerate(sent) if at not in named}
    counts = [data[n] for n in ("num_records_imported", "num_good_events") if n in data]
    if any(type(count) is not int or count != len(taken) for count in counts):
        return None
    if named:
        return taken if reply.status in (200, 400) else None
    state, code = data.get("status"), data.get("code")
    known = state in ("OK", "ok", 1) or code == 200
    return taken if known and 200 <= reply.status < 300 and not data.get("error") else None


def is_proof(reply):
    """Return True if a reply proves that nothing was applied, derived anew."""
    if isinstance(reply, TransportFailure):
        return not reply.may_have_been_sent
    try:
        data = json.loads(reply.body)
    except (ValueError, RecursionError):
        data = None
    fields = data if isinstance(data, dict) else {}
    if any(fields.get(n) for n in ("failed_records", "num_records_imported", "num_good_events")):
        return False
    if reply.status in (429, 503):
        return bool(isinstance(fields.get("error"), str) and fields["error"] and "status" in fields)
    return 300 <= reply.status < 500 and reply.status not in (408, 425, 460)


@pytest.mark.slow
@given(
    st.lists(replies, max_size=10),
    st.lists(st.booleans(), min_size=1, max_size=9),
    st.booleans(),
    st.sampled_from(["people", "events", "imports"]),
)
def test_whatever_the_responses_each_record_has_one_outcome(responses, repeatable, gzip, queue):
    """Bounded waits, no delivery without a success, no `$add` twice without a proof."""
    some = [
        Record(queue, b'{"n":%d}' % n, repeatable=each or queue != "people")
        for n, each in enumerate(repeatable)
    ]
    unsafe = {n for n, record in enumerate(some) if not record.repeatable}
    doubtful, taken = set(), set()
    play = script(*responses)

    def server(attempt, step):
        sent, reply = numbers(step.records), play(attempt, step)
        assert not doubtful & set(sent), "sent again without proof"
        if not is_proof(reply):
            doubtful.update(unsafe & set(sent))
        if isinstance(reply, Response):
            taken.update(says_success(reply, sent) or ())
        return reply

    run = Run(some, server, gzip=None if gzip else False)
    settled = [n for numbers_ in run.settled.values() for n in numbers_]
    assert len(settled) == len(set(settled))
    assert set(settled) == set(range(len(some))) or run.of(Stop)
    assert all(0 <= step.seconds <= 300 for step in run.of(Wait))
    assert set(run.settled.get("delivered", ())) <= taken
