"""Users' own consumers: called as the official client calls them, without blocking the loop."""

import os
import threading

import anyio
import anyio.to_thread
import pytest

from mixpanel import AsyncMixpanel, ConfigurationError, Mixpanel
from mixpanel.consumers import AsyncBufferedConsumer


class Slow:
    """A consumer that blocks in `send` and `flush` until it is released."""

    def __init__(self):
        self.go_on = threading.Event()
        self.busy = self.most = 0
        self.sent = []

    def send(self, endpoint, json_message, api_key=None, api_secret=None):
        self.busy += 1
        self.most = max(self.most, self.busy)
        self.go_on.wait(10)
        self.sent.append(endpoint)
        self.busy -= 1

    def flush(self):
        self.go_on.wait(10)


@pytest.mark.anyio
async def test_a_slow_consumer_takes_one_worker_thread(anyio_backend):
    """A hundred messages wait for it in the event loop, one at a time in a thread."""
    consumer = Slow()
    mp = AsyncMixpanel("t", consumer)
    async with anyio.create_task_group() as tasks:
        for n in range(100):
            tasks.start_soon(mp.track, f"u{n}", "Visit")
        await anyio.sleep(0.05)
        with anyio.fail_after(5):
            assert await anyio.to_thread.run_sync(lambda: "free") == "free"
        consumer.go_on.set()
    assert (len(consumer.sent), consumer.most) == (100, 1)


@pytest.mark.anyio
async def test_flushing_a_slow_consumer_ends_with_its_timeout(anyio_backend, caplog):
    """The consumer's own flush continues in its thread, and a warning is logged."""
    consumer = Slow()
    mp = AsyncMixpanel("t", consumer)
    with anyio.fail_after(5):
        await mp.flush(0.05)
    consumer.go_on.set()
    assert "did not flush within" in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_does_not_wait_for_a_thread_it_does_not_have():
    """The call in progress continues in the parent only."""
    consumer = Slow()
    mp = AsyncMixpanel("t", consumer)
    waiting = threading.Thread(target=lambda: anyio.run(mp.track, "u", "Visit"))
    waiting.start()
    while not consumer.busy:
        pass
    pid = os.fork()
    if pid == 0:
        consumer.go_on = threading.Event()
        consumer.go_on.set()
        anyio.run(mp.track, "u", "Visit")
        os._exit(0)
    consumer.go_on.set()
    waiting.join()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


async def async_callback(*_):
    raise AssertionError


class Callable:
    """An object with an async `__call__`."""

    async def __call__(self, *_):
        raise AssertionError


@pytest.mark.parametrize(
    "callback", [async_callback, Callable(), "print"], ids=["async", "object", "text"]
)
@pytest.mark.parametrize("client", [AsyncMixpanel, Mixpanel, AsyncBufferedConsumer])
@pytest.mark.parametrize("name", ["on_error", "on_drop"])
def test_an_async_callback_is_a_configuration_error(client, name, callback):
    """It is raised by the constructor, and says what to pass instead."""
    token = () if client is AsyncBufferedConsumer else ("t",)
    with pytest.raises(ConfigurationError, match=f"{name}.*function"):
        client(*token, **{name: callback})


def test_an_async_before_send_is_a_configuration_error():
    """Its coroutine would replace every message."""
    with pytest.raises(ConfigurationError, match=r"before_send.*plain function"):
        Mixpanel("t", before_send=async_callback)
