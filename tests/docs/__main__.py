"""Build and check the documentation: `python -m tests.docs build`, or `write` what is generated."""

import argparse
import sys

from tests.docs import commands


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.docs", description=__doc__)
    parser.add_argument("action", choices=("build", "write"))
    if parser.parse_args().action == "write":
        for path, text in commands.written().items():
            path.write_text(text, encoding="utf-8")
            print(path.name)
        return 0
    from tests.docs import site

    site.build()
    problems = site.problems(site.SITE)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{site.SITE.relative_to(site.ROOT)}: {len(problems)} problems")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
