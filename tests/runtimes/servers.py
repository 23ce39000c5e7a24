"""Start a program in the environment of the peers, and stop it as its operator would."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests import peers

PROGRAMS = Path(__file__).parent / "programs"
TIMEOUT = 60  # seconds for anything here


def environment(emulator, **more):
    """Return the environment variables of a program that sends to the emulator."""
    return {
        **os.environ,
        "MP_BASE_URL": emulator.url,
        "MP_LIMITS_DIR": "off",
        "PYTHONPATH": os.pathsep.join([str(peers.ROOT), str(PROGRAMS)]),
        "PYTHONUNBUFFERED": "1",
        **more,
    }


@contextlib.contextmanager
def running(emulator, *command, folder, python=None, **variables):
    """Run a program in a folder, and leave none of its processes behind."""
    log = folder / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [python or peers.python("runtimes"), *command],
            cwd=folder,
            env=environment(emulator, **variables),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    process.log = log
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.wait()


def run(emulator, *, arguments, folder, python=None, **variables):
    """Run a program to its end."""
    with running(emulator, *arguments, folder=folder, python=python, **variables) as process:
        if process.wait(TIMEOUT):
            raise AssertionError(f"exit code {process.returncode}:\n{process.log.read_text()}")


@contextlib.contextmanager
def redis_server(*, real=False):
    """Start Redis itself, or a server of ours that speaks its protocol; yield its URL."""
    with real_redis() if real else fake_redis() as url:
        yield url


@contextlib.contextmanager
def real_redis():
    """Start Redis at a socket in a folder of its own, without a port and without files."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/redis.sock"
        options = ("--port", "0", "--unixsocket", path, "--save", "", "--dir", folder)
        with subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL) as process:
            try:
                wait_for(lambda: process.poll() is not None or listens(path), "the start of Redis")
                assert process.poll() is None, "Redis ended at once"
                yield f"unix://{path}?db=0"
            finally:
                process.kill()


def listens(path):
    """Return True if a server accepts connections at a Unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(path) == 0


@contextlib.contextmanager
def fake_redis():
    """Start a server that speaks the protocol of Redis."""
    from fakeredis import TcpFakeServer

    server = TcpFakeServer(("127.0.0.1", 0), server_type="redis")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"redis://127.0.0.1:{server.server_address[1]}/0"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def free_port():
    """Return a port that was free just now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def get(port, path=""):
    """Make a request, and return the body of the response."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=TIMEOUT) as response:
        return response.read()


def until(condition, process, what):
    """Wait until a condition holds, while the process lives."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            raise AssertionError(f"{what} never happened:\n{process.log.read_text()}")
        time.sleep(0.05)


def wait_for(condition, what):
    """Wait until a condition holds, whatever the processes do."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, f"{what} never happened"
        time.sleep(0.05)


def responds(port):
    """Return True if a server responds there."""
    try:
        return get(port) is not None
    except OSError:
        return False


def call_frozen(emulator, *, folder, calls=4):
    """Call a function that is frozen between two calls, as AWS Lambda does, and killed at last."""
    with running(emulator, str(PROGRAMS / "function.py"), folder=folder) as process:
        for n in range(calls):
            process.send_signal(signal.SIGCONT)
            process.stdin.write(f"{n}\n".encode())
            process.stdin.flush()
            until(lambda n=n: process.log.read_text().count("responded") > n, process, "a response")
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.5)


def stop(process, how=signal.SIGTERM):
    """Send a signal to a program, SIGKILL to its children too, and wait until it has ended."""
    if how == signal.SIGKILL:
        os.killpg(process.pid, how)
    else:
        process.send_signal(how)
    process.wait(TIMEOUT)


def serve(
    emulator,
    *,
    arguments,
    folder,
    requests=20,
    pause=0,
    how=signal.SIGTERM,
    python=None,
    **variables,
):
    """Start a server, make requests of several threads at once, and stop it.

    `{port}` in the arguments is replaced by a free port.
    """
    port = free_port()
    filled = [part.replace("{port}", str(port)) for part in arguments]
    with running(emulator, *filled, folder=folder, python=python, **variables) as process:
        until(lambda: responds(port), process, "a response")
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda n: get(port, str(n)), range(requests)))
        time.sleep(pause)
        stop(process, how)
