"""Change the delivery code, one mutant at a time, and count those that no test notices.

    python -m tests.faults.mutation                      every mutant of every module
    python -m tests.faults.mutation retry buffer         of these modules
    python -m tests.faults.mutation --sample 100         of a random part of each module
    python -m tests.faults.mutation --survivors          of those that survived, against more tests
    python -m tests.faults.mutation buffer --function Buffer.put

It writes the score to `mutation.json`, where each surviving mutant has its verdict: `equivalent`
says why no test could notice it.

pytest starts and collects once. Each mutant is a fork of that process: it replaces the code of one
function in place (also of decorated ones, generators and methods), and runs the tests that reach
this function, the fastest first, until one fails. So a mutant costs what its tests cost, and not
the seconds that an interpreter takes to import and collect them. A failing test must fail twice.
"""

import argparse
import gc
import importlib
import inspect
import json
import os
import random
import select
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import CodeType, FunctionType
from typing import NamedTuple

if __name__ == "__main__":
    os.environ["HYPOTHESIS_PROFILE"] = "mutation"

import pytest

from tests.faults.mutants import Mutant, marked_codes, mutants_of, mutated_code

ROOT = Path(__file__).parents[2]
RESULT = Path(__file__).with_name("mutation.json")
PACKAGE = "mixpanel._delivery"
SPOOL = ("blocks", "folder", "maintenance", "options", "spooled_buffer", "store", "writer")
MODULES = {
    **{name: f"{PACKAGE}.{name}" for name in ("retry", "buffer", "sender")},
    **{f"spool/{name}": f"{PACKAGE}.spool.{name}" for name in SPOOL},
}
DELIVERY = tuple(f"tests/delivery/test_{name}.py" for name in ("sender", "failures", "buffer"))
SPOOL_MODEL = "tests/delivery/test_spool_model.py"
STATE_MACHINE = "tests/faults/test_state_machine.py"
SPOOL_TESTS = tuple(
    f"tests/delivery/test_spool_{name}.py" for name in ("store", "folder", "edges", "writer")
)
TESTS = {
    "retry": ("tests/delivery/test_retry.py", "tests/delivery/test_retry_edges.py"),
    "buffer": ("tests/delivery/test_buffer.py", "tests/delivery/test_buffer_edges.py"),
    "sender": ("tests/delivery/test_sender_edges.py", *DELIVERY[:2]),
    "spool": SPOOL_TESTS,
    "spool/maintenance": (
        "tests/delivery/test_spool_maintenance.py",
        "tests/cli/test_spool.py",
    ),
}
# For those that survive these. Their tests go through a client, and are slower.
WIDER = {
    "retry": ("tests/delivery/test_attention.py", *DELIVERY),
    "buffer": ("tests/delivery/test_attention.py", *DELIVERY[:2], STATE_MACHINE),
    "sender": (STATE_MACHINE,),
    "spool": (
        SPOOL_MODEL,
        "tests/delivery/test_spool.py",
        "tests/cli/test_spool.py",
        STATE_MACHINE,
    ),
}
SLOWEST = 6.0  # seconds of the processor for one test; what takes longer is left out
BUDGET = 8.0  # seconds that pass in all tests of one mutant, the fastest first
WIDER_BUDGET = 30.0
PROCESSES = 2


class Job(NamedTuple):
    """A mutant and its module."""

    module: str
    mutant: Mutant


class Child(NamedTuple):
    """A fork that runs tests against a mutant."""

    pid: int
    end: float
    job: Job
    tests: list[int]
    again: bool  # runs only what failed, to see it fail twice


