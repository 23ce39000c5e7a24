"""The pages of the documentation, for `mp docs` and the tool `explain`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixpanel._agents.results import encoded_cursor
from mixpanel.data.exceptions import MixpanelDataError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Section",
    "Topic",
    "TopicNotFoundError",
    "find",
    "llms_text",
    "outline",
    "piece",
    "topics",
]

PACKAGE = Path(__file__).parents[1]
SHIPPED = PACKAGE / "_docs"  # of a wheel; a checkout has the pages in docs/
PIECE = 9_000  # characters of a result to an agent: about 3,000 tokens
HEADING = re.compile(r"^(#{1,3}) +(.+?)\s*$")
FENCE = re.compile(r"^ *(```|~~~)")
CODE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->\n*", re.DOTALL)
LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")
SENTENCE = re.compile(r"(.+?[.])(\s|$)", re.DOTALL)
MAX_SUMMARY = 200  # characters
SIMILAR = 5
INDEX = "llms.txt"


class TopicNotFoundError(MixpanelDataError):
    """There is no page or section of that name; `similar` are the closest ones."""

    default_code = "TOPIC_NOT_FOUND"

    def __init__(self, topic: str, similar: list[str]) -> None:
        self.similar: list[str] = similar
        hint = f"did you mean {', '.join(similar)}?" if similar else "see the list of topics"
        super().__init__(
            f"there is no topic {topic[:80]!r}; {hint}", details={"similar_topics": similar}
        )


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page, from one heading to the next; `slug` is its name in `TOPIC#SLUG`."""

    title: str
    slug: str
    text: str


@dataclass(frozen=True, slots=True)
class Topic:
    """A page: its name, title, the first sentence and its sections."""

    name: str
    title: str
    summary: str
    text: str
    sections: tuple[Section, ...]


@cache
def topics() -> dict[str, Topic]:
    """Return the pages by name, sorted.

    :raises MixpanelDataError: if they were not installed with the package.
    """
    files = _files()
    if not files:
        raise MixpanelDataError(
            "the pages of the documentation were not installed: reinstall mixpanel-async",
            code="DOCS_MISSING",
        )
    return {name: _topic(name, files[name].read_text(encoding="utf-8")) for name in sorted(files)}


def _files() -> dict[str, Path]:
    folder = SHIPPED
    readme = SHIPPED / "readme.md"
    if not folder.is_dir():
        folder, readme = PACKAGE.parent / "docs", PACKAGE.parent / "README.md"
    found = {path.stem: path for path in folder.glob("*.md")}
    others = {"readme": readme, "cdp-clients": PACKAGE / "cdp" / "README.md"}
    return found | {name: path for name, path in others.items() if path.is_file()}


def _topic(name: str, text: str) -> Topic:
    text = COMMENT.sub("", text)  # such as setup code of examples, which only tests run
    sections = _sections(text)
    title = sections[0].title if sections else name
    return Topic(name, title, _summary(text), text.strip() + "\n", sections)


def _sections(text: str) -> tuple[Section, ...]:
    """Split a page at its headings of the first and second level, outside of code."""
    found: list[tuple[str, list[str]]] = []
    fenced = False
    for line in text.splitlines():
        fenced ^= FENCE.match(line) is not None
        heading = None if fenced else HEADING.match(line)
        if heading is not None and len(heading[1]) <= 2:
            found.append((_plain(heading[2]), [line]))
        elif found:
            found[-1][1].append(line)
    names: dict[str, int] = {}
    sections = []
    for title, lines in found:
        slug = _slug(title)
        names[slug] = names.get(slug, 0) + 1
        unique = slug if names[slug] == 1 else f"{slug}-{names[slug]}"
        sections.append(Section(title, unique, "\n".join(lines).strip() + "\n"))
    return tuple(sections)


