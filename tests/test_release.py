"""What a release checks, and the links that it gives to the package."""

import ast
import subprocess
import sys
import tarfile
from email.parser import Parser
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="needs hatchling, from the dependency group `tests`")
from hatch_build import project_urls, with_absolute_links
from tests import release

ROOT = Path(__file__).parents[1]
URL = "https://example.org/shop/mixpanel-async"
BASE = f"{URL}/blob/v1.2.0"


def test_relative_links_of_the_readme_become_absolute():
    """Files, anchors and folders; neither addresses nor code change."""
    text = (
        "[a](docs/x.md#y) [b](#install) [c](https://example.org) [d](examples/) [e](mailto:a@b.c)\n"
        "```python\nx[0](y)\n```\n[f](LICENSE)\n"
    )
    assert with_absolute_links(text, BASE) == (
        f"[a]({BASE}/docs/x.md#y) [b]({BASE}/README.md#install) [c](https://example.org) "
        f"[d]({BASE}/examples/) [e](mailto:a@b.c)\n"
        f"```python\nx[0](y)\n```\n[f]({BASE}/LICENSE)\n"
    )


def test_every_link_of_the_readme_can_be_followed_from_a_package_index():
    """None is left relative."""
    text = with_absolute_links((ROOT / "README.md").read_text(encoding="utf-8"), BASE)
    for block in text.split("```")[::2]:
        assert "](docs" not in block
        assert "](#" not in block


def test_the_links_of_the_package_have_the_names_that_indexes_know():
    """Source, issues, changelog, documentation and homepage."""
    assert project_urls(URL).keys() == {
        "Homepage", "Documentation", "Source", "Issues", "Changelog",
    }  # fmt: skip


@pytest.mark.parametrize("url", ["http://example.org/a/b", "example.org/a", "https://example.org"])
def test_an_address_that_is_no_repository_stops_the_build(url):
    """A package with wrong links could not be mended."""
    with pytest.raises(ValueError, match="PROJECT_URL"):
        project_urls(url)


@pytest.mark.slow
def test_an_sdist_keeps_the_links_of_its_build(tmp_path, monkeypatch):
    """Its metadata has them, absolute, and the wheel that is built from it takes them."""
    monkeypatch.setenv("PROJECT_URL", URL)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path],
        cwd=ROOT, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        (member,) = [
            each for each in archive if each.name.count("/") == 1 and each.name.endswith("PKG-INFO")
        ]
        metadata = Parser().parsestr(archive.extractfile(member).read().decode())
    assert f"Source, {URL}" in metadata.get_all("Project-URL")
    assert "](docs/" not in metadata.get_payload()
    assert f"]({URL}/blob/v" in metadata.get_payload()


def test_a_tag_that_is_not_the_version_is_refused(monkeypatch):
    """So is a changelog without it, and a package without links."""
    monkeypatch.delenv("PROJECT_URL", raising=False)
    with pytest.raises(release.ReleaseError, match="set __version__"):
        release.check_tag("v99.0.0")


def test_a_tag_without_its_changelog_is_refused(monkeypatch, tmp_path):
    """The section needs its date, and the package its links."""
    (tmp_path / "mixpanel").mkdir()
    (tmp_path / "mixpanel" / "_version.py").write_text('__version__ = "1.2.0"\n')
    monkeypatch.setattr(release, "ROOT", tmp_path)
    monkeypatch.delenv("PROJECT_URL", raising=False)
    (tmp_path / "CHANGELOG.md").write_text("## [Unreleased]\n")
    with pytest.raises(release.ReleaseError, match=r"no section `## \[1\.2\.0\] - DATE`"):
        release.check_tag("v1.2.0")
    (tmp_path / "CHANGELOG.md").write_text("## [1.2.0] - 2026-01-31\n")
    with pytest.raises(release.ReleaseError, match="set PROJECT_URL"):
        release.check_tag("v1.2.0")
    monkeypatch.setenv("PROJECT_URL", URL)
    release.check_tag("v1.2.0")


@pytest.mark.parametrize(
    ("line", "is_internal"),
    [
        ("mixpanel/_http/tls.py:1: context(path): Parameter was removed", True),
        ("mixpanel/client.py:0: Mixpanel._discards(count): Parameter was removed", True),
        ("mixpanel/data/store/engine.py:84: connect(attached): Parameter was added", True),
        ("mixpanel/client.py:0: Mixpanel.track(ip): Parameter was removed", False),
        ("mixpanel/data/results.py:0: FetchResult.__init__(typed): Positional …", False),
    ],
)
def test_changes_of_the_api_are_those_of_public_names(line, is_internal):
    """What users cannot import, or must not, is left out."""
    assert bool(release.INTERNAL.search(line)) == is_internal


