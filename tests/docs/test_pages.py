"""The pages of the documentation: complete, linked, current; and what the checks refuse."""

from pathlib import Path

import pytest

from tests.docs import __main__ as program
from tests.docs import api, checks, commands, navigation
from tests.docs.pages import ROOT, Block, Page, broken_links, documentation, markdown_files


def page(text, path="docs/x.md"):
    return Page(Path(path), text)


@pytest.mark.slow
def test_every_link_leads_somewhere():
    """To a file of the repository, and to a heading of it."""
    assert checks.links() == []


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("missing.md", "leads to no file"),
        ("delivery.md#no-such-heading", "leads to no heading"),
        ("#no-such-heading", "leads to no heading"),
        ("../../outside.md", "leads out of the repository"),
        ("/docs/delivery.md", "must be relative"),
    ],
)
def test_a_link_that_leads_nowhere_is_found(target, problem):
    """With its page and line."""
    [found] = broken_links([page(f"# X\n\nSee [this]({target}).\n", "docs/delivery.md")])
    assert found.startswith("docs/delivery.md:3: ")
    assert problem in found


def test_links_in_code_are_no_links():
    """Neither in a fenced block, nor in a span of code, nor in a comment."""
    text = "# X\n\n`[a](b.md)` <!-- [a](b.md) -->\n\n```text\n[a](b.md)\n```\n"
    assert broken_links([page(text)]) == []


CHECKS = ("links", "pages", "code", "typed", "reference", "lists", "changelog", "readme")


@pytest.mark.slow
@pytest.mark.parametrize("failing", CHECKS)
def test_a_problem_of_any_check_fails_the_command(monkeypatch, capsys, failing):
    """`python -m tests.docs check` prints it and exits with 1, so tox and pre-commit stop."""
    for name in CHECKS:
        found = ["what is wrong"] if name == failing else []
        monkeypatch.setattr(checks, name, lambda *_, found=found: found)
    monkeypatch.setattr("sys.argv", ["docs", "check"])
    assert program.main() == 1
    assert capsys.readouterr().err == "what is wrong\n"


def test_every_page_has_a_title_and_a_first_sentence():
    """Which the navigation and llms.txt show."""
    assert checks.pages(documentation()) == []


def test_a_page_without_title_or_text_is_found():
    """And two pages of one title."""
    assert len(checks.pages([page("no title\n")])) == 1
    assert len(checks.pages([page("# Title\n\n## Next\n")])) == 1
    assert len(checks.pages([page("# A\n\nText.\n"), page("# A\n\nText.\n", "docs/y.md")])) == 1


@pytest.mark.slow
def test_every_block_of_code_has_a_language():
    """And a reason, where it is not run."""
    assert checks.code(markdown_files()) == []


def test_a_block_has_its_reason_and_line():
    """A comment directly above says why it is not run; hidden code is run, too."""
    text = (
        "# X\n\nText.\n\n<!-- not run: it starts a server -->\n\n```console\n$ mp emulator\n```\n"
        "\n<!-- hidden\nassert 1\n-->\n\n```python\npass\n```\n"
    )
    console, hidden, python = page(text).blocks()
    assert console == Block("console", "$ mp emulator\n", 8, "it starts a server")
    assert (hidden.language, hidden.code, hidden.hidden) == ("python", "assert 1\n", True)
    assert (python.code, python.not_run) == ("pass\n", None)


def test_a_block_without_language_or_reason_is_found():
    """Each with its line."""
    assert len(checks.code([page("# X\n\n```\ncode\n```\n")])) == 1
    assert len(checks.code([page("# X\n\n<!-- not run: no -->\n\n```python\n1\n```\n")])) == 1


@pytest.mark.slow
def test_the_reference_is_complete_and_current():
    """Every module, help text and example; the pages of commands as the code has them."""
    assert checks.reference() == []


@pytest.mark.slow
def test_every_command_and_option_in_the_pages_exists():
    """In blocks and in the text; the changelog has removed ones, too."""
    pages = [page for page in markdown_files() if page.path.name != "CHANGELOG.md"]
    assert checks.typed(pages) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```console\n$ mp fetch everything\n```\n", "no command 'mp fetch everything'"),
        ("```console\n$ A=b mp fetch sync --never\n```\n", "mp fetch sync has no option --never"),
        ("Run `mp inspect tables --never`.", "mp inspect tables has no option --never"),
        ("0 1 * * *  mp --quiet fetch sync && mp nothing\n", "no command 'mp nothing'"),
    ],
)
def test_a_command_that_does_not_exist_is_found(text, problem):
    """By its name or by its option."""
    [found] = commands.unknown(text)
    assert problem in found


@pytest.mark.slow
def test_errors_variables_and_reasons_are_listed():
    """Each error with what to do, each variable, each reason of a drop, each kind of fallback."""
    assert checks.lists() == []


def test_a_command_without_an_example_is_found(monkeypatch):
    """Its name is in the list, and so is an option without help."""

    class Bare:
        help, epilog, params = "Help.", "mp other", ()

    made = commands.Command("mp bare", Bare, is_group=False)
    monkeypatch.setattr(commands, "commands", lambda: [made])
    assert commands.without_example() == ["mp bare"]


@pytest.mark.slow
def test_a_public_module_without_a_page_is_found(monkeypatch):
    """A new module must be documented, or listed as internal."""
    known = api.public_modules()
    monkeypatch.setattr(api, "public_modules", lambda: {**known, "mixpanel.newer": ["f"]})
    assert api.undocumented_modules() == ["mixpanel.newer"]


@pytest.mark.slow
def test_every_page_is_in_the_navigation():
    """Those that mkdocs.yml does not name come under "Guides"."""
    listed = [
        path for section in navigation.sections() for paths in section.values() for path in paths
    ]
    assert len(listed) == len(set(listed))
    assert {str(page.path) for page in markdown_files()} <= set(listed)


def test_the_changelog_has_the_version():
    """Under its number, or under [Unreleased] until then."""
    assert checks.changelog((ROOT / "CHANGELOG.md").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("# Changelog\n", "lacks [1.2.0]"),
        ("## [1.1.0] - 2026-01-01\n", "neither [1.2.0] nor [Unreleased]"),
        ("## [1.2.0]\n", "has no date"),
        ("## 1.2.0 (2026-01-01)\n", "write headings as"),
        ("## [1.1.0] - 2026-01-01\n## [1.2.0] - 2026-02-01\n", "the newest version comes first"),
        ("## [1.2.0] - 2026-01-01\n## [Unreleased]\n", "[Unreleased] comes first"),
    ],
)
def test_a_changelog_without_the_version_is_found(text, problem):
    """So a release cannot forget it."""
    assert any(problem in found for found in checks.changelog(text, "1.2.0"))


def test_the_readme_is_short_and_has_contents():
    """Under 200 lines; every section is in the contents, every extra is explained."""
    assert checks.readme((ROOT / "README.md").read_text(encoding="utf-8")) == []
