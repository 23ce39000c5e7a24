"""The edges of a delivery's decisions, each off by one: see tests/faults/mutation.py."""

import pytest

from mixpanel._delivery.retry import (
    DisableGzip,
    ReduceBatchBytes,
    Resolve,
    Stop,
    Wait,
    advance,
    delivery_steps,
)
from mixpanel._http.request import Send
from mixpanel._http.responses import Response
from mixpanel._records.record import Record
from mixpanel.exceptions import AmbiguousDeliveryError, AuthenticationError, TransportError
from mixpanel.settings import RetryPolicy
from tests.delivery.test_retry import OK, Run, broken, numbers, records, response, script

REJECTED = response(400, {"error": "bad"})
COUNTED = response(400, {"num_records_imported": 1})  # some of them may have been applied


def sizes(run):
    return [len(sent) for sent in run.sent]


def compressed(run):
    return [step.gzip for step in run.of(Send)]


# ---- the driver of the steps --------------------------------------------------------------------


def test_advance_applies_steps_until_one_takes_time():
    """Requests and waits are returned; a wait is applied as well; None ends it."""
    some, error = records(1), TransportError("broken")
    wait, resolve, stop = Wait(2.0, error), Resolve(some, "delivered"), Stop(error)
    replies = []

    def steps():
        replies.append((yield Send(some, False)))
        yield DisableGzip()
        yield wait
        yield resolve
        replies.append((yield Send(some, True)))
        yield stop

    running, applied = steps(), []
    assert advance(running, None, applied.append) == Send(some, False)
    assert not applied
    assert advance(running, OK, applied.append) is wait
    assert applied == [DisableGzip(), wait]
    assert advance(running, None, applied.append) == Send(some, True)
    assert applied[2:] == [resolve]
    assert advance(running, REJECTED, applied.append) is None
    assert applied[3:] == [stop]
    assert replies == [OK, REJECTED]


# ---- compression --------------------------------------------------------------------------------


@pytest.mark.parametrize(("gzip", "first"), [(False, False), (True, True), (None, True)])
def test_gzip_is_tried_unless_it_is_off(gzip, first):
    """`None` tries it."""
    assert compressed(Run(records(1), script(), gzip=gzip)) == [first]


def test_a_rejection_before_any_success_disables_gzip():
    """The same records are sent again as they are; that rejection is no failure of theirs."""
    run = Run(records(3), script(REJECTED), gzip=None)
    assert compressed(run) == [True, False]
    assert run.settled == {"delivered": [0, 1, 2]}
    assert len(run.of(DisableGzip)) == 1


def test_a_rejection_without_compression_is_one():
    """Gzip is disabled once; then the records are at fault."""
    run = Run(records(1), lambda *_: REJECTED, gzip=None)
    assert compressed(run) == [True, False]
    assert len(run.of(DisableGzip)) == 1
    assert run.settled == {"rejected": [0]}


def test_wrong_credentials_do_not_disable_gzip():
    """They are no rejection of the body."""
    run = Run(records(1), lambda *_: response(401), gzip=None)
    assert not run.of(DisableGzip)
    assert len(run.of(Stop)) == 1


def test_a_failure_does_not_decide_about_gzip():
    """After a 503 a rejection may still mean the compression."""
    run = Run(records(3), script(response(503), REJECTED), gzip=None)
    assert compressed(run) == [True, True, False]
    assert run.settled == {"delivered": [0, 1, 2]}


@pytest.mark.parametrize("gzip", [True, False])
def test_where_gzip_was_decided_a_rejection_is_one(gzip):
    """It is not disabled, and nothing is sent again."""
    run = Run(records(1), script(REJECTED), gzip=gzip)
    assert not run.of(DisableGzip)
    assert compressed(run) == [gzip]


@pytest.mark.parametrize("refusal", [response(413), COUNTED])
def test_what_the_server_read_was_compressed_well(refusal):
    """A request that is too large, or that counts records, is not about gzip."""
    run = Run(records(2), script(refusal), gzip=None)
    assert not run.of(DisableGzip)
    assert compressed(run) == [True, True, True]


def test_a_success_proves_that_the_server_takes_gzip():
    """A later rejection in the same batch is about its records."""
    run = Run(records(2), script(response(413), OK, REJECTED), gzip=None)
    assert not run.of(DisableGzip)
    assert run.settled == {"delivered": [0], "rejected": [1]}


# ---- what only a human can mend -----------------------------------------------------------------


def test_wrong_credentials_stop_with_an_error_that_needs_attention():
    """Nothing was processed: updates stay in the queue."""
    run = Run(records(2, "people", repeatable=False), script(response(401)))
    assert not run.settled
    error = run.of(Stop)[0].error
    assert isinstance(error, AuthenticationError)
    assert error.needs_attention