CHANGES = """# Changelog

## [1.1.0] - 2026-01-31

### Added

- `added`.

### Removed

- `Client.track(ip=)`, and `gone()`.

## [1.0.0] - 2025-12-31

### Removed

- `older`.
"""


@pytest.mark.parametrize(
    ("line", "is_announced"),
    [
        ("mixpanel/client.py:0: Client.track(ip): Parameter was removed", True),
        ("mixpanel/client.py:0: Client.track(time): Parameter was removed", False),
        ("mixpanel/x.py:0: gone: Public object was removed", True),
        ("mixpanel/x.py:0: added: Public object was removed", False),
        ("mixpanel/x.py:0: older: Public object was removed", False),
        ("mixpanel/x.py:0: Client.__init__(ip): Positional parameter was moved", True),
    ],
)
def test_a_break_must_be_in_the_changelog(line, is_announced):
    """Under Removed or Changed of the newest version, by its name and its parameter's."""
    assert (release.unannounced([line], CHANGES) == []) == is_announced


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Return a repository with a tiny package, which has not been released."""
    (tmp_path / "mixpanel").mkdir()
    (tmp_path / "mixpanel" / "__init__.py").write_text("def track(event): ...\ndef flush(): ...\n")
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "First")
    monkeypatch.setattr(release, "ROOT", tmp_path)
    return tmp_path


def test_without_a_release_there_is_nothing_to_compare_with(repository, capsys):
    """Not even when the tag to be released exists already."""
    release.check_api(None)
    git(repository, "tag", "v1.0.0")
    release.check_api("v1.0.0")
    assert capsys.readouterr().out.count("there is no release to compare with") == 2


@pytest.mark.slow
def test_a_removed_function_fails_a_release_and_a_new_parameter_passes(repository, capsys):
    """Against the last tag before this commit; the changelog may announce what is removed."""
    pytest.importorskip("griffe", reason="needs griffe, from the dependency group `docs`")
    git(repository, "tag", "v1.0.0")
    package = repository / "mixpanel" / "__init__.py"
    package.write_text("def track(event, time=None): ...\ndef flush(): ...\n")
    release.check_api("v1.1.0")
    assert "compared with v1.0.0\n  nothing that breaks its users" in capsys.readouterr().out

    package.write_text("def track(event, time=None): ...\n")
    with pytest.raises(release.ReleaseError, match=r"__init__\.py:\d+: flush: Public object was r"):
        release.check_api("v1.1.0")
    changelog = repository / "CHANGELOG.md"
    changelog.write_text(changelog.read_text() + "\n### Removed\n\n- `flush()`\n")
    release.check_api("v1.1.0")


@pytest.mark.slow
def test_a_release_that_cannot_be_compared_fails(repository):
    """A tag whose tree has no package is not taken for one without changes."""
    pytest.importorskip("griffe", reason="needs griffe, from the dependency group `docs`")
    git(repository, "mv", "mixpanel", "other")
    git(repository, "commit", "--quiet", "--message", "Move")
    git(repository, "tag", "v1.0.0")
    git(repository, "mv", "other", "mixpanel")
    git(repository, "commit", "--quiet", "--message", "Move back")
    with pytest.raises(release.ReleaseError, match=r"could not compare the API with v1\.0\.0"):
        release.check_api(None)


def test_every_extra_has_something_to_import():
    """A new extra must say what it is for."""
    assert set(release.chosen_extras(())) | {""} == release.IMPORTS.keys()


def test_the_first_program_of_the_readme_is_one():
    """It compiles, and it is the one that sends."""
    program = release.first_program()
    compile(program, "first.py", "exec")
    assert "await mp.track(" in program


def test_two_archives_that_differ_are_refused(tmp_path):
    """By their bytes and by their names."""
    first, second = tmp_path / "a", tmp_path / "b"
    for folder, text in ((first, "1"), (second, "2")):
        folder.mkdir()
        (folder / "x.whl").write_text(text)
    with pytest.raises(release.ReleaseError, match="differ"):
        release.same(first / "x.whl", second / "x.whl")


def test_the_script_needs_nothing_of_the_package():
    """It runs where the package is not installed."""
    source = (ROOT / "tests" / "release.py").read_text(encoding="utf-8")
    imported = [
        name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or node.names[0].name]
    ]
    assert imported
    assert [name for name in imported if name.split(".")[0] in ("mixpanel", "tests")] == []
