"""Run the fault matrix, store what was measured, and write `docs/fault-matrix.md` from it.

python -m tests.faults.page run                all rows in their short form, about 20 minutes
python -m tests.faults.page run R1 R12         some, with all variants
python -m tests.faults.page run --long         in full, some hours
python -m tests.faults.page write              the page, from `tests/faults/figures.json`
python -m tests.faults.page check              whether the page is what `write` would write

Each row has a command. `run` stores its figures, date and exact form; a row that was not run in the
form that is now defined is named by `check`. `TOX_WORK_DIR` is where the peers' environments are.
"""

import argparse
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[2]
FIGURES = Path(__file__).with_name("figures.json")
MUTATION = Path(__file__).with_name("mutation.json")
PAGE = ROOT / "docs" / "fault-matrix.md"
LIMIT = 3 * 3600  # seconds of one command
ONE = re.compile(r"(?<![\d,.])1 (call|test)s\b")


# ---- what is read from the output of a command ---------------------------------------------------


def passed(output):
    """Return how many tests passed."""
    found = re.findall(r"\d+ (?:passed|failed|error\w*|skipped)", output)
    return ", ".join(found[:4]).replace(" passed", " tests passed")


def last(pattern):
    """Return a reader of the last line that matches a pattern: its first group, or all of it."""

    def read(output):
        found = re.findall(pattern, output, re.MULTILINE)
        return " ".join(found[-1].split()) if found else ""

    return read


def lines_of(*names):
    """Return a reader of `name   figure` lines: "figure name" for each."""

    def read(output):
        found = []
        for name in names:
            pattern = rf"^ +{re.escape(name)}(?: \([^)]*\))?  +([\d,]+)"
            found += [f"{figure} {name}" for figure in re.findall(pattern, output, re.MULTILINE)]
        return "; ".join(found)

    return read


def after(name):
    """Return a reader of what follows a scenario's name and "ok:"."""

    def read(output):
        found = re.search(rf"^{re.escape(name)}: (.*)$", output, re.MULTILINE)
        return "" if found is None else found[1].removeprefix("ok: ")

    return read


def kills(output):
    """Return the figures of `tests.faults.kills`."""
    count = re.search(r"(\d+) kills in", output)
    checks = re.search(r"integrity checks +([\d,]+) ok, (\d+) damaged", output)
    names = ("acknowledged", "acknowledged and lost", "copies under another key",
             "$add applied twice")  # fmt: skip
    if count is None or checks is None:
        return ""
    return (
        f"{count[1]} kills: {lines_of(*names)(output)}; {checks[1]} integrity checks ok, "
        f"{checks[2]} damaged"
    )


def power(durability):
    def read(output):
        part = output.partition(f'durability="{durability}": ')[2].partition("\ndurability")[0]
        head = re.match(r"(\d+) power failures, (\d+) of them", part)
        if head is None:
            return ""
        names = (
            "acknowledged before", "of these lost", "copies under another key",
            "$add applied twice", "integrity checks", "damaged",
        )  # fmt: skip
        return f"{head[1]} power failures, {head[2]} with loss: {lines_of(*names)(part)}"

    return read


def benchmark():
    """Return a reader of the benchmark's rows: label, figure and unit of each result."""

    def read(output):
        found = []
        for line in output.splitlines():
            match = re.match(r"    (\S.*?)  +([\d.,]+) (\S+) +median", line)
            if match:
                notes = re.findall(r"   ([\w ]+: [\d.,]+)", line)
                found.append(f"{match[1]} {match[2]} {match[3]}" + "".join(f", {n}" for n in notes))
        return "; ".join(found)

    return read


def flat(output):
    """Return the growth of everything that was counted."""
    rows = re.findall(r"^(.*?) +(ok|FAILED)  (.*)$", output, re.MULTILINE)
    return "; ".join(f"{name}: {what}" for name, _, what in rows)


