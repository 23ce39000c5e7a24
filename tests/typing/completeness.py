"""Check that users see the types of what is public: `python -m tests.typing.completeness`."""

import json
import os
import subprocess
import sys
from pathlib import Path

LEAST = 0.99
COMMAND = [sys.executable, "-m", "pyright", "--outputjson"]
COMMAND += ["--verifytypes", "mixpanel", "--ignoreexternal"]


def main() -> int:
    """Print the share of public names with a known type, and the others; return the exit code."""
    # pyright looks at the packages of the first `python` on PATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(COMMAND, stdout=subprocess.PIPE, text=True, env=environment, check=False)
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
