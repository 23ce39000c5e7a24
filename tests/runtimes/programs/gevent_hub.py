"""A script under gevent whose other greenlets go on while one waits; a timeout ends the wait."""

import gevent.monkey

gevent.monkey.patch_all()

import gevent  # noqa: E402

from mixpanel import (  # noqa: E402
    AsyncBufferedConsumer,
    LocalFlagsConfig,
    Mixpanel,
    ServiceAccountCredentials,
)

ticks = 0


def tick():
    """Count how often this greenlet runs."""
    global ticks
    while True:
        ticks += 1
        gevent.sleep(0.01)


ticking = gevent.spawn(tick)
credentials = ServiceAccountCredentials("user", "secret", "1")
mp = Mixpanel("t", AsyncBufferedConsumer(flush_after=60))
mp.track("u", "Visit", {"n": 0, "via": "AsyncBufferedConsumer"})

before = ticks  # the emulator takes half a second for each of the first four responses
assert mp.flush().ok
assert ticks > before + 5, "flush stopped the other greenlets"

mp.track("u", "Visit", {"n": 1, "via": "AsyncBufferedConsumer"})
try:
    with gevent.Timeout(0.1):
        mp.flush()
except gevent.Timeout:
    print("the timeout ended the wait")
else:
    raise AssertionError("no timeout")

imports = Mixpanel("t", credentials=credentials)
before = ticks
result = imports.import_events(
    {"event": "Visit", "properties": {"n": n, "via": "import", "distinct_id": "u", "time": 1e9}}
    for n in range(2)
)
assert result.imported == 2
assert ticks > before, "import_events stopped the other greenlets"

flags = Mixpanel("t", local_flags_config=LocalFlagsConfig(), credentials=credentials).local_flags
flags.start_polling_for_definitions()
assert flags.are_flags_ready()
flags.stop_polling_for_definitions()
mp.close()
