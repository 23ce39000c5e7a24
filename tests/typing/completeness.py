"""Check that users see the types of what is public: `python -m tests.typing.completeness`."""

import json
import subprocess
import sys

LEAST = 0.99
COMMAND = ["pyright", "--verifytypes", "mixpanel", "--ignoreexternal", "--outputjson"]


def main() -> int:
    """Print the share of public names with a known type, and the others; return the exit code."""
    done = subprocess.run(COMMAND, stdout=subprocess.PIPE, text=True, check=False)
    found = json.loads(done.stdout)["typeCompleteness"]
    for symbol in found["symbols"]:
        if symbol["isExported"] and not symbol["isTypeKnown"]:
            reasons = [each["message"] for each in symbol["diagnostics"]]
            print(f"{symbol['name']}: {'; '.join(reasons) or 'unknown'}")
    share = found["completenessScore"]
    print(f"{share:.1%} of the public names have a known type; {LEAST:.0%} are needed")
    return 0 if share >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
