"""The navigation of the site, and what pages the site has."""

import re
from typing import Any

from tests.docs import api
from tests.docs.pages import DOCS, ROOT, Page, markdown_files

CONFIGURATION = ROOT / "mkdocs.yml"
UNSORTED = "Guides"  # the section for pages of `docs/` that mkdocs.yml does not name


def sections() -> list[dict[str, list[str]]]:
    """Return the sections of mkdocs.yml, with all other pages of `docs/` under "Guides".

    Every page of the repository that one of them links to comes under "Project".
    """
    nav = _nav(CONFIGURATION.read_text(encoding="utf-8"))
    named = {path for section in nav for paths in section.values() for path in paths}
    pages = [str(page.path) for page in markdown_files()]
    found = [{title: list(paths) for title, paths in section.items()} for section in nav]
    by_title = {title: paths for section in found for title, paths in section.items()}
    by_title["API"] += [f"api/{section.page}.md" for section in api.SECTIONS]
    for path in pages:
        if path not in named:
            by_title[UNSORTED if path.startswith("docs/") else "Project"].append(path)
    return found


def _nav(text: str) -> list[dict[str, list[str]]]:
    """Return the `nav` of mkdocs.yml, which has sections of pages; most tests run without YAML."""
    found: list[dict[str, list[str]]] = []
    for line in text.partition("\nnav:\n")[2].splitlines():
        if match := re.fullmatch(r"  - ([^:]+):(?: \[\])?", line):
            found.append({match[1]: []})
        elif match := re.fullmatch(r"      - (\S+)", line):
            next(iter(found[-1].values())).append(match[1])
        elif line.strip():
            raise ValueError(f"mkdocs.yml: nav has sections and pages only, not {line!r}")
    return found


def missing() -> list[str]:
    """Return the pages that mkdocs.yml names but that do not exist."""
    named = {path for section in sections() for paths in section.values() for path in paths}
    return sorted(
        path for path in named if not path.startswith("api/") and not (ROOT / path).is_file()
    )


def title_of(path: str) -> str:
    """Return the title of a page of the site."""
    for section in api.SECTIONS:
        if path == f"api/{section.page}.md":
            return section.title
    return "Overview" if path == "README.md" else Page.read(ROOT / path).title


def configuration() -> dict[str, Any]:
    """Return what the builder reads: mkdocs.yml with the whole navigation, beside `pages`."""
    import yaml

    loaded: dict[str, Any] = yaml.safe_load(CONFIGURATION.read_text(encoding="utf-8"))
    loaded["nav"] = [
        {title: [{title_of(path): path} for path in paths]}
        for section in sections()
        for title, paths in section.items()
        if paths
    ]
    handler = loaded["plugins"][1]["mkdocstrings"]["handlers"]["python"]
    handler["paths"] = [str(ROOT)]
    options = handler["options"]
    options["extensions"] = [str(ROOT / path) for path in options["extensions"]]
    loaded["docs_dir"], loaded["site_dir"] = "pages", "site"
    return loaded


def own_pages() -> set[str]:
    """Return the pages in `docs/`."""
    return {str(path.relative_to(ROOT)) for path in DOCS.rglob("*.md")}