def test_a_fatal_response_without_proof_keeps_updates_that_may_be_repeated():
    """The user has allowed to repeat them."""
    some = records(2, "people", repeatable=False)
    run = Run(some, script(response(501)), repeat_ambiguous=True)
    assert not run.settled
    assert len(run.of(Stop)) == 1


def test_another_classifier_decides():
    """Servers other than Mixpanel's have their own."""
    seen = []

    def classify(reply, part):
        seen.append(numbers(part))
        return original(reply, part)

    from mixpanel._http.responses import classify_response as original

    Run(records(2), script(), classify=classify)
    assert seen == [[0, 1]]


# ---- too large ----------------------------------------------------------------------------------


def test_a_413_halves_the_size_of_its_body():
    """The brackets and commas count: eight bodies of 1,000 bytes are a body of 8,009."""
    some = [Record("events", b'{"n":%d,"x":"%s"}' % (n, b"x" * 986)) for n in range(8)]
    assert {len(one.body) for one in some} == {1000}
    run = Run(some, script(response(413)))
    assert [step.max_bytes for step in run.of(ReduceBatchBytes)] == [4004]


def test_a_batch_is_never_limited_to_less_than_a_kilobyte():
    """Else a wrong 413 would make each event a request."""
    run = Run(records(2), script(response(413)))
    assert [step.max_bytes for step in run.of(ReduceBatchBytes)] == [1024]


def test_only_a_batch_that_is_too_large_changes_the_limit():
    """No single record, and no other rejection."""
    assert not Run(records(1), script(response(413))).of(ReduceBatchBytes)
    assert not Run(records(4), script(REJECTED)).of(ReduceBatchBytes)


# ---- bisecting ----------------------------------------------------------------------------------


def test_updates_in_a_rejected_batch_are_sent_again_where_nothing_was_processed():
    """A plain 400 proves that."""
    some = records(4, "people", repeatable=False)
    run = Run(some, lambda _, step: REJECTED if 2 in numbers(step.records) else OK)
    assert run.settled == {"rejected": [2], "delivered": [0, 1, 3]}


def test_updates_in_a_rejected_batch_are_not_sent_again_where_some_were_processed():
    """Two are enough: it is not known which."""
    run = Run(records(2, "people", repeatable=False), script(COUNTED))
    assert sizes(run) == [2]
    assert run.settled == {"dropped ambiguous": [0, 1]}


def test_a_lone_update_that_is_rejected_was_not_applied():
    """There is no other record that a wrong index could be about."""
    listed = response(400, {"failed_records": [{"index": 9, "message": "bad"}]})
    run = Run(records(1, "people", repeatable=False), script(listed))
    assert run.settled == {"rejected": [0]}


def test_a_rejected_batch_is_probed_only_if_that_saves_requests():
    """Of 32 records each is found by bisecting; 33 are probed first."""
    assert sizes(Run(records(32), lambda *_: REJECTED))[:3] == [32, 16, 8]
    assert sizes(Run(records(33), lambda *_: REJECTED)) == [33] + [1] * 16


def test_a_batch_that_is_too_large_is_not_probed():
    """Its records are not at fault."""

    def server(_attempt, step):
        return response(413) if len(step.records) > 20 else OK

    assert sizes(Run(records(40), server)) == [40, 20, 20]


def test_a_batch_is_probed_once():
    """Its parts are bisected without another try."""
    run = Run(records(100), lambda _, step: OK if numbers(step.records) == [0] else REJECTED)
    # Record 0 is fine alone: the others of its batch are bisected, not probed.
    assert sizes(run)[:5] == [100, 1, 49, 24, 12]
    assert run.settled["delivered"] == [0]
    assert sorted(run.settled["rejected"]) == list(range(1, 100))


def test_probes_are_spread_from_the_first_record_to_the_last():
    """They find a batch whose halves differ."""
    run = Run(records(61), lambda *_: REJECTED)
    assert [sent[0] for sent in run.sent[1:]] == list(range(0, 61, 4))


def test_a_probe_with_another_error_ends_probing():
    """Its record stays, and is bisected with the others."""
    other = response(400, {"error": "another"})

    def server(_attempt, step):
        return other if numbers(step.records) == [0] else REJECTED

    run = Run(records(40), server)
    assert sizes(run)[:4] == [40, 1, 20, 10]
    assert sorted(run.settled["rejected"]) == list(range(40))


def test_a_probe_without_an_answer_is_sent_again_with_the_others():
    """A broken connection says nothing about the record."""

    def server(attempt, step):
        if attempt == 2:
            return broken()
        return REJECTED if len(step.records) > 1 else OK

    run = Run(records(40), server)
    assert sorted(run.settled["delivered"]) == list(range(40))
    assert sizes(run)[:3] == [40, 1, 20]


