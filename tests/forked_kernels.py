"""Start the kernels of notebooks by forking a process that has imported what they all import.

That saves most of the time in which a kernel starts. Each is a process of its own, and its
namespace is empty. This package is not imported: a notebook has to do that itself.
"""

import builtins
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from types import SimpleNamespace

# Before matplotlib is imported: where the kernel shows its pictures.
BACKEND = "module://matplotlib_inline.backend_inline"
MODULES = (
    "ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.zmqshell",
    "matplotlib.axes", "matplotlib.backends.backend_agg",  # not pyplot: it looks for the kernel
    "pandas", "duckdb", "httpx", "pydantic", "starlette.applications", "uvicorn",
)  # fmt: skip


class Forks:
    """The process that forks; use it as a context manager, while kernels run."""

    def __init__(self):
        self._process = None

    def __enter__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forked_kernels"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "MPLBACKEND": BACKEND},
        )
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def launch(self, command, *, cwd=None, env=None, **_):
        """Fork a kernel, as `jupyter_client.launcher.launch_kernel` starts one."""
        env = {**(env or os.environ), "JPY_PARENT_PID": str(self._process.pid)}
        request = {"arguments": command[3:], "cwd": cwd, "env": env}  # after `python -m launcher`
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        return Fork(int(self._process.stdout.readline()))


class Fork:
    """A kernel, with as much of `subprocess.Popen` as jupyter_client uses."""

    stdin = stdout = stderr = None

    def __init__(self, pid):
        self.pid, self.returncode = pid, None

    def poll(self):
        """Return None while the kernel runs, and 0 afterwards."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            self.returncode = 0
        return self.returncode

    def wait(self, timeout=None):
        """Wait until the kernel has ended."""
        end = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("kernel", timeout)
            time.sleep(0.01)
        return 0

    def send_signal(self, number):
        """Send a signal to the kernel, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def terminate(self):
        """Ask the kernel to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self):
        """End the kernel."""
        self.send_signal(signal.SIGKILL)


def main():
    """Fork a kernel for each line of standard input, and print its process id."""
    signal.signal(signal.SIGCHLD, reap)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # pandas looks for it to find out whether its tables are for a kernel or for a terminal.
    builtins.get_ipython = lambda: SimpleNamespace(kernel=None)
    for name in MODULES:
        import_module(name)
    del builtins.get_ipython
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            run(json.loads(line))
        os.setpgid(pid, pid)  # jupyter_client sends signals to the group of a kernel
        print(pid, flush=True)


def reap(*_):
    """Let the kernels that have ended leave nothing behind."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def run(request):
    """Run a kernel to its end, in the forked process."""
    from ipykernel import kernelapp

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)  # standard output belongs to `main`
    os.environ.clear()
    os.environ.update(request["env"])
    if request["cwd"]:
        os.chdir(request["cwd"])
    del sys.path[0]  # as `ipykernel_launcher` does
    try:
        kernelapp.launch_new_instance(argv=request["arguments"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
