"""Drive the official SDK; run by the interpreter of its own environment."""

import time
from typing import Any

import httpx
from decisions import FLAG, confirm, context, definitions, flags, microseconds_a_user
from workload import EVENT, calls, main, microseconds_each, per_second

from mixpanel import BufferedConsumer, Consumer, Mixpanel
from mixpanel.flags.local_feature_flags import LocalFeatureFlagsProvider
from mixpanel.flags.types import LocalFlagsConfig, SelectedVariant


def urls(url: str) -> dict[str, str]:
    return {"events_url": f"{url}/track", "people_url": f"{url}/engage"}


def cost(url: str, count: int, *, sending: bool = False) -> dict[str, float]:
    """Time `track` into the buffer; unless `sending`, the batches it fills go nowhere."""
    consumer = BufferedConsumer(**urls(url))
    if not sending:
        consumer._consumer.send = lambda *_args, **_options: None
    mp = Mixpanel("TOKEN", consumer)

    def track(who: str, what: dict[str, Any]) -> None:
        mp.track(who, EVENT, what)

    return {"microseconds": min(microseconds_each(track, count) for _ in range(5))}


def buffered(url: str, count: int) -> dict[str, float]:
    consumer = BufferedConsumer(**urls(url))
    mp = Mixpanel("TOKEN", consumer)
    mp.track("warm", EVENT)
    consumer.flush()
    made = calls(count)
    started = time.perf_counter()
    for who, what in made:
        mp.track(who, EVENT, what)
    consumer.flush()
    return {"per_second": per_second(count, started)}


def at_once(url: str, count: int) -> dict[str, float]:
    mp = Mixpanel("TOKEN", Consumer(**urls(url)))
    mp.track("warm", EVENT)
    made = calls(count)
    started = time.perf_counter()
    for who, what in made:
        mp.track(who, EVENT, what)
    return {"per_second": per_second(count, started)}


def provider(given: dict[str, bool]) -> LocalFeatureFlagsProvider:
    """Return a provider that took its flags from an answer which never crossed a network."""

    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=definitions(given))

    config = LocalFlagsConfig(enable_polling=False)
    made = LocalFeatureFlagsProvider("TOKEN", config, "5.4.1", lambda *_: None)
    made._sync_client = httpx.Client(
        base_url="https://nowhere.invalid", transport=httpx.MockTransport(answer)
    )
    made.start_polling_for_definitions()
    assert made._flag_definitions.keys() == given.keys()
    return made


def flag(_url: str, count: int) -> dict[str, float]:
    local, fallback = provider(flags(1)), SelectedVariant(None)

    def decide(user: dict[str, Any]) -> SelectedVariant:
        return local.get_variant(FLAG, fallback, user, report_exposure=False)

    confirm(lambda *user: [v for v in [decide(context(*user)).variant_key] if v], flags(1))
    return {"microseconds": microseconds_a_user(context, decide, count)}


def flags100(_url: str, count: int) -> dict[str, float]:
    local = provider(flags(100))

    def chosen(*user: Any) -> list[str]:
        return [taken.variant_key for taken in local.get_all_variants(context(*user)).values()]

    confirm(chosen, flags(100))
    return {"microseconds": microseconds_a_user(context, local.get_all_variants, count)}


TASKS = [cost, buffered, at_once, flag, flags100]

if __name__ == "__main__":
    main({task.__name__: task for task in TASKS})