class Code:
    """The modules whose functions are replaced."""

    def __init__(self, modules: list[str]) -> None:
        for name in modules:  # no test may have imported it yet
            importlib.import_module(MODULES[name])
        gc.unfreeze()
        everything = [each for each in gc.get_objects() if isinstance(each, FunctionType)]
        self.sources: dict[str, tuple[str, str]] = {}
        self.functions: dict[tuple[str, tuple[str, int]], list[FunctionType]] = defaultdict(list)
        for name in modules:
            module = importlib.import_module(MODULES[name])
            file = inspect.getsourcefile(module)
            assert file is not None
            source = Path(file).read_text(encoding="utf-8")
            self.sources[name] = source, file
            for each in everything:
                code = each.__code__
                key = (code.co_qualname, code.co_firstlineno)
                if code.co_filename == file and "<lambda>" not in code.co_qualname:
                    self.functions[name, key].append(each)
        del everything
        gc.collect()
        gc.freeze()  # else each fork copies and walks all of it

    def mutants(self) -> list[Job]:
        return [Job(name, each) for name in self.sources for each in self._mutants(name)]

    def _mutants(self, name: str) -> list[Mutant]:
        return mutants_of(self.sources[name][0])

    def mark(self, reached: set[tuple[str, str]]) -> None:
        """Let each function say that it was reached."""
        for name, (source, file) in self.sources.items():
            module = importlib.import_module(MODULES[name])
            vars(module)["_reached"] = lambda key, name=name: reached.add((name, key[0]))
            for code in marked_codes(source, file).values():
                self._replace(name, code)

    def apply(self, job: Job) -> None:
        """Replace the code of the mutant's function."""
        source, file = self.sources[job.module]
        self._replace(job.module, mutated_code(source, file, job.mutant))

    def _replace(self, name: str, code: CodeType) -> None:
        for each in _with_inner(code):  # an inner one may be in use, as the wrapper of a decorator
            for function in self.functions[name, (each.co_qualname, each.co_firstlineno)]:
                if function.__code__.co_freevars == each.co_freevars:
                    function.__code__ = each


