"""What the end of a process does to messages that it has accepted, as docs/delivery.md tells it.

Each program sends five messages, leaves fifteen in the buffer, and ends in one of the ways that
processes end. All twenty arrive, or the five: what a process loses is what its buffer holds.
"""

import contextlib
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.heavy,
    pytest.mark.skipif(os.name != "posix", reason="POSIX signals and fork"),
]

DOCS = Path(__file__).parents[2] / "docs" / "delivery.md"
FLUSHED, ACCEPTED = 5, 20
GO = "go"  # for a program that ends its child itself, once that one is ready
WAIT = '{"wait": True}'
SENT, LOST = list(range(ACCEPTED)), list(range(FLUSHED))

BEGINNING = """
import asyncio, multiprocessing, os, signal, socket, sys, threading, time
from mixpanel import AsyncBufferedConsumer, AsyncMixpanel, BufferedConsumer, Limits, Mixpanel

def ready():
    print("ready", flush=True)
"""

IN_A_LOOP = """
mp = AsyncMixpanel("t", limits=Limits(flush_after=60))

async def afill():
    for n in range(20):
        await mp.track("u", "Visit", {"n": n})
        if n == 4:
            assert (await mp.flush()).delivered == 5

aclose = mp.aclose

def run(end=lambda: None, wait=False):
    async def main():
        await afill()
        if wait:
            ready()
            await asyncio.sleep(20)
        end()
    asyncio.run(main())
"""

IN_A_THREAD = """
def fill():
    for n in range(20):
        mp.track("u", "Visit", {"n": n})
        if n == 4:
            assert mp.flush().delivered == 5

async def afill():
    await asyncio.to_thread(fill)

async def aclose():
    await asyncio.to_thread(mp.close)

def run(end=lambda: None, wait=False):
    fill()
    if wait:
        ready()
        time.sleep(20)
    end()
"""

FACES = {
    "AsyncBufferedConsumer": IN_A_LOOP,
    "AsyncBufferedConsumer, sync": 'mp = Mixpanel("t", AsyncBufferedConsumer(flush_after=60))\n'
    + IN_A_THREAD,
    "BufferedConsumer": 'mp = Mixpanel("t", BufferedConsumer())\n' + IN_A_THREAD,
}

SERVE = """
import uvicorn

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        {shutdown}
        await send({"type": "lifespan.shutdown.complete"})
        return
    await afill()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})

listening = socket.create_server(("127.0.0.1", 0))
print("port", listening.getsockname()[1], flush=True)
server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))
try:
    server.run(sockets=[listening])
except KeyboardInterrupt:  # so does uvicorn.run
    pass
"""

CHILD = """
if __name__ == "__main__":
    child = multiprocessing.get_context("{method}").Process(target=run, kwargs={kwargs})
    {begin}
    child.start()
    {then}
"""

POOL = """
def work(*_):
    run({wait})

if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    {then}
"""

FORKED = """
pid = os.fork()
if pid == 0:
    run({end})
else:
    os.waitpid(pid, 0)
"""


def child(then="child.join()", method="fork", begin="", kwargs="{}"):
    """Return a program whose child runs; one that is to wait is ended once it is ready."""
    parts = {"method": method, "kwargs": kwargs, "begin": begin, "then": then}
    return filled(CHILD, **parts)


def pool(then, wait=""):
    return filled(POOL, then=then, wait=wait)


def filled(template, **parts):
    for name, text in parts.items():
        template = template.replace("{" + name + "}", text)
    return template


def serve(shutdown="pass"):
    return SERVE.replace("{shutdown}", shutdown)


