"""The pages of the documentation as Markdown: their code blocks and their links."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TESTS = ROOT / "tests"
FENCE = re.compile(r"^( *)(`{3,}|~{3,})([\w-]*)[^\n]*\n(.*?)^\1\2`* *$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!--(.*?)-->", re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*\Z", re.DOTALL)
LINK = re.compile(r"\[(?:[^\]\[]|\[[^\]]*\])*\]\((<[^>]*>|[^)\s]*)(?:\s+\"[^\"]*\")?\)")
HEADING = re.compile(r"^(#{1,6})[ \t]+(.+?)[ \t]*#*[ \t]*$", re.MULTILINE)
RUN_LANGUAGES = ("python", "pycon", "console")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language and code, the line it begins on, and why it is not run."""

    language: str
    code: str
    line: int
    not_run: str | None = None
    hidden: bool = False


@dataclass(frozen=True)
class Page:
    """One Markdown file of the repository; `path` is relative to the root."""

    path: Path
    text: str = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> "Page":
        """Return the page of a file."""
        return cls(path.relative_to(ROOT), path.read_text(encoding="utf-8"))

    @property
    def title(self) -> str:
        """Return the text of the first heading.

        :raises ValueError: without one.
        """
        found = re.search(r"^# (.+)$", self.text, re.MULTILINE)
        if found is None:
            raise ValueError(f"{self.path} has no title: begin it with `# Title`")
        return plain(found[1])

    @property
    def summary(self) -> str:
        """Return the first paragraph after the title, without markup, on one line."""
        text = COMMENT.sub("", self.text.partition("\n# ")[2] or self.text)
        for paragraph in re.split(r"\n\s*\n", text)[1:]:
            if re.match(r"[\w`*\[]", paragraph):
                return plain(" ".join(paragraph.split()))
        return ""

    def blocks(self) -> list[Block]:
        """Return the fenced blocks, and the code in comments that begin with `hidden`.

        A comment `<!-- not run: REASON -->` directly above a block says why the tests skip it.
        """
        found = []
        for match in FENCE.finditer(self.text):
            before = self.text[: match.start()]
            reason = NOT_RUN.search(before)
            indent = match[1]
            lines = (line.removeprefix(indent) for line in match[4].splitlines(keepends=True))
            found.append(
                (
                    match.start(),
                    Block(
                        match[3],
                        "".join(lines),
                        before.count("\n") + 2,
                        reason and " ".join(reason[1].split()),
                    ),
                )
            )
        for match in COMMENT.finditer(self.text):
            word, _, code = match[1].strip().partition("\n")
            if word == "hidden":
                line = self.text[: match.start()].count("\n") + 2
                found.append((match.start(), Block("python", code + "\n", line, hidden=True)))
        return [block for _, block in sorted(found, key=lambda each: each[0])]

    def links(self) -> Iterator[tuple[int, str]]:
        """Yield the line and target of each link, without those in code."""
        for match in LINK.finditer(without_code(self.text)):
            target = match[1].strip("<>")
            if target:
                yield self.text[: match.start()].count("\n") + 1, target

    def anchors(self) -> set[str]:
        """Return the anchors of the headings, as GitHub and the site make them."""
        found: set[str] = set()
        for match in HEADING.finditer(without_fences(self.text)):
            slug = slug_of(match[2])
            number = 1
            unique = slug
            while unique in found:
                unique, number = f"{slug}-{number}", number + 1
            found.add(unique)
        return found


def plain(text: str) -> str:
    """Return inline Markdown as text."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"(\*\*|[`*])", "", text).strip()


def without_comments(text: str) -> str:
    """Return the text as readers get it, without the code that only tests run."""
    return re.sub(r"<!--.*?-->\n*", "", text, flags=re.DOTALL)


def slug_of(heading: str) -> str:
    """Return the anchor of a heading, by GitHub's rule."""
    text = plain(heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def without_fences(text: str) -> str:
    """Return the text with its fenced blocks blank, line by line."""
    return FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def without_code(text: str) -> str:
    """Return the text with its code and comments blank, at the same positions."""
    text = COMMENT.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), without_fences(text))
    return re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", lambda match: " " * len(match[0]), text)


def documentation() -> list[Page]:
    """Return the pages of `docs/`, by name."""
    return [Page.read(path) for path in sorted(DOCS.rglob("*.md"))]


def markdown_files() -> list[Page]:
    """Return all Markdown files that the site shows: `docs/`, and what its pages link to."""
    found: dict[Path, Page] = {}
    waiting = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    while waiting:
        path = waiting.pop()
        if path in found or not path.is_file():
            continue
        found[path] = page = Page.read(path)
        for _, target in page.links():
            file = target_of(page, target)
            if file is not None and file.suffix == ".md":
                waiting.append(file)
    return sorted(found.values(), key=lambda page: page.path)


def target_of(page: Page, target: str) -> Path | None:
    """Return the file that a link leads to, for a folder its README; None for a URL."""
    if re.match(r"[a-z][a-z0-9+.-]*:", target, re.IGNORECASE):
        return None
    path = unquote(target.partition("#")[0])
    file = (ROOT / page.path.parent / path).resolve() if path else ROOT / page.path
    return file / "README.md" if file.is_dir() and (file / "README.md").is_file() else file


def linked_files(pages: list[Page]) -> set[Path]:
    """Return the files other than Markdown that pages link to."""
    found = {target_of(page, target) for page in pages for _, target in page.links()}
    return {path for path in found if path is not None and path.is_file() and path.suffix != ".md"}


def broken_links(pages: list[Page]) -> list[str]:
    """Return a line for each link to a file or heading that does not exist."""
    anchors = {ROOT / page.path: page.anchors() for page in pages}
    problems = []
    for page in pages:
        for line, target in page.links():
            file = target_of(page, target)
            where = f"{page.path}:{line}: [...]({target})"
            if file is None:
                continue
            if target.startswith("/"):
                problems.append(f"{where} must be relative to the page")
            elif ROOT not in file.parents and file != ROOT:
                problems.append(f"{where} leads out of the repository")
            elif not file.exists():
                problems.append(f"{where} leads to no file")
            elif "#" in target and file.suffix == ".md":
                fragment = unquote(target.partition("#")[2])
                known = anchors[file] if file in anchors else Page.read(file).anchors()
                if fragment not in known:
                    problems.append(f"{where} leads to no heading")
    return problems


def other_tests(page: Page) -> list[Path]:
    """Return the test files outside this folder that read a page, and so run its code."""
    here = Path(__file__).parent
    return [
        path
        for path in sorted(TESTS.rglob("test_*.py"))
        if here not in path.parents and page.path.name in path.read_text(encoding="utf-8")
    ]