class Runner:
    """A plugin of pytest that runs the collected tests in forks, once for each mutant."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.killers: Counter[tuple[str, str, int]] = Counter()
        self.finished = False
        self.fates: dict[Job, str] = {}
        self.doubted: defaultdict[Job, set[int]] = defaultdict(set)  # tests that failed only once
        self.costs: list[float] = []  # seconds of the processor
        self.waits: list[float] = []  # seconds that pass
        self.reached: dict[tuple[str, str], list[int]] = defaultdict(list)
        self.started = time.monotonic()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.session = session
        self.items = [each for each in session.items if _on_asyncio(each)]
        self.code = Code(self.options.modules or list(MODULES))
        self._measure()
        print(f"measured the tests after {time.monotonic() - self.started:.0f} s", flush=True)
        jobs = self._jobs()
        print(f"{len(jobs)} mutants, {len(self.items)} tests", flush=True)
        running: dict[int, Child] = {}
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
        try:
            self._run(jobs, running)
            self.finished = True
        finally:
            for child in running.values():
                os.killpg(child.pid, signal.SIGKILL)
        return True

    def _jobs(self) -> list[Job]:
        jobs = self.code.mutants()
        self.all = Counter(each.module for each in jobs)
        if self.options.function:
            jobs = [each for each in jobs if each.mutant.function == self.options.function]
        if self.options.survivors:
            known = survivors()
            jobs = [each for each in jobs if (each.module, *_name(each)) in known]
        chance = random.Random(self.options.seed)
        chance.shuffle(jobs)  # `--until` leaves a random part
        jobs.sort(key=lambda each: list(MODULES).index(each.module))
        if self.options.sample:
            parts = defaultdict(list)
            for each in jobs:
                parts[each.module].append(each)
            jobs = [job for part in parts.values() for job in part[: self.options.sample]]
        return jobs

    # ---- which tests ----------------------------------------------------------------------------

    def _measure(self) -> None:
        """Run all tests once, in a fork, to see what they reach and cost."""
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(read)
            self._begin_child()
            reached: set[tuple[str, str]] = set()
            self.code.mark(reached)
            with os.fdopen(write, "w") as out:
                for index, item in enumerate(self.items):
                    reached.clear()
                    before, start = self.session.testsfailed, _clocks()
                    after = self.items[index + 1 : index + 2]
                    self._run_item(item, after[0] if after else None)
                    cost = [now - then for now, then in zip(_clocks(), start, strict=True)]
                    passed = self.session.testsfailed == before
                    row = [index, *cost, passed, sorted(reached)]
                    print(json.dumps(row), file=out, flush=True)
            os._exit(0)
        os.close(write)
        self.costs = [0.0] * len(self.items)
        self.waits = [0.0] * len(self.items)
        with os.fdopen(read) as rows:
            for row in rows:
                index, cost, waited, passed, reached_here = json.loads(row)
                self.costs[index], self.waits[index] = cost, waited
                if not passed:
                    print("left out, since it fails:", self.items[index].nodeid, flush=True)
                elif cost > SLOWEST:
                    print(f"left out, {cost:.1f} s:", self.items[index].nodeid, flush=True)
                else:
                    for module, function in reached_here:
                        self.reached[module, function].append(index)
        os.waitpid(pid, 0)

    def _tests_of(self, job: Job) -> list[int]:
        found = self.reached.get((job.module, job.mutant.function), [])
        # Those that killed another mutant of this function are likely to kill this one.
        key = job.module, job.mutant.function
        found = sorted(found, key=lambda at: self.waits[at] / (1 + 20 * self.killers[(*key, at)]))
        chosen, spent = [], 0.0
        for each in found:
            spent += self.waits[each]
            if chosen and spent > (WIDER_BUDGET if self.options.survivors else BUDGET):
                break
            chosen.append(each)
        return chosen

    # ---- forks ----------------------------------------------------------------------------------

    def _run(self, jobs: list[Job], running: dict[int, Child]) -> None:
        waiting = list(reversed(jobs))
        last = time.monotonic()
        while waiting or running:
            late = self.options.until and datetime.now().strftime("%H:%M") >= self.options.until
            if late:
                waiting.clear()
            while waiting and len(running) < PROCESSES:
                job = waiting.pop()
                tests = self._tests_of(job)
                if tests:
                    self._start(running, job, tests, again=False)
                else:
                    self.fates[job] = "survived"
            self._collect(running)
            if time.monotonic() - last > 30:
                last = time.monotonic()
                count = Counter(self.fates.values())
                print(f"{last - self.started:.0f} s: {dict(count)}", flush=True)

    def _start(self, running: dict[int, Child], job: Job, tests: list[int], *, again: bool) -> None:
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(read)
            self._begin_child()
            self.code.apply(job)
            for place, at in enumerate(tests):
                before = tests[place + 1] if place + 1 < len(tests) else None
                self._run_item(self.items[at], None if before is None else self.items[before])
                if self.session.testsfailed:
                    os.write(write, str(at).encode())
                    os._exit(1)
            os._exit(0)
        os.close(write)
        limit = 20 + 5 * sum(self.waits[at] for at in tests)
        running[read] = Child(pid, time.monotonic() + limit, job, tests, again)

    def _collect(self, running: dict[int, Child]) -> None:
        ready, _, _ = select.select(list(running), [], [], 0.5)
        for read, child in list(running.items()):
            late = time.monotonic() > child.end
            if read not in ready and not late:
                continue
            text = b"" if late else os.read(read, 100)
            # It leads a group of its own, with the processes that its tests started.
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            _, status = os.waitpid(child.pid, 0)
            os.close(read)
            del running[read]
            if late:
                self.fates[child.job] = "timeout"
            elif text:
                at = int(text)
                if child.again:
                    self.fates[child.job] = "killed"
                    key = child.job.module, child.job.mutant.function, at
                    self.killers[key] += 1
                else:
                    self._start(running, child.job, [at], again=True)
            elif os.waitstatus_to_exitcode(status) not in (0, -signal.SIGKILL):
                self.fates[child.job] = "killed"  # the process crashed
            elif child.again:  # it failed once, but not alone: the machine was busy
                doubted = self.doubted[child.job]
                doubted.update(child.tests)
                rest = [at for at in self._tests_of(child.job) if at not in doubted]
                if rest:
                    self._start(running, child.job, rest, again=False)
                else:
                    self.fates[child.job] = "survived"
            else:
                self.fates[child.job] = "survived"
                if self.options.verbose:
                    print(child.job.module, *child.job.mutant[1:], sep=" | ", flush=True)

    def _begin_child(self) -> None:
        os.setpgid(0, 0)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        self.session.testsfailed = 0

    def _run_item(self, item: pytest.Item, after: pytest.Item | None) -> None:
        item.ihook.pytest_runtest_protocol(item=item, nextitem=after)


def _with_inner(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _with_inner(each)


def _clocks() -> tuple[float, float]:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system, time.monotonic()


def tests_of(module: str, *, wider: bool) -> tuple[str, ...]:
    """Return the files whose tests are run against mutants of a module."""
    family = module.partition("/")[0]
    first = TESTS.get(module) or TESTS[family]
    return (*first, *WIDER[family]) if wider else first


def _on_asyncio(item: pytest.Item) -> bool:
    """Return True unless a test repeats another one on uvloop or trio."""
    spec = getattr(item, "callspec", None)
    backend = spec.params.get("anyio_backend") if spec else None
    return backend is None or backend == ("asyncio", {"use_uvloop": False})


# ---- the result ---------------------------------------------------------------------------------


def _name(job: Job) -> tuple[str, str]:
    return job.mutant.function, job.mutant.change


def survivors() -> dict[tuple[str, str, str], dict[str, str]]:
    """Return the mutants that survived the last run, by module, function and change."""
    if not RESULT.exists():
        return {}
    modules = json.loads(RESULT.read_text(encoding="utf-8"))["modules"]
    return {
        (name, each["function"], each["change"]): each
        for name, module in modules.items()
        for each in module["survivors"]
    }


def result_of(
    fates: dict[Job, str], total: Counter[str], options: argparse.Namespace
) -> dict[str, object]:
    """Return what `mutation.json` holds: the counts of each module, and its survivors."""
    old = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {"modules": {}}
    known = survivors()
    modules = dict(old["modules"])
    for name in dict.fromkeys(job.module for job in fates):
        mine = {job: fate for job, fate in fates.items() if job.module == name}
        left = []
        ran = {_name(job) for job in mine}
        if options.survivors:  # those that `--until` left out
            left = [
                each
                for each in modules[name]["survivors"]
                if (each["function"], each["change"]) not in ran
            ]
        for job, fate in mine.items():
            if fate == "survived":
                function, change = _name(job)
                verdict = known.get((name, function, change), {}).get("equivalent", "")
                row = {"function": function, "line": job.mutant.line, "change": change}
                left.append({**row, "equivalent": verdict} if verdict else row)
        count = Counter(mine.values())
        module = {
            "mutants": len(mine),
            "killed": count["killed"],
            "timeout": count["timeout"],
            "survived": len(left),
            "equivalent": sum("equivalent" in each for each in left),
            "of": total[name],  # more than `mutants`: a random part was run
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "command": f"python -m tests.faults.mutation {name}"
            + (f" --sample {options.sample} --seed {options.seed}" if options.sample else ""),
            "survivors": left,
        }
        if options.survivors and name in modules:
            module = _updated(modules[name], mine, left)
        modules[name] = module
    return {"modules": {name: modules[name] for name in MODULES if name in modules}}


def _updated(before: dict, mine: dict[Job, str], left: list[dict]) -> dict:
    """Return the counts of a module after only its survivors ran again."""
    count = Counter(mine.values())
    killed, late = before["killed"] + count["killed"], before["timeout"] + count["timeout"]
    return before | {
        "killed": killed,
        "timeout": late,
        "survived": len(left),
        "equivalent": sum("equivalent" in each for each in left),
        "mutants": killed + late + len(left),
        "survivors": left,
    }


def score(module: dict) -> float:
    """Return the part of the mutants that tests notice, of those that a test could notice."""
    return (module["killed"] + module["timeout"]) / max(1, module["mutants"] - module["equivalent"])


def table(modules: dict[str, dict]) -> str:
    """Return the score of each module as text."""
    lines = ["module                mutants     of  killed  timeout  survived  equivalent   score"]
    for name, each in modules.items():
        mutants, killed, late = each["mutants"], each["killed"], each["timeout"]
        lines.append(
            f"{name:<20} {mutants:>8} {each['of']:>6} {killed:>7} {late:>8} "
            f"{each['survived']:>9} {each['equivalent']:>11} {score(each):>7.1%}"
        )
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Run the mutants, write `mutation.json` and print the score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=", ".join(MODULES))
    parser.add_argument("--sample", type=int, default=0, help="mutants of each module; 0: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--function", help="only the mutants of this function")
    parser.add_argument("--survivors", action="store_true", help="only those that survived before")
    parser.add_argument("--until", help="start no mutant after this time, HH:MM")
    parser.add_argument("--verbose", action="store_true", help="print each survivor")
    parser.add_argument("--print", action="store_true", help="only print the last score")
    options = parser.parse_args(arguments)
    if unknown := set(options.modules) - set(MODULES):
        parser.error(f"unknown module: {', '.join(sorted(unknown))}")
    if not options.print:
        runner = Runner(options)
        plain = ["-s", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist"]
        files = dict.fromkeys(
            file
            for name in options.modules or MODULES
            for file in tests_of(name, wider=options.survivors)
        )
        pytest.main([*plain, *files], plugins=[runner])
        if options.function or not runner.finished:
            return
        content = result_of(runner.fates, runner.all, options)
        RESULT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(table(json.loads(RESULT.read_text(encoding="utf-8"))["modules"]))


if __name__ == "__main__":
    main(sys.argv[1:])
