"""The flow of one batch, without a clock or a socket."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixpanel._exchange import (
    Answer,
    Failure,
    Halt,
    Plain,
    Send,
    Settle,
    Shrink,
    Verdict,
    Wait,
    exchange,
    judge_answer,
    retry_after,
)
from mixpanel.exceptions import (
    AmbiguousDeliveryError,
    AuthenticationError,
    PayloadTooLargeError,
    RateLimitError,
    RejectedError,
    TransportError,
)
from mixpanel.messages import Record
from mixpanel.settings import RetryPolicy

OK = Answer(200, {}, b'{"status":1,"error":null}')


def records(count, endpoint="events", *, repeatable=True):
    return [Record(endpoint, b'{"n":%d}' % n, repeatable=repeatable) for n in range(count)]


def answer(status, body=None, **headers):
    text = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    return Answer(status, {k.replace("_", "-"): v for k, v in headers.items()}, text)


def numbers(some):
    return [record.decoded()["n"] for record in some]


class Run:
    """Drive an exchange with a server made of a function, and keep what it did."""

    def __init__(self, some, server, *, policy=None, gzip=False, **options):
        self.now, self.sent, self.settled, self.steps = 0.0, [], {}, []
        policy = policy or RetryPolicy(attempts=20, max_age=1e9)
        steps = exchange(
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
                reply = server(len(self.sent), step)
            elif isinstance(step, Wait):
                self.now += step.seconds
            elif isinstance(step, Settle):
                key = f"{step.fate} {step.reason}".strip()
                self.settled.setdefault(key, []).extend(numbers(step.records))
        raise AssertionError("the exchange does not end")

    def of(self, kind):
        return [step for step in self.steps if isinstance(step, kind)]


def script(*replies):
    """Answer with each reply in turn, then with success."""
    return lambda attempt, _step: replies[attempt - 1] if attempt <= len(replies) else OK


def broken(maybe_sent=True):
    return Failure(TransportError("broken"), maybe_sent)


def test_a_success_settles_the_batch():
    """One request, everything delivered."""
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
def test_every_documented_success_is_one(body):
    """Plain, verbose and strict answers all count."""
    assert judge_answer(Answer(200, {}, body), records(1)).verdict is Verdict.DELIVERED


def test_a_partial_success_maps_failures_to_their_records():
    """A strict 400 delivers the rest; either spelling of the id is read."""
    body = {
        "failed_records": [
            {"index": 1, "$insert_id": "a", "field": "properties.time", "message": "too old"},
            {"index": 3, "insert_id": "b", "message": "bad id"},
        ]
    }
    run = Run(records(5), script(answer(400, body)))
    assert run.settled == {"delivered": [0, 2, 4], "rejected": [1, 3]}
    error = run.of(Settle)[1].error
    assert isinstance(error, RejectedError)
    assert [(f.index, f.insert_id, f.field) for f in error.failed_records] == [
        (1, "a", "properties.time"),
        (3, "b", None),
    ]
    assert error.failed_records[0].record == {"n": 1}
    assert len(run.sent) == 1


@pytest.mark.parametrize("index", [-1, 5, True, "1", None, 1.5, 10**30])
def test_a_nonsense_index_blames_nobody(index):
    """A failed record that cannot be found leaves the refusal to be bisected."""
    assert (
        judge_answer(answer(400, {"failed_records": [{"index": index}]}), records(5)).failed == {}
    )


def test_a_poisoned_batch_is_bisected():
    """An unspecific 400 finds the one record it is about."""

    def server(_attempt, step):
        poisoned = 7 in numbers(step.records)
        return answer(400, {"error": "malformed"}) if poisoned else OK

    run = Run(records(10), server)
    assert run.settled["rejected"] == [7]
    assert sorted(run.settled["delivered"]) == [n for n in range(10) if n != 7]
    assert run.of(Settle)[-1].fate == "delivered"


@pytest.mark.parametrize(
    "refusal", [answer(400, {"error": "token"}), answer(200, {"status": 0, "error": "token"})]
)
def test_a_refusal_of_what_all_share_is_not_bisected(refusal):
    """A wrong token costs some requests, not two for each event; every record is named."""
    run = Run(records(2000), lambda *_: refusal)
    assert sorted(run.settled["rejected"]) == list(range(2000))
    assert len(run.sent) == 17
    named = [one for step in run.of(Settle) for one in step.error.failed_records]
    assert sorted(one.record["n"] for one in named) == list(range(2000))
    assert {one.message for one in named} == {f"events: HTTP {refusal.status}: token"}


@pytest.mark.parametrize("bad", [{0, 1999}, set(range(1000)), set(range(2000)) - {133}])
def test_refusals_in_the_same_words_do_not_condemn_good_events(bad):
    """One good event among those asked alone, and the batch is bisected to the end."""

    def server(_attempt, step):
        return answer(400, {"error": "token"}) if bad & set(numbers(step.records)) else OK

    run = Run(records(2000), server)
    assert sorted(run.settled["rejected"]) == sorted(bad)
    assert len(run.settled["delivered"]) == 2000 - len(bad)


def test_profiles_are_bisected_in_order():
    """No update is asked about out of turn: it could overtake an older one."""
    run = Run(records(64, "people"), lambda *_: answer(400, {"error": "token"}))
    assert [sent[0] for sent in run.sent if len(sent) == 1] == list(range(64))


def test_413_splits_and_remembers():
    """A batch that is too large is halved, and the limit is learned."""

    def server(_attempt, step):
        return answer(413) if len(step.records) > 2 else OK

    run = Run(records(8), server)
    assert run.settled == {"delivered": list(range(8))}
    assert [step.max_bytes for step in run.of(Shrink)]
    single = Run(records(1), lambda *_: answer(413))
    assert single.settled == {"rejected": [0]}
    assert isinstance(single.of(Settle)[0].error, PayloadTooLargeError)


def test_429_without_retry_after_backs_off_with_full_jitter():
    """Waits are drawn from U(0, first * 2**n), capped."""
    run = Run(records(1), script(*[answer(429)] * 8))
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
def test_retry_after_is_a_floor_within_reason(header, seconds):
    """Numbers and dates count, nonsense does not, and nobody waits for ever."""
    limited = answer(429, retry_after=header, date="Fri, 20 Nov 2026 10:00:00 GMT")
    assert [step.seconds for step in Run(records(1), script(limited)).of(Wait)] == [seconds]


@given(st.text(max_size=30), st.text(max_size=30))
def test_retry_after_never_raises(text, date):
    """Any header gives a wait or none."""
    seconds = retry_after({"retry-after": text, "date": date})
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize("status", [460, 500, 502, 504, 506, 507, 508, 510, 511, 520, 529, 599])
def test_an_unsafe_update_is_not_repeated_after_a_server_error(status):
    """`$add` may have been applied; it is counted as ambiguous, `$set` goes again."""
    mixed = [
        Record("people", b'{"n":0}', repeatable=False),
        Record("people", b'{"n":1}', repeatable=True),
    ]
    run = Run(mixed, script(answer(status)))
    assert run.settled == {"dropped ambiguous": [0], "delivered": [1]}
    assert isinstance(run.of(Settle)[0].error, AmbiguousDeliveryError)


@pytest.mark.parametrize("status", [408, 425, 429, 503])
def test_an_unsafe_update_is_repeated_when_it_was_not_processed(status):
    """These answers say that nothing was applied."""
    run = Run(records(2, "people", repeatable=False), script(answer(status)))
    assert run.settled == {"delivered": [0, 1]}


def test_transport_failures_know_whether_anything_was_sent():
    """Before the request left even `$add` is safe; after it, it is not."""
    unsafe = records(1, "people", repeatable=False)
    assert Run(unsafe, script(broken(maybe_sent=False))).settled == {"delivered": [0]}
    assert Run(unsafe, script(broken())).settled == {"dropped ambiguous": [0]}
    assert Run(records(1), script(broken(), broken())).settled == {"delivered": [0]}
    again = Run(unsafe, script(broken()), repeat_ambiguous=True)
    assert again.settled == {"delivered": [0]}


def test_a_page_of_a_captive_portal_is_no_success():
    """200 with HTML is retried like a broken connection, for as long as patience lasts."""
    html = Answer(200, {"content-type": "text/html"}, b"<html>Welcome to the lobby</html>")
    assert Run(records(1), script(html, html, html)).settled == {"delivered": [0]}


@pytest.mark.parametrize("body", [b"[1]", b"{}", b"null", b'"ok?"', b"2", b"true", b"[]"])
def test_a_success_of_unknown_shape_is_retried_once(body):
    """Then it counts as ambiguous: repeating for ever would only make copies."""
    odd = Answer(200, {}, body)
    if body == b"null":
        assert judge_answer(odd, records(1)).verdict is Verdict.AMBIGUOUS
        return
    run = Run(records(2), lambda *_: odd)
    assert run.settled == {"dropped ambiguous": [0, 1]}
    assert len(run.sent) == 2


def test_a_refusal_of_all_updates_does_not_repeat_unsafe_ones():
    """Status 0 may mean "not all were valid": `$add` in such a batch is left in doubt."""
    mixed = [
        Record("people", b'{"n":0}', repeatable=False),
        Record("people", b'{"n":1}'),
        Record("people", b'{"n":2}'),
    ]

    def server(_attempt, step):
        bad = {0, 1} & set(numbers(step.records))
        return answer(200, {"status": 0, "error": "bad"}) if bad else OK

    run = Run(mixed, server)
    assert run.settled == {"dropped ambiguous": [0], "rejected": [1], "delivered": [2]}


@pytest.mark.parametrize("status", [301, 302, 401, 402, 403, 404, 405, 501, 505])
def test_what_only_a_human_can_mend_halts_and_keeps(status):
    """Nothing is settled; the records stay for later."""
    run = Run(records(3), lambda *_: answer(status, {"error": "no"}))
    assert run.settled == {}
    [halt] = run.of(Halt)
    assert isinstance(halt.error, AuthenticationError) is (status in (401, 402, 403))


def test_patience_ends_by_age_or_by_attempts():
    """Too old means dropped and counted; too often means kept for the next flush."""
    old = Run(records(1), lambda *_: answer(503), policy=RetryPolicy(max_age=30))
    assert old.settled == {"dropped expired": [0]}
    often = Run(records(1), lambda *_: answer(503), policy=RetryPolicy(attempts=3, max_age=1e9))
    assert often.settled == {}
    assert len(often.sent) == 3
    assert often.of(Halt)


def test_gzip_is_given_up_when_the_first_answer_refuses():
    """A server that does not take gzip is met plainly, and remembered so."""

    def server(_attempt, step):
        return answer(415) if step.gzip else OK

    run = Run(records(4), server, gzip=None)
    assert run.settled == {"delivered": [0, 1, 2, 3]}
    assert [step.gzip for step in run.of(Send)] == [True, False]
    assert len(run.of(Plain)) == 1


bodies = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"1", b"0", b"{}", b'{"status":0}', b'{"status":1}', b"[[[[", b"<html>"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["status", "error", "failed_records", "index", "code", "message"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
)
replies = st.builds(
    Answer,
    st.integers(200, 599),
    st.dictionaries(st.sampled_from(["retry-after", "date", "content-type"]), st.text(max_size=12)),
    bodies,
) | st.builds(broken, st.booleans())


@settings(max_examples=400, deadline=None)
@given(st.lists(replies, max_size=12), st.integers(1, 9), st.booleans(), st.booleans())
def test_whatever_is_answered_each_record_ends_once(answers, count, repeatable, gzip):
    """Settled records and those handed back add up to what was sent, without repeats."""
    some = records(count, "people", repeatable=repeatable)
    run = Run(some, script(*answers), gzip=None if gzip else False)
    settled = [n for numbers_ in run.settled.values() for n in numbers_]
    assert len(settled) == len(set(settled))
    assert set(settled) == set(range(count)) or run.of(Halt)
    assert all(0 <= step.seconds <= 300 for step in run.of(Wait))