def _plain(text: str) -> str:
    return LINK.sub(r"\1", text).replace("`", "").replace("*", "")


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _summary(text: str) -> str:
    """Return the first sentence of the first paragraph."""
    for paragraph in CODE.sub("", text).split("\n\n"):
        line = " ".join(paragraph.split())
        if line and line[0] not in "#|!<[->":
            found = SENTENCE.match(_plain(line))
            return (found[1] if found else _plain(line))[:MAX_SUMMARY]
    return ""


# ---- finding ------------------------------------------------------------------------------------


def find(topic: str) -> tuple[Topic, Section | None]:
    """Return a page by its name, or a section by `page#section` or by its heading alone.

    :raises TopicNotFoundError: naming the closest ones.
    """
    known = topics()
    wanted, _, part = topic.strip().removesuffix(".md").partition("#")
    page = known.get(_slug(wanted))
    if page is not None and not part:
        return page, None
    if page is not None:
        for section in page.sections:
            if section.slug == _slug(part):
                return page, section
        raise TopicNotFoundError(topic, _similar(part, {page.name: page}))
    headings = [
        (each, section)
        for each in known.values()
        for section in each.sections
        if section.slug == _slug(wanted)
    ]
    if len(headings) == 1 and not part:
        return headings[0]
    if headings and not part:
        several = [f"{each.name}#{section.slug}" for each, section in headings]
        raise TopicNotFoundError(topic, several[: 2 * SIMILAR])
    raise TopicNotFoundError(topic, _similar(f"{wanted} {part}".strip(), known))


def _similar(text: str, known: dict[str, Topic]) -> list[str]:
    """Return the closest names of pages and sections, the closest first."""
    names = {name: name for name in known} if len(known) > 1 else {}
    for page in known.values():
        for section in page.sections[1:]:
            names.setdefault(section.slug, f"{page.name}#{section.slug}")
    wanted = _slug(text)
    words = {word.rstrip("s") for word in wanted.split("-") if len(word) > 2}
    shared = {
        name: len(words & {word.rstrip("s") for word in slug.split("-")})
        for slug, name in names.items()
    }
    found = sorted((name for name in shared if shared[name]), key=lambda name: -shared[name])
    mentions = {
        page.name: sum(page.text.lower().count(word) for word in words) for page in known.values()
    }
    mentioned = sorted((name for name in mentions if mentions[name]), key=lambda n: -mentions[n])
    close = [names[each] for each in get_close_matches(wanted, names, SIMILAR, 0.75)]
    return list(dict.fromkeys([*close, *found, *mentioned]))[:SIMILAR]


# ---- showing ------------------------------------------------------------------------------------


def outline(page: Topic) -> list[dict[str, str | int]]:
    """Return the sections of a page, each with its size in characters."""
    return [
        {"topic": f"{page.name}#{each.slug}", "title": each.title, "characters": len(each.text)}
        for each in page.sections
    ]


def llms_text() -> str:
    """Return the list of pages in the format of llms.txt, with topics as links."""
    lines = [
        "# mixpanel-async",
        "",
        "> Mixpanel for Python and the shell: send events, fetch a project's events into DuckDB,",
        "> query them with SQL or as Mixpanel's reports, evaluate flags, and test against a local",
        "> emulator. Print a page with `mp docs TOPIC`, a section with `mp docs TOPIC#SECTION`.",
        "",
        "## Topics",
        "",
    ]
    lines += [
        f"- [{page.title}](mp://docs/{page.name}): {page.summary}" for page in topics().values()
    ]
    return "\n".join(lines) + "\n"


def piece(text: str, offset: int, scope: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Return text from an offset on, up to the last line that fits, and a note of the rest."""
    end = len(text)
    if end - offset > PIECE:
        line = text.rfind("\n", offset, offset + PIECE) + 1
        end = line if line > offset else offset + PIECE
    if end == len(text):
        return text[offset:end], {}
    note = f"{len(text) - end:,} of {len(text):,} characters follow; pass next_cursor, or a section"
    return text[offset:end], {"left_out": note, "next_cursor": encoded_cursor(scope, end)}
