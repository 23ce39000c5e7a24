"""Environments for the peers of tests and benchmarks: `python -m tests.peers official`.

The official SDK has our import name, so it can never live in our environment.
"""

import hashlib
import os
import subprocess
import sys
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOME = Path(os.environ.get("TOX_WORK_DIR") or ROOT / ".tox") / "peers"
LOCKS = ROOT / "requirements" / "peers"


def python(peer: str) -> Path:
    """Return the interpreter of the peer's environment, which may not exist yet."""
    folder = "Scripts" if os.name == "nt" else "bin"
    lock = LOCKS / f"{peer}.txt"
    digest = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
    return HOME / f"{peer}-{digest[:12]}" / folder / "python"


def ensure(peer: str) -> Path:
    """Create the peer's environment unless it is complete, and return its interpreter."""
    interpreter = python(peer)
    done = interpreter.parent.parent / ".complete"
    if not done.exists():
        # Links, as `python -m venv` makes: a copy is busy while another thread starts a process.
        venv.create(done.parent, with_pip=True, clear=True, symlinks=os.name != "nt")
        install = [interpreter, "-m", "pip", "install", "--quiet"]
        install += ["--require-hashes", "--requirement", LOCKS / f"{peer}.txt"]
        subprocess.run(install, check=True)
        done.touch()
    return interpreter


if __name__ == "__main__":
    with ThreadPoolExecutor() as threads:
        for name, made in zip(sys.argv[1:], threads.map(ensure, sys.argv[1:]), strict=True):
            print(f"{name}: {made}")
