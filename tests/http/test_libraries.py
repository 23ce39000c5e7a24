"""httpx and httpcore are loaded in a thread, while other threads load what these load too."""

import subprocess
import sys

import pytest

LOADS = {
    "transport of async clients": "import mixpanel._http.async_transport",
    "transport of sync clients": "import mixpanel._http.sync_transport",
}
USES = {
    "anyio.run": "anyio.run(in_worker_thread, backend='trio')",
    "import trio": "import trio; trio.run(in_worker_thread)",
}
# trio's `__init__` begins in one thread, and ends when the other has begun to import it as well.
PROGRAM = """
import importlib.machinery, sys, threading, time
import anyio

BEGUN, IMPORTED_TWICE = threading.Event(), threading.Event()


class SlowTrio:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "trio":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def execute_slowly(module):
            BEGUN.set()
            IMPORTED_TWICE.wait(20)
            time.sleep(0.3)
            execute(module)

        spec.loader.exec_module = execute_slowly
        return spec


sys.meta_path.insert(0, SlowTrio)


def load():
    {load}


async def in_worker_thread():
    await anyio.to_thread.run_sync(lambda: None)


thread = threading.Thread(target=load)
thread.start()
assert BEGUN.wait(20)
IMPORTED_TWICE.set()
{use}
thread.join()
import httpcore._synchronization
assert httpcore._synchronization.trio is sys.modules["trio"]
"""


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("load", LOADS)
def test_trio_can_be_started_while_the_package_loads_httpcore_in_a_thread(load, use):
    pytest.importorskip("trio")
    program = PROGRAM.format(load=LOADS[load], use=USES[use])
    ended = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
