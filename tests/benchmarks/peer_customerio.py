"""Drive Customer.io's own client; run by the interpreter of its own environment."""

import time

from customerio.analytics.client import Client
from workload import EVENT, calls, main, per_second


def buffered(url: str, count: int) -> dict[str, float]:
    """Deliver with its defaults, but for a queue that holds everything: it drops what is over."""
    client = Client("WRITE_KEY", host=url, max_queue_size=count)
    client.track("warm", EVENT)
    client.flush()
    made = calls(count)
    started = time.perf_counter()
    for who, what in made:
        client.track(who, EVENT, what)
    client.flush()
    rate = per_second(count, started)
    client.shutdown()
    return {"per_second": rate}


if __name__ == "__main__":
    main({"buffered": buffered})
