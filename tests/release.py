"""Build sdist and wheel as a release does, check them, and install them in empty environments.

    tox run -e release                                  with the interpreter that runs it
    tox run -e release -- --python 3.11 --python 3.13   with these, which uv finds
    tox run -e release -- --tag v1.2.0                  and as this version, in the release workflow
    tox run -e release -- --api                         only compare the API with the last release

Into `dist/`, or the folder of `--into`, come the sdist, the wheel and its bill of materials. Each
extra is installed alone, and what it is for is imported. Nothing is uploaded.
"""

import argparse
import ast
import filecmp
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
EPOCH = "1767225600"  # 2026-01-01, the time of every file in the archives
MEMORY = """
from mixpanel.data import Credentials, Workspace
robot = Credentials(username="robot", secret="any", project_id="42")
with Workspace.memory(credentials=robot) as ws:
"""
# What each extra is for: this must be importable when it is installed alone.
IMPORTS = {
    "": "from mixpanel import AsyncMixpanel, Mixpanel; import mixpanel.testing, mixpanel.cdp",
    "data": f"{MEMORY}    ws.sql_rows('SELECT 1')",
    "pandas": f"{MEMORY}    ws.sql('SELECT 1 AS n').n",
    "arrow": f"{MEMORY}    ws.sql_arrow('SELECT 1')",
    "polars": f"{MEMORY}    ws.sql_polars('SELECT 1')",
    "mcp": "import mcp, mixpanel.cli.mcp",
    "plot": "import matplotlib, mixpanel.data",
    "cli": "from mixpanel.cli.app import app; app(['--version'])",
    "openfeature": "from mixpanel.flags.openfeature import MixpanelProvider",
    "hightouch": "import jwt, cryptography; from mixpanel.cdp import HightouchOAuth",
    "emulator": "from mixpanel.emulator import Emulator; e = Emulator(); e.start(); e.stop()",
    "all": "import mixpanel.emulator, mixpanel.data, mixpanel.flags.openfeature",
}


# What is not public, by its path or its name: see CONTRIBUTING.md.
BREAK = re.compile(r"^\S+\.py:\d+: (?P<path>[\w.]+)(?:\((?P<parameter>\w*)\))?: ")  # griffe's
INTERNAL = re.compile(r"^mixpanel/(?:cli|data/store|data/analysis)/|(?<!\w)_[a-z]\w*")


class ReleaseError(Exception):
    """A check failed; the message says which, and what to do."""


def run(*command: Any, **options: Any) -> str:
    """Run a command and return what it printed.

    :raises ReleaseError: with its output, if it fails.
    """
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options,
    )  # fmt: skip
    if done.returncode:
        raise ReleaseError(f"{' '.join(map(str, command))}\n{done.stdout}")
    return done.stdout


def step(text: str) -> None:
    print(f"- {text}", flush=True)


# ---- the archives -------------------------------------------------------------------------------


def source(folder: Path) -> Path:
    """Copy what git has of the tree, as a fresh clone would be."""
    for name in run("git", "ls-files", "-z", cwd=ROOT).split("\0"):
        if name and (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
    return folder


def build(tree: Path, into: Path, target: str, *, seed: str = "0", url: bool = True) -> Path:
    """Build an sdist or a wheel and return its path."""
    env = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "PYTHONHASHSEED": seed}
    if not url:
        env.pop("PROJECT_URL", None)
    run(sys.executable, "-m", "hatchling", "build", "-t", target, "-d", into, cwd=tree, env=env)
    (path,) = into.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return path


def same(first: Path, second: Path) -> None:
    if first.name != second.name or not filecmp.cmp(first, second, shallow=False):
        raise ReleaseError(f"{first.name}: two builds of the same tree differ")


