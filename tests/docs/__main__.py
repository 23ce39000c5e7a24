"""Check, write or build the documentation.

python -m tests.docs check    links, titles, lists, the reference, the changelog; in seconds
python -m tests.docs write    the pages of commands, from the code; the fault matrix, from figures
python -m tests.docs build    the site, strictly, into build/docs/site (`tox run -e docs`)
"""

import argparse
import sys

from tests.docs import checks, commands
from tests.docs.pages import ROOT, documentation, markdown_files
from tests.faults import page as fault_matrix


def check() -> list[str]:
    """Return what is wrong with the pages."""
    changelog, readme = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("CHANGELOG.md", "README.md")
    )
    return [
        *checks.links(),
        *checks.pages(documentation()),
        *checks.code(markdown_files()),
        *checks.typed(markdown_files()),
        *checks.reference(),
        *checks.lists(),
        *checks.changelog(changelog),
        *checks.readme(readme),
        *fault_matrix.problems(),
    ]


def build() -> list[str]:
    """Build the site, and return what is wrong with it."""
    from tests.docs import site

    site.build()
    return site.problems(site.SITE)


def write() -> list[str]:
    written = {**commands.written(), fault_matrix.PAGE: fault_matrix.written()}
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
    return []


def main() -> int:
    actions = {"check": check, "write": write, "build": build}
    parser = argparse.ArgumentParser(
        "python -m tests.docs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=actions)
    problems = actions[parser.parse_args().action]()
    for problem in problems:
        print(problem, file=sys.stderr)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
