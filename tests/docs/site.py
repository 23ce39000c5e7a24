"""Build the site strictly, and look for what must not be in it."""

import os
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from tests.docs import api, navigation
from tests.docs.pages import ROOT, Page, linked_files, markdown_files, without_comments

BUILD = ROOT / "build" / "docs"
SITE = BUILD / "site"
STYLE = Path(__file__).with_name("site.css")
INDEX_BYTES = 8192  # llms.txt


def stage(folder: Path) -> None:
    """Copy every page and linked file into a folder, each at its own path, and write the API's."""
    shutil.rmtree(folder, ignore_errors=True)
    pages = markdown_files()
    for page in pages:
        target = folder / page.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(without_comments(page.text), encoding="utf-8")
    for path in linked_files(pages):
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    (folder / "api").mkdir()
    for section in api.SECTIONS:
        (folder / "api" / f"{section.page}.md").write_text(api.page_of(section), encoding="utf-8")
    shutil.copyfile(STYLE, folder / STYLE.name)


def build() -> None:
    """Stage the pages, build them strictly, and write `llms.txt` and `llms-full.txt`.

    :raises subprocess.CalledProcessError: for a broken link or any other warning of the builder.
    """
    import yaml

    stage(BUILD / "pages")
    shutil.rmtree(SITE, ignore_errors=True)
    path = BUILD / "mkdocs.yml"
    path.write_text(yaml.safe_dump(navigation.configuration(), sort_keys=False), encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--clean", "--strict", "--config-file", path],
        cwd=ROOT, check=True, env={**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    (SITE / "llms.txt").write_text(llms_index(), encoding="utf-8")
    (SITE / "llms-full.txt").write_text(llms_full(), encoding="utf-8")


# ---- llms.txt -----------------------------------------------------------------------------------


def llms_index() -> str:
    """Return the list of all pages, with the first sentence of each."""
    lines = ["# mixpanel-async", "", f"> {Page.read(ROOT / 'README.md').summary}", ""]
    for section in navigation.sections():
        for title, paths in section.items():
            lines += [f"## {title}", ""]
            lines += [
                f"- [{navigation.title_of(path)}]({address(path)}): {first_sentence(path)}"
                for path in paths
            ]
            lines.append("")
    return "\n".join(lines)


def first_sentence(path: str) -> str:
    """Return what a page is about, in at most about 120 characters."""
    for section in api.SECTIONS:
        if path == f"api/{section.page}.md":
            return section.text.partition(". ")[0].rstrip(".")
    text = re.split(r"[.:;] ", Page.read(ROOT / path).summary)[0].rstrip(".")
    return text if len(text) <= 120 else text[:120].rpartition(" ")[0] + " …"


def llms_full() -> str:
    """Return the text of all pages, those of the API with signatures and docstrings."""
    pages = {f"api/{section.page}.md": section for section in api.SECTIONS}
    parts = []
    for section in navigation.sections():
        for paths in section.values():
            for path in paths:
                text = (
                    api.as_text(pages[path])
                    if path in pages
                    else without_comments((ROOT / path).read_text(encoding="utf-8"))
                )
                parts.append(f"<!-- {address(path)} -->\n\n{text.strip()}\n")
    return "\n".join(parts)


def address(path: str) -> str:
    """Return the address of a page, relative to the site."""
    stem = path.removesuffix(".md")
    folder, _, name = stem.rpartition("/")
    if name in ("README", "index"):
        return f"{folder}/" if folder else "./"
    return f"{stem}/"


# ---- what is in the site -------------------------------------------------------------------------


def inventory(site: Path) -> dict[str, str]:
    """Return the names that the site documents, and their addresses, from `objects.inv`."""
    data = (site / "objects.inv").read_bytes()
    start = 0
    for _ in range(4):
        start = data.index(b"\n", start) + 1
    found = {}
    for line in zlib.decompress(data[start:]).decode().splitlines():
        name, _kind, _priority, location, _title = line.split(" ", 4)
        found[name] = location.replace("$", name)
    return found


def undocumented(site: Path) -> list[str]:
    """Return the public names, and public methods of public classes, that the site lacks."""
    import inspect

    documented = inventory(site)
    missing = []
    for modules in api.all_names().values():
        for names in modules.values():
            for path, value in names.items():
                if path not in documented:
                    missing.append(path)
                elif inspect.isclass(value):
                    missing += [
                        f"{path}.{method}"
                        for method in api.methods_of(value)
                        if f"{path}.{method}" not in documented
                    ]
    return missing


class _Loads(HTMLParser):
    """Collect what a page loads, as opposed to what it links to."""

    LOADING = ("script", "img", "iframe", "source", "video", "audio", "embed", "object")

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids.add(found.get("id", ""))
        if tag in self.LOADING:
            self.loaded += [found[name] for name in ("src", "srcset", "data") if name in found]
        if tag == "link" and found.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(found.get("href", ""))
        if tag == "a" and "href" in found:
            self.links.append(found["href"])


def _parsed(path: Path) -> _Loads:
    parser = _Loads()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


def foreign_loads(site: Path) -> list[str]:
    """Return what pages, style sheets and scripts load from another host."""
    found = []
    for path in sorted(site.rglob("*.html")):
        found += [
            f"{path.relative_to(site)}: {address}"
            for address in _parsed(path).loaded
            if re.match(r"(?:[a-z]+:)?//", address)
        ]
    for path in sorted(site.rglob("*.css")):
        text = path.read_text(encoding="utf-8")
        found += [
            f"{path.relative_to(site)}: {address}"
            for address in re.findall(r"(?:url\(|@import\s+)[\"']?((?:https?:)?//[^\"')\s]+)", text)
        ]
    return found


def dead_links(site: Path) -> Iterator[str]:
    """Yield the links of the pages that lead to no file or no anchor of the site."""
    parsed = {path: _parsed(path) for path in sorted(site.rglob("*.html"))}
    for path, page in parsed.items():
        if path.name == "404.html":
            continue
        for link in page.links:
            target, _, fragment = link.partition("#")
            if re.match(r"[a-z]+:", link) or not link:
                continue
            file = (path.parent / target).resolve() if target else path
            file = file / "index.html" if file.is_dir() else file
            if not file.is_file():
                yield f"{path.relative_to(site)}: {link} leads to no file"
            elif fragment and file in parsed and fragment not in parsed[file].ids:
                yield f"{path.relative_to(site)}: {link} leads to no anchor"


def unlisted(site: Path) -> list[str]:
    """Return the pages that `llms.txt` does not list or `llms-full.txt` does not hold."""
    index, full = ((site / name).read_text("utf-8") for name in ("llms.txt", "llms-full.txt"))
    found = []
    for path in sorted(site.rglob("*.html")):
        where = str(path.parent.relative_to(site)) + "/"
        where = "./" if where == "./" else where
        if path.name != "404.html" and (
            f"({where})" not in index or f"<!-- {where} -->" not in full
        ):
            found.append(where)
    if len(index.encode()) > INDEX_BYTES:
        found.append(f"llms.txt has more than {INDEX_BYTES} bytes")
    return found


def problems(site: Path) -> list[str]:
    """Return everything that is wrong with a built site."""
    return [
        *(f"not documented: {name}" for name in undocumented(site)),
        *(f"loaded from another host: {load}" for load in foreign_loads(site)),
        *dead_links(site),
        *(f"not in llms.txt: {page}" for page in unlisted(site)),
    ]
