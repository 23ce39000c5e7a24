"""A Jupyter kernel of its own, whose cells call the sync classes without `await`."""

import contextlib
import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from textwrap import dedent

from mixpanel.emulator import Fault
from tests.runtimes.servers import TIMEOUT, environment

IMPORTS = """
import asyncio, datetime, os, sqlite3
from mixpanel import *
from mixpanel.cdp import CustomerIO
from mixpanel.data import Workspace
asyncio.get_running_loop()  # a cell runs inside of a loop
today = datetime.datetime.now(datetime.UTC).date()
FROM, TO = str(today - datetime.timedelta(days=1)), str(today)
"""
CELLS = [
    IMPORTS,
    """
    for name, consumer in {
        "Consumer": Consumer(),
        "BufferedConsumer": BufferedConsumer(max_size=3),
        "AsyncBufferedConsumer": AsyncBufferedConsumer(flush_after=60),
    }.items():
        with Mixpanel("t", consumer) as mp:
            for n in range(20):
                mp.track("u", "Visit", {"n": n, "via": name})
            assert mp.flush().ok
    """,
    """
    ws = Workspace(path="workspace.db")
    ws.fetch_events("today", from_date=FROM, to_date=TO)
    assert ws.sql_scalar("SELECT count(*) FROM today") == 60
    assert "Visit" in ws.list_events()
    """,
    """
    credentials = ServiceAccountCredentials("user", "secret", "1")
    rows = sqlite3.connect(":memory:").execute("VALUES (0), (1)")  # for this thread alone
    events = ({"event": "Visit", "properties": {"n": n, "via": "import", "distinct_id": "u",
               "time": 1_700_000_000}} for n, in rows)
    with Mixpanel("t", credentials=credentials, local_flags_config=LocalFlagsConfig()) as mp:
        assert mp.import_events(events).imported == 2
        assert mp.local_flags.are_flags_ready()
    with CustomerIO("KEY", base_url=os.environ["CDP"]) as cio:
        cio.track(user_id="u", event="Visit")
        assert cio.flush().ok
    """,
    """
    # A cell that awaits runs in the loop, too, and so does what it calls.
    await asyncio.sleep(0)
    with Mixpanel("t") as mp:
        mp.track("u", "Visit", {"n": 0, "via": "await"})
    """,
]
SLOW_CELLS = [
    """
    with Mixpanel("t", BufferedConsumer()) as slow:
        slow.track("u", "Visit", {"n": 20, "via": "slow"})
        slow.flush(timeout=None)
    """,
    """
    ws.fetch_events("slow", from_date=FROM, to_date=TO)
    """,
]


HAS_SUBSHELLS = int(version("ipykernel").partition(".")[0]) >= 7
SUBSHELL_CELL = """
with Mixpanel("t") as mp:
    mp.track("u", "Visit", {"n": 0, "via": "subshell"})
    assert mp.flush().ok
"""


def run(emulator, *, folder, command=None, gui=None):
    """Run all cells, and press the interrupt button during each of the slow ones.

    `command` starts another kernel than IPython's; `gui` is the event loop that runs beside it.
    """
    _in_thread(lambda: _run(emulator, folder, command, gui))


def _in_thread(work):
    """Run work in a thread of its own, and close the event loop that Jupyter leaves there."""
    from jupyter_core.utils import ensure_event_loop

    def work_and_close():
        try:
            work()
        finally:
            ensure_event_loop().close()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(work_and_close).result()


def _run(emulator, folder, command, gui):
    with started(emulator, folder, command) as kernel:
        if gui is not None:
            kernel.execute(f"%gui {gui}")
        for cell in CELLS:
            kernel.execute(dedent(cell))
        if command is None and HAS_SUBSHELLS:
            kernel.execute_in_subshell(SUBSHELL_CELL)
        for cell in SLOW_CELLS:
            emulator.play(Fault.latency(20))
            before = len(emulator.requests())
            button = kernel.interrupt_when(lambda before=before: len(emulator.requests()) > before)
            kernel.execute(dedent(cell), raises="KeyboardInterrupt")
            button.join()
            kernel.execute(
                dedent(CELLS[-1]).replace('"n": 0', f'"n": {SLOW_CELLS.index(cell) + 1}')
            )


class Kernel:
    """A kernel that is running, and what it printed."""

    def __init__(self, manager, client):
        self._manager, self._client = manager, client

    def execute(self, source, raises=None):
        """Run a cell, which must succeed or raise an error of this name."""
        printed = []

        def hook(message):
            content = message["content"]
            printed.append(content.get("text") or "\n".join(content.get("traceback", [])))

        reply = self._client.execute_interactive(source, timeout=TIMEOUT, output_hook=hook)
        assert reply["content"].get("ename") == raises, source + "\n".join(printed)

    def execute_in_subshell(self, source):
        """Run a cell, which must succeed, in a thread of the kernel beside the main one."""
        client = self._client
        client.control_channel.send(client.session.msg("create_subshell_request"))
        created = client.control_channel.get_msg(timeout=TIMEOUT)
        content = {"code": source, "silent": False, "stop_on_error": True}
        message = client.session.msg("execute_request", content)
        message["header"]["subshell_id"] = created["content"]["subshell_id"]
        client.shell_channel.send(message)
        reply = {"parent_header": {}}
        while reply["parent_header"].get("msg_id") != message["header"]["msg_id"]:
            reply = client.get_shell_msg(timeout=TIMEOUT)
        assert reply["content"]["status"] == "ok", reply["content"]

    def interrupt_when(self, condition):
        """Press the interrupt button as soon as a condition holds."""

        def wait():
            end = time.monotonic() + TIMEOUT
            while not condition() and time.monotonic() < end:
                time.sleep(0.05)
            _in_thread(self._manager.interrupt_kernel)

        thread = threading.Thread(target=wait)
        thread.start()
        return thread


@contextlib.contextmanager
def started(emulator, folder, command=None):
    """Start a kernel in a folder."""
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import KernelManager

    with tempfile.TemporaryDirectory(dir="/tmp" if os.name == "posix" else None) as short:
        manager = KernelManager(kernel_name="python3")
        if command is not None:
            arguments = [str(part) for part in (*command, "-f", "{connection_file}")]
            manager._kernel_spec = KernelSpec(argv=arguments, language="python")
        if os.name == "posix":  # sockets in files: no port that another program could take
            manager.transport = "ipc"
            manager.connection_file = str(Path(short, "k.json"))
        variables = environment(
            emulator,
            CDP=emulator.customerio_url,
            IPYTHONDIR=short,
            JUPYTER_RUNTIME_DIR=short,
            MP_USERNAME="user",
            MP_SECRET="secret",
            MP_PROJECT_ID="1",
        )
        manager.start_kernel(
            cwd=str(folder), env=variables, extra_arguments=["--HistoryManager.enabled=False"]
        )
        client = manager.blocking_client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=TIMEOUT)
            yield Kernel(manager, client)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
            manager.cleanup_resources()