# ---- the rows -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A fault, what is promised about it, and the command that shows it.

    `short` is what `run` runs by default, where `command` takes long.
    """

    id: str
    fault: str
    promise: str
    command: str
    read: Callable[[str], str] = passed
    short: str = ""

    @property
    def usual(self):
        return self.short or self.command


KILLS = "python -m tests.faults.kills --count"
POWER = "python -m tests.faults.power --count"
DISKS = "python -m tests.faults.disks --count"
DEGRADES = (
    "messages are delivered from memory, `on_error` is called once, `health()` shows it, "
    "`commit()` raises; the spool is used again when the disk works"
)
DAMAGED = (
    "no exception, no changed message is sent; damaged blocks are counted as dropped. What follows "
    "damage in the WAL is not committed to SQLite, and cannot be counted"
)
CUT = (
    "no exception; the file is set aside where pages are missing. A database that was cut to "
    "nothing is an empty one"
)
WIRE = r"\d+ combinations and \d+ further.*"
FURTHER = r"combinations and (\d+ further scenarios.*)"

SECTIONS = {
    "Processes and power": [
        Row(
            "R1", "`kill -9` at random times and at twelve steps from enqueueing to removal, while "
            "the server fails",
            "no acknowledged message is lost, none has a second key, no `$add` is applied twice, "
            "each file passes `PRAGMA integrity_check`",
            f"{KILLS} 500", kills, f"{KILLS} 100",
        ),
        Row(
            "R1 power", 'the power fails, `durability="power"`: each cut leaves what was synced, '
            "and a random part, down to 512 bytes, of what was not",
            "no acknowledged message is lost, no `$add` is applied twice, all files are intact",
            f"{POWER} 500", power("power"), f"{POWER} 100",
        ),
        Row(
            "R1 process", 'the same with `durability="process"`',
            "all files are intact; what was committed since SQLite last synced may be lost, and a "
            "`$add` may be applied twice",
            f"{POWER} 500", power("process"), f"{POWER} 100",
        ),
        Row(
            "R2", "`fork`: with messages in the buffer, during a request, with locks held, with an "
            "open spool",
            "each message arrives once; no child hangs",
            "pytest tests/runtime/test_fork.py tests/runtime/test_lifecycle.py "
            "tests/delivery/test_spool.py -k fork",
        ),
        Row(
            "R2 threads", "`fork` soon after another thread's first message",
            "the same", "python -m tests.faults --scenario forks", last(FURTHER),
            "python -m tests.faults --scenario forks --quick",
        ),
        Row(
            "R11", "the end of a process: exit, SIGTERM, `sys.exit` in a thread, `aclose(5)` with "
            "a server that works, drips, is silent or fails",
            "`aclose(5)` returns within 5.25 s, exit within 2.5 s; what is left is in the spool, "
            "or counted",
            'pytest tests/runtime/test_lifecycle.py tests/runtime/test_process_end.py -k '
            '"in_time or exit or sigterm or end_of_a_process"',
        ),
        Row(
            "clock", "a clock in 1970, in the future, or that jumps",
            "no message expires because of it",
            "pytest tests/delivery/test_spool.py -k clock",
        ),
    ],
    "Disks": [
        Row(
            f"R12 {key}", fault, promise, f"{DISKS} 500", after(name), f"{DISKS} 100",
        )
        for key, fault, name, promise in [
            ("limit", "the kernel refuses to let the file grow (`RLIMIT_FSIZE`)",
             "RLIMIT_FSIZE: the kernel refuses to let the file grow",
             DEGRADES),
            ("full", "a small tmpfs is full", "no space: a small tmpfs is full", "the same"),
            ("ENOSPC", "each write fails with `ENOSPC`",
             "no space: every call fails with ENOSPC", "the same"),
            ("EDQUOT", "the user's quota is used up", "quota: every call fails with EDQUOT",
             "the same"),
            ("EIO", "I/O errors", "I/O errors: every call fails with EIO", "the same"),
            ("EROFS", "the file system becomes read-only",
             "read-only: every call fails with EROFS", "the same"),
            ("read-only", "the file system is read-only when the program starts",
             "read-only: the file system is, when the process starts", "the same"),
            ("single", "`ENOSPC` or `EIO` at one call only, for each call of a program's life",
             "no space or I/O error: one call fails, for each call",
             "no exception; messages of an earlier process and new ones arrive"),
            ("slow", "a disk whose syncs take 0.3 s", "slow disk: each sync takes 0.3 s",
             "`track` does not wait for it, `commit()` does; nothing is lost"),
            ("bytes", "one bit of a file is changed", "damaged: one byte of a file is changed",
             DAMAGED),
            ("cut", "a file is cut at each page", "damaged: a file is cut at each page",
             CUT),
        ]
    ]
    + [
        Row(
            "R12 folder", "the file is deleted while in use; the folder is a link, of another "
            "user, writable by others, on NFS or SMB, or of a newer version",
            "a new file is started with what memory holds; unsafe folders are refused at "
            "construction",
            "pytest tests/delivery/test_spool.py tests/delivery/test_spool_folder.py -k "
            '"deleted or refused or folder"',
        ),
    ],
    "Network": [
        Row(
            "R3", "every kind of fault on the wire, on every endpoint, event loop and client: "
            "connections that break, stall or drip, malformed responses, statuses from 000 to 999",
            "each message has one outcome; no `$add` is applied twice; the next message arrives",
            "python -m tests.faults", last(WIRE), "python -m tests.faults --quick",
        ),
        Row(
            "R3 proxy", "a proxy cuts each connection after some bytes, or passes bytes slowly",
            "all messages arrive, each with one key",
            "pytest tests/faults/test_matrix.py -k cut",
        ),
        Row(
            "R3 slow", "a slow server: responses that come late, stall or drip",
            "each attempt ends in time; each message has one outcome",
            "python -m tests.faults --kind stall", last(WIRE),
            "python -m tests.faults --kind stall --quick",
        ),
        Row(
            "R10", "an outage that leaves a million messages in the spool, and the next start",
            "all are delivered; the start reads counts instead of messages",
            "python -m tests.benchmarks backlog", benchmark(),
        ),
        Row(
            "R10 order", "an outage, with waiting and full buffers",
            "nothing is lost within the limits, and what is beyond them is counted",
            'pytest tests/delivery/test_failures.py tests/cdp/test_clients.py '
            'tests/cdp/test_defects.py -k "outage or space"',
        ),
    ],
    "Calls and values": [
        Row(
            "R4", "cancellation: sweeps over all tasks, calls cancelled twice, flushes cancelled "
            "at any time",
            "no accepted message is lost, no task is left behind",
            "python -m tests.faults --scenario cancel", last(FURTHER),
            "python -m tests.faults --scenario cancel --quick",
        ),
        Row(
            "R5", "any order of calls, faults and flushes, on a clock that jumps",
            "counts always add up; each message has one outcome",
            "tox run -e thorough -- tests/faults/test_state_machine.py",
            passed,
            "pytest tests/faults/test_state_machine.py -k schedules",
        ),
        Row(
            "R5 spool", "any order of calls, kills and restarts, with a disk that fails",
            "counts always add up; what was committed is settled or still there",
            "tox run -e thorough -- tests/delivery/test_spool_model.py",
            passed,
            "pytest tests/delivery/test_spool_model.py",
        ),
        Row(
            "R6", "hostile values: cycles, depth, surrogates, NaN, objects that raise",
            "strict JSON is sent, or a documented error raised",
            "tox run -e thorough -- tests/records/test_json_encoding.py "
            "tests/clients/test_hostile_calls.py",
            passed,
            "pytest tests/records/test_json_encoding.py tests/clients/test_hostile_calls.py",
        ),
        Row(
            "R7", "hostile responses: statuses, headers, `Retry-After` and bodies",
            "exactly one outcome per message, waits between 0 and 300 s",
            "tox run -e thorough -- tests/delivery/test_retry.py", passed,
            "pytest tests/delivery/test_retry.py",
        ),
        Row(
            "R14", "threads track under faults",
            "each message has one outcome",
            "python -m tests.faults --scenario threads", last(FURTHER),
            "python -m tests.faults --scenario threads --quick",
        ),
        Row(
            "R16", "secrets in errors, logs, objects and files",
            "none is shown", "pytest tests/clients/test_canaries.py",
        ),
        Row(
            "R17", "hostile hosts, settings, certificates and folders",
            "refused, with the reason",
            "pytest tests/clients/test_hostile_settings.py tests/http/test_certificates.py "
            "tests/runtime/test_planted_files.py",
        ),
        Row(
            "R18", "sync and async, asyncio and trio, and the official client, side by side",
            "the same calls send the same messages",
            "pytest tests/clients/test_faces.py tests/cdp/test_parity.py tests/official",
        ),
    ],
    "Long runs": [
        Row(
            "R8", "10,000 events a second from memory",
            "no loss, memory stays flat and below 120 MB",
            "python -m tests.benchmarks memory --long", benchmark(),
            "python -m tests.benchmarks memory",
        ),
        Row(
            "R9", "5,000 events a second through the spool",
            "99 % of `track` calls return within 200 us",
            "python -m tests.benchmarks track_latency", benchmark(),
        ),
        Row(
            "R9 soak", "10,000 events a second from memory, then 5,000 through the spool, for long",
            "nothing is dropped, memory stays flat, and 99 % of the event loop's wake-ups are at "
            "most 10 ms late",
            "python -m tests.benchmarks soak --seconds 600", benchmark(),
            "python -m tests.benchmarks soak",
        ),
        Row(
            "R13", "clients are opened and closed, and buffers flushed, thousands of times",
            "descriptors, threads, tasks and memory are as before",
            "python -m tests.faults.leaks --clients 10000 --flushes 100000", flat,
            "python -m tests.faults.leaks",
        ),
    ],
}  # fmt: skip
LOSS = Row(
    "others", "", "", "python -m tests.faults.loss --kills 20", str,
    "python -m tests.faults.loss --kills 5",
)  # fmt: skip
ROWS = [row for rows in SECTIONS.values() for row in rows]


# ---- running ------------------------------------------------------------------------------------


def arguments(command):
    """Return a command of a row as arguments, with this interpreter."""
    program, *rest = shlex.split(command)
    if program == "pytest":
        return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *rest]
    if program == "tox":
        return [sys.executable, "-m", "tox", *rest]
    assert program == "python", command
    return [sys.executable, *rest]


def machine():
    system = f"{platform.system()} {platform.machine()}"
    return f"Python {platform.python_version()}, {system}, {os.cpu_count()} cores"


def _print(text):
    print(text, flush=True)


def run(rows, *, long, shown=_print):
    """Run the commands of rows, and store what they measured after each."""
    commands, failed = {}, False
    for row in rows:
        commands.setdefault(row.command if long else row.usual, []).append(row)
    for command, found in commands.items():
        shown(f"{', '.join(row.id for row in found)}: {command}")
        began = time.monotonic()
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            more = ["--json", file.name] if LOSS in found else []
            done = subprocess.run(
                [*arguments(command), *more], cwd=ROOT, capture_output=True, text=True,
                check=False, timeout=LIMIT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
            figures = load()  # another run may have added to it
            if LOSS in found:
                figures["loss"] = json.loads(Path(file.name).read_text() or "[]")
        for row in found:
            text = "" if row is LOSS else row.read(done.stdout)
            figures["rows"][row.id] = {
                "command": command,
                "date": datetime.now(UTC).strftime("%Y-%m-%d"),
                "machine": machine(),
                "seconds": round(time.monotonic() - began),
                "ok": done.returncode == 0,
                "measured": text,
            }
            shown(f"    {'ok' if done.returncode == 0 else 'FAILED'}: {text}")
        failed = failed or done.returncode != 0
        if done.returncode:
            shown(done.stdout[-2000:] + done.stderr[-2000:])
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return not failed


def load():
    """Return the stored figures."""
    if FIGURES.exists():
        return json.loads(FIGURES.read_text(encoding="utf-8"))
    return {"rows": {}, "loss": []}


# ---- the page -----------------------------------------------------------------------------------


GENERATED = "<!-- Generated by `python -m tests.faults.page write`. -->"
FIRST = (
    "What goes wrong, what is promised then, and what was measured: each row has the command that "
    "measures it again."
)
POWER_MODEL = (
    "How a power failure is simulated: a library between the process and its disk logs each write, "
    "each change of a name, and each sync that succeeded. A failure is a place in that log. What "
    "was synced before it is on the disk; of the rest, each write, page or sector is there or not, "
    "at random, and the real spool opens the result. A disk that ignores syncs loses messages in "
    "this simulation, which a test checks."
)
NO_RELAY = (
    "There is no R15: it is about a relay between processes, which this package does not have."
)


def page(figures, mutation=None):
    """Return the page that shows these figures."""
    stored = figures["rows"]
    dates = sorted({found["date"] for found in stored.values()})
    machines = sorted({found["machine"] for found in stored.values()})
    span = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "never"
    introduction = (
        f"`python -m tests.faults.page run` measured all of this ({span}; {'; '.join(machines)}). "
        "Where the command in the last column takes long, a shorter form was run, shown "
        "beside the figures; `run --long` runs the whole. [Delivery guarantees](guarantees.md) "
        "says how else delivery is tested, [The spool](spool.md) what its settings mean."
    )
    parts = ["# The fault matrix", GENERATED, FIRST, introduction]
    for title, rows in SECTIONS.items():
        table = ["| | fault | promised | measured | command |", "|---|---|---|---|---|"]
        for row in rows:
            cells = (row.id, row.fault, row.promise, measured(row, stored), f"`{row.command}`")
            table.append(f"| {' | '.join(cells)} |")
        parts += [f"## {title}", "\n".join(table)]
    parts += [POWER_MODEL, NO_RELAY, *_loss(figures), *_mutation(mutation)]
    return "\n\n".join(parts) + "\n"


def measured(row, stored):
    found = stored.get(row.id)
    if found is None:
        return "not run yet"
    text = " ".join(found["measured"].replace("|", "\\|").split())
    text = ONE.sub(r"1 \1", text)
    if not found["ok"]:
        text = f"**not as promised**: {text}"
    if found["command"] != row.command:
        text += f" (short form, {found['seconds']} s: `{found['command']}`)"
    return text


def _loss(figures):
    stored = figures["rows"].get(LOSS.id)
    yield "## Messages lost per kill, beside other packages"
    if stored is None:
        yield "Not run yet."
        return
    yield (
        "All track 200 messages a second into the same server, with their defaults, and are "
        "killed with SIGKILL after one to four seconds. A message counts as accepted when its call "
        f"has returned. Clients with a spool are started again. `{LOSS.command}` measures it, run "
        f"as `{stored['command']}` on {stored['date']}."
    )
    table = [
        "| client | server | kills | accepted | arrived | lost | lost per kill |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in figures["loss"]:
        state = "works" if each["server"] == "works" else "is down until after the kill"
        table.append(
            f"| {each['client']} | {state} | {each['kills']} | {each['accepted']:,} | "
            f"{each['arrived']:,} | {each['lost']:,} | {each['lost_per_kill']:g} |"
        )
    yield "\n".join(table)
    yield (
        "In memory, ours sends after a second (`flush_after`), so with a server that works it "
        "loses more per kill than packages that send smaller batches; a shorter `flush_after` "
        "loses less. With a spool, a message of the last milliseconds is not on disk yet, unless "
        "its call was made with `durable=True`. Vector's disk buffer is not measured: what PyPI "
        "and npm have under that name are other projects, and Debian has none."
    )


def _mutation(mutation):
    yield "## Would the tests notice?"
    if not mutation:
        yield "The mutation score of buffer, retries, sender and spool is not measured yet."
        return
    yield (
        "Mutation testing changes the code of delivery in one place, and counts the changes that "
        "no test notices."
    )
    table = ["| module | mutants | noticed | not noticed | equivalent | score | command |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, found in mutation["modules"].items():
        noticed = found["killed"] + found["timeout"]
        considered = max(1, found["mutants"] - found["equivalent"])
        total = found.get("of", found["mutants"])
        tried = f"{found['mutants']} of {total}" if total > found["mutants"] else f"{total}"
        table.append(
            f"| {name} | {tried} | {noticed} | {found['survived']} | "
            f"{found['equivalent']} | {100 * noticed / considered:.0f} % | `{found['command']}` |"
        )
    yield "\n".join(table)


def written():
    """Return the page as the stored figures make it."""
    mutation = json.loads(MUTATION.read_text(encoding="utf-8")) if MUTATION.exists() else None
    return page(load(), mutation)


def problems():
    """Return what is wrong with the page and its figures."""
    found = []
    stored = load()["rows"]
    for row in [*ROWS, LOSS]:
        if row.id not in stored:
            found.append(f"{row.id} was never run: `python -m tests.faults.page run {row.id}`")
        elif stored[row.id]["command"] not in (row.command, row.usual):
            found.append(f"{row.id} was run as `{stored[row.id]['command']}`: run it again")
        elif row is not LOSS and not stored[row.id]["measured"]:
            found.append(f"{row.id}: nothing was read from the output of its command")
        elif not stored[row.id]["ok"]:
            found.append(f"{row.id} was not as promised when it was run")
    known = {row.id for row in [*ROWS, LOSS]}
    found += [f"there is no row {name} any more" for name in stored if name not in known]
    if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != written():
        found.append("docs/fault-matrix.md is not current: `python -m tests.faults.page write`")
    return found


def main():
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.page", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("action", choices=["run", "write", "check"])
    parser.add_argument("rows", nargs="*", help="ids of rows, or their first words")
    parser.add_argument("--long", action="store_true", help="run the commands in full")
    given = parser.parse_args()
    if given.action == "check":
        found = problems()
        print("\n".join(found), file=sys.stderr)
        return bool(found)
    ok = True
    if given.action == "run":
        rows = [
            row for row in [*ROWS, LOSS]
            if not given.rows or row.id in given.rows or row.id.split()[0] in given.rows
        ]  # fmt: skip
        if not rows:
            parser.error(f"no such row; there are {', '.join(row.id for row in [*ROWS, LOSS])}")
        ok = run(rows, long=given.long)
    PAGE.write_text(written(), encoding="utf-8")
    return not ok


if __name__ == "__main__":
    sys.exit(main())
