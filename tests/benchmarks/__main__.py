"""Run the benchmarks, all or by name, and print figures and ratios; nothing here can fail a build.

python -m tests.benchmarks                       all
python -m tests.benchmarks cost delivered        some
python -m tests.benchmarks memory --long         ten minutes instead of twenty seconds
python -m tests.benchmarks soak --seconds 600    ten minutes instead of one
python -m tests.benchmarks backlog_bytes --gigabytes 10
"""

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks.ring import Result
from tests.benchmarks.rows import ROWS, Row


def held(holds: bool) -> str:
    return "held" if holds else "MISSED"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.3g}"


def lines(row: Row) -> list[str]:
    """Return the row as text: each result, and how ours compares."""
    ours = row.results[0]
    found = [f"\n{row.name}", f"  {row.how}"]
    for result in row.results:
        notes = "".join(f"   {name}: {value:,}" for name, value in result.notes.items())
        found.append(
            f"    {result.label:<24}{number(result.best):>10} {result.unit:<3}"
            f"   median {number(result.median):>8}   {compared(row, ours, result):<28}{notes}"
        )
    for bound, sign, holds in (
        (row.at_most, "<=", row.at_most is not None and ours.best <= row.at_most),
        (row.at_least, ">=", row.at_least is not None and ours.best >= row.at_least),
    ):
        if bound is not None:
            found.append(f"    figure to hold: {sign} {number(bound)} {ours.unit}: {held(holds)}")
    for result in row.results:
        bound = row.each_at_most.get(result.label)
        if bound is not None:
            holds = held(result.best <= bound)
            found.append(f"    figure to hold, {result.label}: <= {bound:g} {result.unit}: {holds}")
    return found


def compared(row: Row, ours: Result, other: Result) -> str:
    if other is ours or "ours" in other.label:
        return ""
    ratio = ours.better_than(other)
    wanted = row.times.get(other.label)
    aim = f" (>= {wanted:g}x: {held(ratio >= wanted)})" if wanted else ""
    return f"ours {ratio:.{1 if ratio >= 2 else 2}f}x{aim}"


def machine() -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
    }


def sizes(name: str, options: argparse.Namespace) -> dict[str, int]:
    """Return the arguments of a row that the command line changes."""
    if name in ("memory", "soak"):
        seconds = 600 if name == "memory" and options.long else options.seconds
        return {} if seconds is None else {"seconds": seconds}
    if name == "backlog_bytes" and options.gigabytes is not None:
        return {"gigabytes": options.gigabytes}
    return {}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(ROWS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there too")
    parser.add_argument("--long", action="store_true", help="watch memory for ten minutes")
    parser.add_argument("--seconds", type=int, metavar="N", help="how long memory and soak take")
    parser.add_argument("--gigabytes", type=int, metavar="N", help="how much backlog_bytes writes")
    options = parser.parse_args()
    unknown = set(options.names) - ROWS.keys()
    if unknown:
        parser.error(
            f"no benchmark named {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}"
        )
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print("best of several rounds, contestants in turns")
    rows = []
    for name in options.names or ROWS:
        row = ROWS[name](**sizes(name, options))
        rows.append(row)
        print("\n".join(lines(row)), flush=True)
    if options.json:
        report = {"machine": machine(), "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
