"""Run the vendors' own clients against the emulator: `python -m tests.vendor_clients headless`.

Prints a table: each method of the client, whether the emulator answers it, and whether the answer
equals that of our own `Workspace`; then the counts.
"""

import sys

from tests import peers
from tests.vendor_clients.report import headless, utils

RUNS = {"headless": headless, "utils": utils}


def main(names: list[str]) -> int:
    """Run the clients of these names, or both; return 1 if one has less than it promises."""
    failed = False
    for name in names or list(RUNS):
        table = RUNS[name](peers.ensure(name))
        print(table.text())
        failed |= not table.is_enough
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