# The first cell of a row of docs/delivery.md: how the process ends, the program, the signal that is
# sent to it once it has accepted everything, what arrives.
ENDS = {
    "the program ends": ("run()", None, SENT),
    "`sys.exit()`": ("run(end=sys.exit)", None, SENT),
    "an unhandled exception": ("run(end=lambda: 1 / 0)", None, SENT),
    "the program ends while a daemon thread lives": (
        "threading.Thread(target=time.sleep, args=(20,), daemon=True).start(); run()",
        None,
        SENT,
    ),
    "SIGINT (Ctrl-C)": ("run(wait=True)", signal.SIGINT, SENT),
    "SIGTERM": ("run(wait=True)", signal.SIGTERM, LOST),
    "SIGTERM, with a handler that calls `sys.exit()`": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit()); run(wait=True)",
        signal.SIGTERM,
        SENT,
    ),
    "SIGTERM, after `flush_on_signal()`": (
        "from mixpanel import flush_on_signal; flush_on_signal(); run(wait=True)",
        signal.SIGTERM,
        SENT,
    ),
    "SIGHUP": (  # whoever started the tests may have had it ignored
        "signal.signal(signal.SIGHUP, signal.SIG_DFL); run(wait=True)",
        signal.SIGHUP,
        LOST,
    ),
    "SIGKILL": ("run(wait=True)", signal.SIGKILL, LOST),
    "`os.abort()`, a crash of the interpreter": ("run(end=os.abort)", None, LOST),
    "`os._exit()`": ("run(end=lambda: os._exit(0))", None, LOST),
    "`os.execv()` and its like": (
        "run(end=lambda: os.execv(sys.executable, [sys.executable, '-c', '']))",
        None,
        LOST,
    ),
    "SIGTERM under uvicorn": (serve(), signal.SIGTERM, LOST),
    "SIGTERM under uvicorn, with `aclose` in its lifespan": (
        serve("await aclose()"),
        signal.SIGTERM,
        SENT,
    ),
    "SIGTERM under uvicorn, after `flush_on_signal()`": (
        "from mixpanel import flush_on_signal; flush_on_signal()\n" + serve(),
        signal.SIGTERM,
        SENT,
    ),
    "SIGINT under uvicorn": (serve(), signal.SIGINT, SENT),
    "a child of `os.fork()` ends": (FORKED.replace("{end}", ""), None, SENT),
    "a child of `os.fork()` ends with `os._exit()`": (
        FORKED.replace("{end}", "end=lambda: os._exit(0)"),
        None,
        LOST,
    ),
    "a `multiprocessing` child ends (fork)": (child(), None, SENT),
    "a `multiprocessing` child ends (forkserver)": (child(method="forkserver"), None, SENT),
    "a `multiprocessing` child ends (spawn)": (child(method="spawn"), None, SENT),
    "a `multiprocessing` child ends with `os._exit()`": (
        child(kwargs='{"end": lambda: os._exit(0)}'),
        None,
        LOST,
    ),
    "`Process.terminate()`": (
        child("sys.stdin.readline(); child.terminate(); child.join()", kwargs=WAIT),
        GO,
        LOST,
    ),
    "the parent ends while a `daemon=True` child lives": (
        child("sys.stdin.readline()", begin="child.daemon = True", kwargs=WAIT),
        GO,
        LOST,
    ),
    "`Pool.close()`, then `Pool.join()`": (
        pool("pool = multiprocessing.Pool(1); pool.map(work, [0]); pool.close(); pool.join()"),
        None,
        SENT,
    ),
    "`Pool.terminate()` with a worker at work": (
        pool(
            "pool = multiprocessing.Pool(1); pool.map_async(work, [0]); sys.stdin.readline();"
            " pool.terminate(); pool.join()",
            wait="wait=True",
        ),
        GO,
        LOST,
    ),
    "a worker reaches `maxtasksperchild`": (
        pool(
            "pool = multiprocessing.Pool(1, maxtasksperchild=1); pool.map(work, [0]);"
            " pool.close(); pool.join()"
        ),
        None,
        SENT,
    ),
    "the `with` block of a `ProcessPoolExecutor` ends": (
        pool(
            "from concurrent.futures import ProcessPoolExecutor\n"
            "    with ProcessPoolExecutor(1) as pool: pool.submit(work).result()"
        ),
        None,
        SENT,
    ),
}

# In sync code an AsyncBufferedConsumer sends from a thread of its own; these ends could differ.
ITS_OWN_THREAD = [
    "the program ends",
    "SIGTERM",
    "SIGINT (Ctrl-C)",
    "a child of `os.fork()` ends",
    "a `multiprocessing` child ends (fork)",
]
CASES = [
    pytest.param(end, face, id=f"{face}-{end}")
    for end in ENDS
    for face in FACES
    if ", sync" not in face or end in ITS_OWN_THREAD
]


def started(emu, path, source):
    path.write_text(source, encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, str(path)],
        cwd=path.parent,
        env={**os.environ, "MP_BASE_URL": emu.url},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def arrived(emu):
    return sorted(event["properties"]["n"] for event in emu.events())


@contextlib.contextmanager
def running(emu, path, source):
    """Run a program, and leave none of its processes behind."""
    process = started(emu, path, source)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize(("end", "face"), CASES)
def test_the_end_of_a_process_sends_or_loses_what_the_buffer_holds(emu, tmp_path, end, face):
    """Whatever was flushed is there; the rest arrives as a whole, or not at all."""
    source, how, expected = ENDS[end]
    with running(emu, tmp_path / "program.py", BEGINNING + FACES[face] + source) as process:
        if how is not None:
            until_all_is_accepted(process)
            if how is GO:
                process.stdin.write("go\n")
                process.stdin.flush()
            else:
                process.send_signal(how)
        process.wait(timeout=120)
        errors = process.communicate()[1]
    assert arrived(emu) == expected, errors


def test_a_killed_process_had_sent_each_full_batch_of_its_sync_buffer(emu, tmp_path):
    """A `BufferedConsumer` loses less than a batch of 50 messages."""
    source = """
mp = Mixpanel("t", BufferedConsumer())
for n in range(120):
    mp.track("u", "Visit", {"n": n})
os.kill(os.getpid(), signal.SIGKILL)
"""
    with running(emu, tmp_path / "program.py", BEGINNING + source) as process:
        assert process.wait(timeout=120) == -signal.SIGKILL
    assert arrived(emu) == list(range(100))


def test_a_killed_process_had_sent_what_was_in_its_async_buffer_for_a_second(emu, tmp_path):
    """An `AsyncBufferedConsumer` sends by itself: nobody flushes here."""
    source = """
async def main():
    mp = AsyncMixpanel("t")
    for n in range(20):
        await mp.track("u", "Visit", {"n": n})
    await asyncio.sleep(20)

asyncio.run(main())
"""
    with running(emu, tmp_path / "program.py", BEGINNING + source) as process:
        emu.wait_for(20, timeout=15)
        process.kill()
    assert arrived(emu) == SENT


def until_all_is_accepted(process):
    line = process.stdout.readline()
    if line.startswith("port "):
        url = f"http://127.0.0.1:{int(line.split()[1])}"
        with urllib.request.urlopen(url, timeout=120) as answer:
            assert answer.read() == b"done"
    else:
        assert line == "ready\n"


def test_the_documentation_lists_each_of_these_ends_and_what_it_does():
    """A row for each end that is tried here, and no row of the first table that is not."""
    text = DOCS.read_text(encoding="utf-8")
    table = text.split("<!-- tests/runtime/test_process_end.py -->")[1].split("\n\n")[1]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]
    assert {row[0]: row[1:] for row in cells} == {
        end: ["sent" if expected is SENT else "**lost**"] * 2
        for end, (_, _, expected) in ENDS.items()
    }
