"""Environments for the peers of tests and benchmarks: `python -m tests.peers official`.

The official SDK has our import name, so it can never live in our environment.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

HOME = Path(os.environ.get("TOX_WORK_DIR") or Path(__file__).parent.parent / ".tox") / "peers"
PEERS = {
    "official": ["mixpanel==5.4.1"],
    "posthog": ["posthog==7.91.1"],
    "launchdarkly": ["launchdarkly-server-sdk==9.18.2"],
    "growthbook": ["growthbook==4.0.0"],
    "htevents": ["events-sdk-python==0.0.4"],
    "customerio": ["customerio-cdp-analytics==1.1.0"],
}


def python(peer: str) -> Path:
    """Return the interpreter of the peer's environment, which may not be there yet."""
    folder = "Scripts" if os.name == "nt" else "bin"
    return HOME / "-".join(PEERS[peer]) / folder / "python"


def ensure(peer: str) -> Path:
    """Make the peer's environment unless it is complete, and return its interpreter."""
    interpreter = python(peer)
    done = interpreter.parent.parent / ".complete"
    if not done.exists():
        venv.create(done.parent, with_pip=True, clear=True)
        install = [interpreter, "-m", "pip", "install", "--quiet", *PEERS[peer]]
        subprocess.run(install, check=True)
        done.touch()
    return interpreter


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{name}: {ensure(name)}")