# ---- waiting and expiry -------------------------------------------------------------------------


def aged(*ages):
    some = records(len(ages))
    for one, age in zip(some, ages, strict=True):
        one.enqueued_at = -age
    return some


def test_records_that_are_too_old_after_a_failure_expire_without_a_wait():
    """There is no time for another attempt."""
    run = Run(aged(10, 10), script(response(503)), policy=RetryPolicy(max_age=5))
    assert run.settled == {"dropped expired": [0, 1]}
    assert not run.of(Wait)


def test_an_age_of_exactly_the_limit_has_expired():
    """To within the millisecond by which clocks differ."""
    policy = RetryPolicy(first_wait=0.2, max_age=5)
    for age in (5.0, 4.999):
        assert Run(aged(age), script(response(503)), policy=policy).settled == {
            "dropped expired": [0]
        }
    assert Run(aged(4.4), script(response(503)), policy=policy).settled == {"delivered": [0]}


def test_a_wait_ends_before_the_youngest_record_expires():
    """The older one expires meanwhile; half a second is left for the attempt."""
    policy = RetryPolicy(first_wait=200, max_wait=200, max_age=50)
    run = Run(aged(30, 10), script(response(503)), policy=policy)
    assert [step.seconds for step in run.of(Wait)] == [39.5]
    assert run.settled == {"dropped expired": [0], "delivered": [1]}


def test_a_wait_of_all_the_time_that_is_left_ends_before_the_record_expires():
    """Else the wait that a server asked for would leave no attempt."""
    run = Run(aged(0), script(response(503, retry_after="50")), policy=RetryPolicy(max_age=50))
    assert [step.seconds for step in run.of(Wait)] == [49.5]
    assert run.settled == {"delivered": [0]}


def test_a_record_with_less_than_a_second_left_waits_until_its_end():
    """It expires then; no wait is negative."""
    policy = RetryPolicy(first_wait=200, max_wait=200, max_age=50)
    run = Run(aged(49.5), script(response(503)), policy=policy)
    assert [step.seconds for step in run.of(Wait)] == [0.5]
    assert run.settled == {"dropped expired": [0]}


def test_a_caller_that_waits_stops_if_the_server_asks_for_more_time_than_is_left():
    """Without that request of the server the wait is only shortened."""
    policy = RetryPolicy(attempts=5, first_wait=200, max_wait=200, max_age=50)
    asked = Run(aged(0), script(response(503, retry_after="60")), policy=policy)
    assert [type(step) for step in asked.steps] == [Send, Stop]
    own = Run(aged(0), script(response(503)), policy=policy)
    assert [step.seconds for step in own.of(Wait)] == [49.5]
    enough = Run(
        aged(0),
        script(response(503, retry_after="40")),
        policy=RetryPolicy(attempts=5, first_wait=1, max_wait=1, max_age=50),
    )
    assert enough.settled == {"delivered": [0]}


def test_the_last_attempt_is_the_one_that_the_policy_allows():
    """Three attempts, then the records stay in the queue."""
    run = Run(records(1), lambda *_: response(503), policy=RetryPolicy(attempts=3, max_age=1e9))
    assert len(run.sent) == 3
    assert isinstance(run.steps[-1], Stop)


# ---- reports ------------------------------------------------------------------------------------


def test_an_ambiguous_error_has_its_cause():
    """What happened on the connection."""
    run = Run(records(1, "people", repeatable=False), script(broken()))
    error = run.of(Resolve)[0].error
    assert isinstance(error, AmbiguousDeliveryError)
    assert isinstance(error.__cause__, TransportError)


def test_rejected_records_are_listed_in_the_order_of_the_batch():
    """Whatever the order of the response; the message has up to three reasons, sorted."""
    listed = [
        {"index": index, "insert_id": str(index), "message": message}
        for index, message in [(4, "e"), (0, "d"), (3, "a"), (1, "b")]
    ]
    run = Run(records(5), script(response(400, {"failed_records": listed})))
    error = run.of(Resolve)[1].error
    assert [one.index for one in error.rejected_records] == [0, 1, 3, 4]
    assert str(error).endswith("4 of 5 record(s) rejected: a; b; d")


def test_the_first_request_is_attempt_zero_and_each_failure_counts():
    """The header of a repeated request says how often it was sent."""
    steps = delivery_steps(records(1), policy=RetryPolicy(), clock=lambda: 0.0, random=lambda: 0.5)
    first = next(steps)
    wait = steps.send(Response(503, {}, b""))
    assert isinstance(wait, Wait)
    second = next(steps)
    assert (first.retries, second.retries) == (0, 1)
