"""Checks of the documentation that need no built site; each returns a line for each problem."""

import inspect
import re
import tomllib
from collections.abc import Iterable
from typing import get_args

from mixpanel import Stats, __version__
from mixpanel.flags.types import FallbackKind
from tests.docs import api, commands, navigation
from tests.docs.pages import (
    DOCS,
    ROOT,
    RUN_LANGUAGES,
    Page,
    broken_links,
    documentation,
    markdown_files,
    other_tests,
)

UNRELEASED = "Unreleased"
VARIABLE = re.compile(r"\bMP_[A-Z]+(?:_[A-Z]+)*\b")
VERSION = re.compile(r"^## \[([^\]]+)\](?: - (\d{4}-\d{2}-\d{2}))?$", re.MULTILINE)


def links() -> list[str]:
    """Return the links of all pages that lead to no file or heading."""
    return broken_links(markdown_files())


def pages(found: Iterable[Page]) -> list[str]:
    """Return the pages without a title or a first sentence, and titles that two pages share."""
    problems, titles = [], {}
    for page in found:
        try:
            title = page.title
        except ValueError as error:
            problems.append(str(error))
            continue
        if not page.summary:
            problems.append(f"{page.path} has no first paragraph, which llms.txt shows")
        if title in titles:
            problems.append(f"{page.path} has the title of {titles[title]}: {title}")
        titles[title] = page.path
    return problems


def code(found: Iterable[Page]) -> list[str]:
    """Return the blocks without a language, and reasons for not running that are too short."""
    problems = []
    for page in found:
        for block in page.blocks():
            where = f"{page.path}:{block.line}"
            if not block.language:
                problems.append(f"{where}: a block without a language; use `text` for output")
            if block.not_run is not None and len(block.not_run) < 10:
                problems.append(f"{where}: say why the block is not run: {block.not_run!r}")
    return problems


def untested() -> list[str]:
    """Return the pages whose code runs neither here nor in a test that names the page."""
    from tests.docs.test_code import RUN_HERE

    return [
        f"{page.path}: no test runs its code"
        for page in documentation()
        if any(block.language in RUN_LANGUAGES for block in page.blocks())
        and page.path.name not in RUN_HERE
        and not other_tests(page)
    ]


def reference() -> list[str]:
    """Return what the reference lacks: modules, help texts, examples, current pages."""
    problems = [f"{name}: add it to tests/docs/api.py" for name in api.undocumented_modules()]
    problems += [f"{name} has no help text" for name in commands.without_help()]
    problems += [f"{name} has no example" for name in commands.without_example()]
    for path, text in commands.written().items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            problems.append(f"docs/{path.name} is not current: run `python -m tests.docs write`")
    missing = navigation.missing()
    return problems + [f"mkdocs.yml names {path}, which does not exist" for path in missing]


def typed(found: Iterable[Page]) -> list[str]:
    """Return the commands and options that pages type but `mp` does not have."""
    return [f"{page.path}: {problem}" for page in found for problem in commands.unknown(page.text)]


def lists() -> list[str]:
    """Return the errors, variables, reasons and fallback kinds that their pages lack."""
    errors, settings, callbacks = (
        (DOCS / f"{name}.md").read_text(encoding="utf-8")
        for name in ("errors", "settings", "callbacks")
    )
    names = {
        path.rpartition(".")[2]
        for modules in api.all_names().values()
        for listed in modules.values()
        for path, value in listed.items()
        if inspect.isclass(value) and issubclass(value, BaseException)
    }
    problems = [f"docs/errors.md lacks {name}" for name in names if f"| `{name}` |" not in errors]
    kinds = set(get_args(FallbackKind))
    problems += [f"docs/errors.md lacks {kind}" for kind in kinds if f"| `{kind}` |" not in errors]
    problems += [
        f"docs/errors.md has {name}, which does not exist"
        for name in re.findall(r"^\| `(\w+)` \|", errors, re.MULTILINE)
        if name not in names | kinds
    ]
    code = "\n".join(path.read_text(encoding="utf-8") for path in api.PACKAGE.rglob("*.py"))
    used = set(VARIABLE.findall(code))
    listed = set(VARIABLE.findall(settings))
    problems += [f"docs/settings.md lacks {name}" for name in used - listed]
    problems += [f"docs/settings.md has {name}, which nothing reads" for name in listed - used]
    reasons = re.findall(
        r"`(\w+)`", re.split(r"`dropped`, by|- `requests`", inspect.getdoc(Stats))[1]
    )
    for reason in reasons:
        first_cells = re.findall(r"^\| ([^|]+) \|", callbacks, re.MULTILINE)
        if not any(f"`{reason}`" in cell for cell in first_cells):
            problems.append(f"docs/callbacks.md lacks the reason {reason}")
    return sorted(problems)


def changelog(text: str, version: str = __version__) -> list[str]:
    """Return what is wrong with the changelog: the version of the package must be its newest.

    Until a version is released, its changes are under `[Unreleased]`.
    """
    found = VERSION.findall(text)
    problems = []
    if re.findall(r"^## .*$", text, re.MULTILINE) != [match[0] for match in VERSION.finditer(text)]:
        problems.append("CHANGELOG.md: write headings as `## [1.2.0] - 2026-01-31`")
    names = [name for name, _ in found]
    if len(set(names)) != len(names):
        problems.append("CHANGELOG.md has two sections of the same version")
    if UNRELEASED in names[1:]:
        problems.append("CHANGELOG.md: [Unreleased] comes first")
    released = [(name, date) for name, date in found if name != UNRELEASED]
    problems += [f"CHANGELOG.md: [{name}] has no date" for name, date in released if not date]
    if released and released[0][0] != version and UNRELEASED not in names:
        problems.append(f"CHANGELOG.md has neither [{version}] nor [Unreleased] at its top")
    if not released and UNRELEASED not in names:
        problems.append(f"CHANGELOG.md lacks [{version}], the version of the package")
    order = [tuple(map(int, re.findall(r"\d+", name)[:3])) for name, _ in released]
    if order != sorted(order, reverse=True):
        problems.append("CHANGELOG.md: the newest version comes first")
    return problems


def readme(text: str) -> list[str]:
    """Return what the README lacks: short, with contents, naming extras that exist."""
    problems = []
    if len(text.splitlines()) >= 200:
        problems.append(f"README.md has {len(text.splitlines())} lines: move details to docs/")
    contents = text.partition("\n## ")[0]
    problems += [
        f"README.md: the contents lack {heading!r}"
        for heading in re.findall(r"^## (.+)$", text, re.MULTILINE)
        if f"[{heading}](#" not in contents
    ]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].keys()
    found = re.findall(r"mixpanel-async\[(.+?)\]", text)
    named = {extra for each in found for extra in each.split(",")}
    problems += [f"README.md lacks the extra {extra!r}" for extra in sorted(extras - named)]
    return problems + [f"README.md has an unknown extra {one!r}" for one in sorted(named - extras)]