def archives(work: Path, into: Path) -> tuple[Path, Path]:
    """Build both archives twice, and the wheel also from the sdist; return their paths."""
    step("build sdist and wheel")
    tree = source(work / "tree")
    sdist, wheel = (build(tree, work / "first", target) for target in ("sdist", "wheel"))

    step("build them again in another folder: the same bytes")
    other = shutil.copytree(tree, work / "another tree")
    for path in other.rglob("*"):
        os.utime(path, (1, 1))
    same(sdist, build(other, work / "second", "sdist", seed="7"))
    same(wheel, build(other, work / "second", "wheel", seed="7"))

    step("build the wheel from the sdist: the same bytes")
    shutil.unpack_archive(sdist, work / "unpacked", filter="data")
    (unpacked,) = (work / "unpacked").iterdir()
    same(wheel, build(unpacked, work / "third", "wheel", url=False))

    step("check both with twine and check-wheel-contents")
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    run(sys.executable, "-m", "check_wheel_contents", wheel)

    into.mkdir(parents=True, exist_ok=True)
    for old in into.glob("mixpanel_async-*"):
        old.unlink()
    for path in (sdist, wheel):
        shutil.copyfile(path, into / path.name)
    bill = into / wheel.name.replace("-py3-none-any.whl", ".cdx.json")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if ".dist-info/sboms/" in name]
        bill.write_bytes(archive.read(name))
    return into / sdist.name, into / wheel.name


