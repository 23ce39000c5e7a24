"""The scenarios: each starts a real program, stops it, and names what has to arrive.

`via` is the consumer that an event was tracked through; every program tracks the numbers from 0.
"""

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mixpanel.emulator import Emulator, Fault
from tests import peers
from tests.runtimes import kernel, servers

THREE = ("Consumer", "BufferedConsumer", "AsyncBufferedConsumer")
PROGRAMS = servers.PROGRAMS


@dataclass(frozen=True)
class Scenario:
    """A program, and how many different events have to arrive, by consumer.

    `in_suite` scenarios also run in the tests, the others with `tox run -e runtimes` alone. `lost`
    are consumers whose events are lost there, as the documentation says.
    """

    name: str
    run: Callable[..., object]  # (emulator, folder=Path)
    expected: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(THREE, 20))
    lost: tuple[str, ...] = ()
    in_suite: bool = False
    peer: str | None = "runtimes"
    program: str | None = None  # what the machine must have beside Python
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What arrived: different events by consumer, and how many arrived again."""

    arrived: Mapping[str, int]
    duplicates: int

    def is_right(self, scenario: Scenario) -> bool:
        """Return True if every event arrived once, except those that are lost there."""
        expected = {
            via: 0 if via in scenario.lost else count for via, count in scenario.expected.items()
        }
        return not self.duplicates and all(
            self.arrived.get(via, 0) == count for via, count in expected.items()
        )


def play(scenario: Scenario, folder: Path) -> Outcome:
    """Run a scenario against an emulator of its own."""
    with Emulator() as emulator:
        emulator.play(*scenario.faults)
        scenario.run(emulator, folder=folder)
        events = [event["properties"] for event in emulator.events()]
    wrong = [event for event in events if event["distinct_id"] not in ("u", f"u-{event['n']}")]
    assert not wrong, f"events have the user of another event: {wrong}"
    counts: Counter[Any] = Counter((event["via"], event["n"]) for event in events)
    return Outcome(dict(Counter(via for via, _ in counts)), counts.total() - len(counts))


def script(name: str, *arguments: str) -> Callable[..., object]:
    """Return what runs a program to its end."""
    return partial(servers.run, arguments=[str(PROGRAMS / name), *arguments])


def signalled(name: str) -> Callable[..., object]:
    """Return what runs a program that ends by SIGTERM."""

    def run(emulator: Emulator, *, folder: Path) -> None:
        with servers.running(emulator, str(PROGRAMS / name), folder=folder) as process:
            assert process.wait(servers.TIMEOUT) == -signal.SIGTERM

    return run


def gunicorn(*arguments: str, app: str = "wsgi:app") -> Callable[..., object]:
    """Return what runs two workers of gunicorn, and stops them with SIGTERM."""
    command = ["-m", "gunicorn", app, "--bind", "127.0.0.1:{port}", "--workers", "2", *arguments]
    return partial(servers.serve, arguments=command)


def celery(*arguments: str, **variables: str) -> Callable[..., object]:
    """Return what runs a Celery worker until its tasks are done, and stops it with SIGTERM."""

    def work(emulator: Emulator, *, folder: Path) -> None:
        app = str(PROGRAMS / "celery_app.py")
        servers.run(emulator, arguments=[app], folder=folder, **variables)
        quiet = ("--without-mingle", "--without-gossip", "--without-heartbeat")
        command = ("-m", "celery", "-A", "celery_app", "worker", *quiet, *arguments)
        with servers.running(emulator, *command, folder=folder, **variables) as process:
            servers.until(lambda: len(via(emulator, "Consumer")) == 20, process, "the last task")
            servers.stop(process)

    return work


RQ_WORKER = ("-m", "rq.cli", "worker", "--burst")
MIXPANEL_JOB = ("--job-class", "mixpanel.integrations.rq.MixpanelJob")


def rq(*arguments: str, real: bool = False) -> Callable[..., object]:
    """Return what runs a worker of RQ until its five jobs are done."""

    def work(emulator: Emulator, *, folder: Path) -> None:
        with servers.redis_server(real=real) as url:
            place = {"folder": folder, "python": sys.executable, "RQ_REDIS_URL": url}
            servers.run(emulator, arguments=[str(PROGRAMS / "rq_app.py"), "5"], **place)
            servers.run(emulator, arguments=[*RQ_WORKER, *arguments], **place)

    return work


def rq_stopped(worker: str, how: str) -> Callable[..., object]:
    """Return what stops a worker in the first of five jobs, and lets another one run the others.

    `how` is "warm" (SIGTERM: the worker ends after the job), "worker" (SIGKILL, which leaves the
    forked process of the job alone) or "job" (SIGKILL to that process; its worker continues).
    """

    def work(emulator: Emulator, *, folder: Path) -> None:
        command = [*RQ_WORKER, *MIXPANEL_JOB, "--worker-class", worker]
        started = folder / "started"
        with servers.redis_server(real=True) as url:
            place = {"folder": folder, "python": sys.executable, "RQ_REDIS_URL": url}
            servers.run(emulator, arguments=[str(PROGRAMS / "rq_app.py"), "5", "slow"], **place)
            with servers.running(emulator, *command, **place) as process:
                servers.until(started.exists, process, "the first job")
                if how == "job":
                    os.kill(int(started.read_text()), signal.SIGKILL)
                    assert process.wait(servers.TIMEOUT) == 0
                    return  # this worker has run the other jobs, too
                process.send_signal(signal.SIGKILL if how == "worker" else signal.SIGTERM)
                if how == "worker":
                    process.wait(servers.TIMEOUT)
                else:
                    warm = "warm shut down requested"
                    servers.until(lambda: warm in process.log.read_text().lower(), process, warm)
                (folder / "go").touch()
                servers.wait_for(
                    lambda: len(emulator.events()) >= len(THREE), "all events of the job"
                )
                assert process.wait(servers.TIMEOUT) == (-signal.SIGKILL if how == "worker" else 0)
            assert len(emulator.events()) == len(THREE), "a job began after the end of its worker"
            servers.run(emulator, arguments=command, **place)

    return work


END = {"": "no lifespan", "lifespan": "closed in the lifespan", "signal": "flush_on_signal"}
ASGI = {
    "uvicorn": ("uvicorn", "--port", "{port}", "--log-level", "warning"),
    "hypercorn": ("hypercorn", "--bind", "127.0.0.1:{port}"),
    "granian": ("granian", "--interface", "asgi", "--port", "{port}"),
    "gunicorn asgi": ("gunicorn", "-k", "asgi", "--bind", "127.0.0.1:{port}"),
    "UvicornWorker": (
        *("gunicorn", "-k", "uvicorn_worker.UvicornWorker", "--bind", "127.0.0.1:{port}"),
    ),
}
RAISES_AGAIN = ("uvicorn", "UvicornWorker")  # these end by the signal that they were sent
ASGI_IN_SUITE = [("UvicornWorker", "signal")]


def asgi(server: str, *arguments: str, end: str) -> Callable[..., object]:
    """Return what runs an ASGI server, and stops it with SIGTERM."""
    command = ["-m", server, "asgi:app", *arguments]
    return partial(servers.serve, arguments=command, END=end)


def uwsgi(*arguments: str, killed: bool = False, **variables: str) -> Callable[..., object]:
    """Return what runs uWSGI, which warns once if it runs no threads, and stops it."""
    command = ["--http-socket", "127.0.0.1:{port}", "--module", "wsgi:app", "--need-app"]

    def serve(emulator: Emulator, *, folder: Path) -> None:
        servers.serve(
            emulator,
            arguments=[*command, "--master", "--die-on-term", *arguments],
            how=signal.SIGKILL if killed else signal.SIGTERM,
            pause=0.5,  # a worker that is in a request when SIGTERM comes runs no exit hooks
            python=peers.python("uwsgi").with_name("uwsgi"),
            folder=folder,
            **variables,
        )
        warned = (folder / "log.txt").read_text().count("uWSGI runs no threads")
        assert warned == (0 if arguments else 1), "the warning came another number of times"

    return serve


IN_CELLS = {**dict.fromkeys(THREE, 20), "import": 2, "await": 3}


def spyder(emulator: Emulator, *, folder: Path) -> None:
    """Run the kernel that Spyder starts."""
    command = (peers.python("apps"), "-m", "spyder_kernels.console")
    kernel.run(emulator, folder=folder, command=command)


def app(name: str) -> Callable[..., object]:
    """Return what runs a program that has a user interface to its end."""

    def run(emulator: Emulator, *, folder: Path) -> None:
        servers.run(
            emulator, arguments=[str(PROGRAMS / name)], folder=folder, python=peers.python("apps")
        )

    return run


def via(emulator: Emulator, consumer: str) -> list[object]:
    """Return the events that were tracked through a consumer."""
    return [event for event in emulator.events() if event["properties"]["via"] == consumer]


SCENARIOS = [
    Scenario("gevent script", script("gevent_script.py"), in_suite=True),
    Scenario("gevent script, closed", script("gevent_script.py", "close")),
    Scenario("gevent script, patched late", script("gevent_script.py", "late")),
    Scenario(
        "gevent: waits, timeouts, flags",
        script("gevent_hub.py"),
        {"AsyncBufferedConsumer": 2, "import": 2},
        in_suite=True,
        faults=(Fault.latency(0.5) * 4,),
    ),
    Scenario("gevent, flush_on_signal, chained", script("gevent_signal.py", "chained")),
    Scenario("gevent, flush_on_signal", signalled("gevent_signal.py")),
    Scenario("eventlet script", script("eventlet_script.py", "close")),
    Scenario("eventlet script, patched late", script("eventlet_script.py", "late")),
    *(
        Scenario(
            f"gunicorn {worker}{preload}",
            gunicorn("-k", worker, *preload.split()),
            in_suite=(worker, preload) == ("gevent", ""),
        )
        for worker in ("sync", "gthread", "gevent")
        for preload in ("", " --preload")
    ),
    *(
        Scenario(
            f"{name}, {END[end]}",
            asgi(*command, end=end),
            lost=() if end or name not in RAISES_AGAIN else THREE[1:],
            in_suite=(name, end) in ASGI_IN_SUITE,
        )
        for name, command in ASGI.items()
        for end in END
    ),
    Scenario(
        "Jupyter kernel",
        kernel.run,
        {**IN_CELLS, "subshell": int(kernel.HAS_SUBSHELLS)},
        in_suite=True,
        peer=None,
    ),
    Scenario(
        "Jupyter kernel, %gui asyncio", partial(kernel.run, gui="asyncio"), IN_CELLS, peer=None
    ),
    Scenario("Spyder's kernel", spyder, IN_CELLS, peer="apps"),
    Scenario(
        "Textual", app("textual_app.py"), {**dict.fromkeys(THREE, 20), "await": 1}, peer="apps"
    ),
    Scenario("Streamlit", app("streamlit_app.py"), peer="apps"),
    Scenario("function, frozen between calls", servers.call_frozen, dict.fromkeys(THREE, 4)),
    Scenario("uwsgi", uwsgi(), peer="uwsgi"),
    Scenario(
        "uwsgi, no threads: sent in the request",
        uwsgi(killed=True, FLUSH_AFTER="1e-9"),
        lost=("BufferedConsumer",),
        peer="uwsgi",
    ),
    Scenario("uwsgi --enable-threads", uwsgi("--enable-threads", "--processes", "2"), peer="uwsgi"),
    Scenario("uwsgi --threads", uwsgi("--threads", "4"), peer="uwsgi"),
    Scenario("billiard process", script("billiard_script.py", "process")),
    Scenario("billiard pool", script("billiard_script.py", "pool")),
    Scenario("celery prefork", celery("-P", "prefork", "-c", "2"), in_suite=True),
    Scenario(
        "celery prefork, one task a child",
        celery("-P", "prefork", "-c", "4", "--max-tasks-per-child", "1"),
    ),
    Scenario("celery threads", celery("-P", "threads", "-c", "2")),
    Scenario("celery solo", celery("-P", "solo")),
    Scenario("celery gevent", celery("-P", "gevent", "-c", "2")),
    Scenario("celery eventlet", celery("-P", "eventlet", "-c", "2")),
    *(
        Scenario(f"celery {pool}, connect()", celery("-P", pool, "-c", "2", CONNECT="1"))
        for pool in ("prefork", "threads", "solo", "gevent", "eventlet")
    ),
    *(
        Scenario(
            f"rq {worker}, {'MixpanelJob' if job else 'plain job'}",
            rq("--worker-class", f"rq_app.{worker}", *job),
            dict.fromkeys(THREE, 5),
            lost=() if job or worker == "SimpleWorker" else THREE[1:],
            peer=None,
        )
        for worker in ("ForkingWorker", "SpawningWorker", "SimpleWorker")
        for job in (MIXPANEL_JOB, ())
    ),
    *(
        Scenario(
            f"rq {worker.rpartition('.')[2]}, {'MixpanelJob' if job else 'plain job'}, Redis",
            rq("--worker-class", worker, *job, real=True),
            dict.fromkeys(THREE, 5),
            lost=() if job or worker == "rq.SimpleWorker" else THREE[1:],
            peer=None,
            program="redis-server",
        )
        for worker in ("rq.Worker", "rq.worker.SpawnWorker", "rq.SimpleWorker")
        for job in (MIXPANEL_JOB, ())
    ),
    *(
        Scenario(
            f"rq {worker.rpartition('.')[2]}, {name}, Redis",
            rq_stopped(worker, how),
            {**dict.fromkeys(THREE, 4 if how == "job" else 5), "Consumer": 5},
            in_suite=(worker, how) in (("rq.Worker", "worker"), ("rq.Worker", "warm")),
            peer=None,
            program="redis-server",
        )
        for worker, how, name in (
            ("rq.Worker", "warm", "warm shutdown"),
            ("rq.SimpleWorker", "warm", "warm shutdown"),
            ("rq.Worker", "worker", "worker killed"),
            ("rq.Worker", "job", "job killed"),
        )
    ),
]
