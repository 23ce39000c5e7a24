"""Renew the locked versions: `tox run -e lock`, or `tox run -e lock -- --upgrade-package NAME`.

Each file lists what one tox environment installs, for all Pythons and systems that the package
supports, with the hashes of all files. pyproject.toml has the bounds that they meet.
"""

import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
PROJECT = FOLDER.parent
HOOKS = PROJECT / ".pre-commit-config.yaml"
PEERS = (
    "official", "posthog", "launchdarkly", "growthbook", "htevents", "customerio",
    "headless", "utils", "duckdb", "dbt",
)  # fmt: skip
RUN_US = ("runtimes", "apps", "uwsgi", "lake")  # peers that run this package

COMPILE = "pip compile --quiet --universal --python-version 3.11 --generate-hashes"
LOCKS = {
    "tests": "pyproject.toml --all-extras --group tests",
    "page": "pyproject.toml --extra emulator --group page",
    "types": "pyproject.toml --all-extras --group types",
    "lowest": "pyproject.toml --extra all --group tests --resolution lowest-direct",
    "demo": "pyproject.toml --extra cli --extra emulator",
    "lint": "--group lint",
    "audit": "--group audit",
    "docs": "pyproject.toml --all-extras --group docs",
    "release": "--group release",
    "build": "--group build",
    "tox": "--group tox",
    "lock": "--group lock",
    **{f"peers/{peer}": f"--group peer-{peer}" for peer in PEERS},
    **{f"peers/{peer}": f"pyproject.toml --group peer-{peer}" for peer in RUN_US},
    "peers/dbt": "--group peer-dbt --no-strip-extras",  # pip wants that of mashumaro pinned, too
}
PIN = re.compile(r"^([a-z0-9-]+)==([^ ;]+)", re.MULTILINE)
HOOK_PIN = re.compile(r"\b([a-z0-9-]+)((?:\[[a-z,]+\])?)==[0-9a-z.]+")


def main(options: list[str]) -> None:
    """Write all files, then the versions that the hooks of pre-commit install."""
    for name, source in LOCKS.items():
        path = FOLDER / f"{name}.txt"
        path.parent.mkdir(exist_ok=True)
        output = ["--output-file", str(path.relative_to(PROJECT))]
        command = [sys.executable, "-m", "uv", *COMPILE.split(), *source.split(), *options, *output]
        print(f"requirements/{name}.txt", flush=True)
        subprocess.run(command, cwd=PROJECT, check=True)
    HOOKS.write_text(with_locked_versions(HOOKS.read_text(encoding="utf-8")), encoding="utf-8")


def with_locked_versions(hooks: str) -> str:
    """Return the text of pre-commit's configuration with the versions that are locked."""
    locked = {}
    for name in ("types", "lint"):
        locked |= dict(PIN.findall((FOLDER / f"{name}.txt").read_text(encoding="utf-8")))
    return HOOK_PIN.sub(lambda pin: f"{pin[1]}{pin[2]}=={locked[pin[1]]}", hooks)


if __name__ == "__main__":
    main(sys.argv[1:])