def metadata(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return archive.read(name).decode()


def check_links(wheel: Path) -> None:
    """Check that a package index can follow every link of the README."""
    if not os.environ.get("PROJECT_URL"):
        step("links of the README: relative, because PROJECT_URL is not set")
        return
    step("links of the README: absolute")
    text = metadata(wheel).partition("\n\n")[2]
    relative = re.findall(r"\]\((?!https://)([^)\s]+)\)", text)
    if relative:
        raise ReleaseError(f"links that a package index cannot follow: {relative}")
    if "Project-URL: Source, " not in metadata(wheel):
        raise ReleaseError("the package has no link to its source")


# ---- the version --------------------------------------------------------------------------------


def check_tag(tag: str) -> None:
    """Check that tag, package and changelog have one version, and that links will be absolute."""
    step(f"the version of {tag}")
    text = (ROOT / "mixpanel" / "_version.py").read_text(encoding="utf-8")
    version = ast.literal_eval(re.search(r"__version__ = (.+)", text)[1])  # type: ignore[index]
    if tag != f"v{version}":
        raise ReleaseError(f"{tag} is not v{version}: set __version__ in mixpanel/_version.py")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(
        rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE
    ):
        raise ReleaseError(f"CHANGELOG.md has no section `## [{version}] - DATE`")
    if not os.environ.get("PROJECT_URL"):
        raise ReleaseError(
            "set PROJECT_URL to the address of the repository, for the package's links"
        )


def check_api(tag: str | None) -> None:
    """Compare the public names with the last release before this commit.

    :raises ReleaseError: if a change breaks users and the changelog does not name it, or if the
        two could not be compared.
    """
    tags = run(
        "git", "tag", "--list", "v*", "--merged", "HEAD", "--sort=-v:refname", cwd=ROOT
    ).split()
    earlier = [each for each in tags if each != tag]
    if not earlier:
        step("the API: there is no release to compare with")
        return
    step(f"the API, compared with {earlier[0]}")
    done = subprocess.run(
        [sys.executable, "-m", "griffe", "check", "mixpanel", "--against", earlier[0]],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    breaks = [line for line in done.stdout.splitlines() if BREAK.match(line)]
    if done.returncode and not breaks:
        raise ReleaseError(f"griffe could not compare the API with {earlier[0]}\n{done.stdout}")
    public = [line for line in breaks if not INTERNAL.search(line)]
    print("\n".join(f"  {line}" for line in public) or "  nothing that breaks its users")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if missing := unannounced(public, changelog):
        raise ReleaseError(
            "name each of these under `### Removed` or `### Changed` of the newest version in "
            "CHANGELOG.md, or keep it working:\n" + "\n".join(missing)
        )


def unannounced(breaks: Sequence[str], changelog: str) -> list[str]:
    """Return the breaks whose names no code span under Removed or Changed has, newest version."""
    newest = re.split(r"^## ", changelog, maxsplit=2, flags=re.MULTILINE)[1]
    parts = re.findall(
        r"^### (?:Removed|Changed)$(.*?)(?=^### |\Z)", newest, re.MULTILINE | re.DOTALL
    )
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", "\n".join(parts)))))
    return [line for line in breaks if not _names(line) <= named]


def _names(line: str) -> set[str]:
    """Return what a line of griffe is about: an object, and its parameter if it is about one."""
    found = BREAK.match(line)
    assert found
    path = found["path"].split(".")
    owner = path[-2] if path[-1] == "__init__" and len(path) > 1 else path[-1]
    return {owner, *filter(None, [found["parameter"]])}


# ---- installations ------------------------------------------------------------------------------


def environment(folder: Path, python: str) -> Path:
    """Make an empty environment and return its interpreter."""
    run(sys.executable, "-m", "uv", "venv", "--quiet", "--python", python, folder)
    return folder / ("Scripts" if os.name == "nt" else "bin") / "python"


def installed(work: Path, python: str, wheel: Path, extra: str) -> Path:
    interpreter = environment(work / f"{python.replace('/', '-')}-{extra or 'none'}", python)
    wanted = f"mixpanel-async{f'[{extra}]' if extra else ''} @ {wheel.resolve().as_uri()}"
    run(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", interpreter, wanted)
    run(sys.executable, "-m", "uv", "pip", "check", "--python", interpreter)
    return interpreter


def clean() -> dict[str, str]:
    """Return an environment in which nothing of this repository is on the path."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONHOME") and not name.startswith(("MP_", "COV_"))
    }


def check_installation(work: Path, python: str, wheel: Path, extras: Sequence[str]) -> None:
    """Install the wheel without and with each extra; run the README's first program."""
    interpreters = {}
    for extra in ("", *extras):
        step(f"Python {python}: install {f'[{extra}]' if extra else 'without extras'}")
        interpreters[extra] = installed(work, python, wheel, extra)
        run(
            interpreters[extra], "-W", "error", "-c", f"import mixpanel\n{IMPORTS[extra]}",
            cwd=work, env=clean(),
        )  # fmt: skip
        if not extra:
            run(interpreters[extra], "-W", "error", "-c", "import mixpanel", cwd=work, env=clean())
    step(f"Python {python}: the first program of the README")
    program = work / "first.py"
    program.write_text(first_program(), encoding="utf-8")
    server = (
        "import os, subprocess, sys\n"
        "from mixpanel.emulator import Emulator\n"
        "with Emulator() as emu:\n"
        "    env = {**os.environ, 'MP_BASE_URL': emu.url}\n"
        "    subprocess.run([sys.argv[1], '-W', 'error', sys.argv[2]], env=env, check=True)\n"
        "    assert [each['event'] for each in emu.events()] == ['Signed Up'], emu.events()\n"
    )
    run(interpreters["emulator"], "-c", server, interpreters[""], program, cwd=work, env=clean())


def first_program() -> str:
    """Return the first program of the README, as a module that runs it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"^```python\n(.+?)^```", text, re.MULTILINE | re.DOTALL)[1]  # type: ignore[index]
    body = "".join(f"    {line}" for line in code.splitlines(keepends=True))
    return f"import asyncio\n\nasync def main():\n{body}\n\nasyncio.run(main())\n"


def chosen_extras(wanted: Sequence[str]) -> Iterator[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra in project["optional-dependencies"]:
        if not wanted or extra in wanted or extra == "emulator":
            if extra not in IMPORTS:
                raise ReleaseError(
                    f"extra {extra!r}: add what it is for to IMPORTS in tests/release.py"
                )
            yield extra


def main() -> int:
    parser = argparse.ArgumentParser("python tests/release.py", description=__doc__)
    parser.add_argument("--python", action="append", metavar="VERSION", default=[])
    parser.add_argument("--extra", action="append", metavar="NAME", default=[])
    parser.add_argument("--into", type=Path, default=ROOT / "dist", metavar="FOLDER")
    parser.add_argument("--tag", metavar="TAG", help="check that this is the version")
    parser.add_argument("--api", action="store_true", help="only compare the API, in seconds")
    chosen = parser.parse_args()
    try:
        if chosen.api:
            check_api(chosen.tag)
            return 0
        if chosen.tag:
            check_tag(chosen.tag)
        extras = list(chosen_extras(chosen.extra))
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            sdist, wheel = archives(work, chosen.into)
            check_links(wheel)
            check_api(chosen.tag)
            for python in chosen.python or [sys.executable]:
                check_installation(work, python, wheel, extras)
    except ReleaseError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    for path in sorted(sdist.parent.glob("mixpanel_async-*")):
        print(f"{path.name}: {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
