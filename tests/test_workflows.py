"""The workflows: pinned actions, no permissions to start with, an audit each week."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted(
    path for path in (ROOT / ".github").rglob("*") if path.suffix in (".yml", ".yaml")
)
PINNED = re.compile(r"(- )?uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)*")

each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def code_of(path):
    """Return the lines of a workflow without comments, stripped."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def used(path):
    return [line for line in code_of(path) if re.search(r"\buses\b[\"']?\s*:", line)]


def test_the_workflows_test_each_change_and_audit_what_it_installs():
    """Both workflows are found; else the other tests would check nothing."""
    assert {"audit", "ci", "release"} <= {path.stem for path in WORKFLOWS}


@each_workflow
def test_each_action_is_pinned_to_a_commit_that_names_its_version(path):
    """A tag can be moved to other code; a digest of 40 digits cannot."""
    assert used(path)
    assert [line for line in used(path) if not PINNED.fullmatch(line)] == []


@pytest.mark.parametrize(
    "line",
    [
        "- uses: actions/checkout@v5",
        "- uses: actions/checkout@93cb6efe18208431cddfb8368fd83d5badbf9bfd",
        "- uses: actions/checkout@93cb6ef # v5.0.1",
        "- { uses: actions/checkout@main }",
        '- "uses": docker://alpine:3',
        "uses : ./.github/actions/local",
    ],
)
def test_the_check_of_pins_refuses_what_is_not_pinned(tmp_path, line):
    """A moving tag, a digest without its version, a short one, and other spellings are found."""
    path = tmp_path / "x.yml"
    path.write_text(f"steps:\n  {line}\n", encoding="utf-8")
    assert used(path) == [line]
    assert not PINNED.fullmatch(line)


def test_the_same_action_is_pinned_to_the_same_commit_everywhere():
    """An incomplete upgrade fails."""
    of_all = {line.split("uses: ")[1] for each in WORKFLOWS for line in used(each)}
    names = [pin.split("@")[0] for pin in of_all]
    assert len(names) == len(set(names))


@each_workflow
def test_a_workflow_starts_without_permissions_and_leaves_no_credentials(path):
    """Each job lists what it needs; a checkout keeps no token for later steps to find."""
    text = path.read_text(encoding="utf-8")
    assert re.search(r"^permissions: \{\}$", text, re.MULTILINE)
    assert "pull_request_target" not in text
    writes = re.findall(r"^ +(\w[\w-]*): write\b", text, re.MULTILINE)
    assert writes == (["attestations", "id-token"] if path.stem == "release" else [])
    assert not re.search(r"write-all|secrets\.", text)
    lines = code_of(path)
    checkouts = [n for n, line in enumerate(lines) if "uses: actions/checkout@" in line]
    assert [lines[n + 1 : n + 3] for n in checkouts] == [
        ["with:", "persist-credentials: false"]
    ] * len(checkouts)


def test_a_release_is_published_by_a_job_that_runs_no_code_of_the_repository():
    """What may write gets the built files, and nothing else; it follows the checks."""
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    assert re.search(r'^    tags: \["v\*"\]$', text, re.MULTILINE)
    build, _, publish = text.partition("\n  publish:\n")
    assert "write" not in build
    assert "tox run -e release" in build
    assert re.search(r"^    needs: build$", publish, re.MULTILINE)
    assert "checkout" not in publish
    assert "pip install" not in publish


def test_the_audit_runs_each_week_and_for_each_pull_request():
    """A vulnerability that becomes known between changes is found too."""
    text = (ROOT / ".github" / "workflows" / "audit.yml").read_text(encoding="utf-8")
    assert re.search(r'^    - cron: "\d+ \d+ \* \* \d"$', text, re.MULTILINE)
    assert re.search(r"^  pull_request:$", text, re.MULTILINE)
    assert "tox run -e audit" in text
