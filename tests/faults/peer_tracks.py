"""Track at a steady rate until killed; run by the interpreter of a peer's own environment.

python peer_tracks.py CLIENT URL RUN RATE [SPOOL]

Each client has its defaults. A line is written for each call that returned.
"""

import logging
import os
import sys
import time


def official(url, _spool):
    from mixpanel import BufferedConsumer, Mixpanel

    consumer = BufferedConsumer(events_url=f"{url}/track", people_url=f"{url}/engage")
    mp = Mixpanel("TOKEN", consumer)
    return lambda marker: mp.track("u", "Visit", {"m": marker}), None


def posthog(url, _spool):
    from posthog import Posthog

    client = Posthog("phc_TOKEN", host=url)
    return lambda marker: client.capture("Visit", distinct_id="u", properties={"m": marker}), None


def htevents(url, _spool):
    from hightouch.htevents.client import Client

    client = Client("WRITE_KEY", host=url)
    return lambda marker: client.track("u", "Visit", {"m": marker}), None


def customerio(url, _spool):
    from customerio.analytics.client import Client

    client = Client("WRITE_KEY", host=url)
    return lambda marker: client.track("u", "Visit", {"m": marker}), None


def ours(url, spool):
    from mixpanel import AsyncBufferedConsumer, Mixpanel

    # In a sync program, the background loop sends.
    consumer = AsyncBufferedConsumer(base_url=url, spool=spool or False)
    mp = Mixpanel("TOKEN", consumer)
    return lambda marker: mp.track("u", "Visit", {"m": marker}), mp.flush


def durable(url, spool):
    from mixpanel import AsyncBufferedConsumer, Mixpanel

    mp = Mixpanel("TOKEN", AsyncBufferedConsumer(base_url=url, spool=spool))
    return lambda marker: mp.track("u", "Visit", {"m": marker}, durable=True), mp.flush


def main():
    name, url, run, rate, *spool = sys.argv[1:]
    logging.disable()
    track, flush = globals()[name](url, spool[0] if spool else None)
    if not float(rate):  # the start after a kill: deliver what is there
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not flush(10).ok:
            time.sleep(0.1)
        return
    number, due = 0, time.monotonic()
    while True:
        try:
            track(f"m{run}x{number}x")
        except Exception:  # it was not accepted, as when the buffer's flush fails
            os.write(1, b"!\n")
        else:
            os.write(1, b"%d\n" % number)
        number += 1
        due += 1 / float(rate)
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()
