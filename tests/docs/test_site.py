"""What the checks of a built site refuse; and, where it is built, the site itself."""

import zlib

import pytest

from tests.docs import site

INVENTORY = b"# Sphinx inventory version 2\n# Project: x\n# Version: 1\n# zlib\n"


@pytest.fixture
def built(tmp_path):
    """Return a function that writes the page of a site, and the site's folder."""

    def write(body, name="index.html"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"<html><body>{body}</body></html>", encoding="utf-8")
        return tmp_path

    return write


@pytest.mark.parametrize(
    "tag",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/x.css">',
        '<img src="http://example.org/x.png">',
        '<iframe src="https://example.org"></iframe>',
    ],
)
def test_what_a_page_loads_from_another_host_is_found(built, tag):
    """Scripts, styles, images and frames; a link that is only clicked is fine."""
    folder = built(tag + '<a href="https://example.org">x</a><script src="assets/x.js"></script>')
    assert len(site.foreign_loads(folder)) == 1


def test_a_style_sheet_that_loads_a_font_is_found(built):
    """By `url(...)` and by `@import`; data in the sheet itself is fine."""
    folder = built("")
    (folder / "x.css").write_text(
        '@import "https://fonts.example/a.css";'
        "@font-face{src:url(https://fonts.example/b)} a{b:url(data:image/png;base64,x)}"
    )
    assert len(site.foreign_loads(folder)) == 2


def test_a_dead_link_or_anchor_of_the_site_is_found(built):
    """A file or an id that is not there; others pass."""
    built('<p id="here">', "a/index.html")
    folder = built('<a href="a/#here"></a><a href="a/#there"></a><a href="b/"></a>')
    assert list(site.dead_links(folder)) == [
        "index.html: a/#there leads to no anchor",
        "index.html: b/ leads to no file",
    ]


def test_a_public_name_without_its_place_is_found(tmp_path, monkeypatch):
    """A name, and a method of a class."""

    class Client:
        def track(self):
            """Track."""

    Client.__module__ = "mixpanel.client"
    names = {"page": {"mixpanel": {"mixpanel.Client": Client, "mixpanel.other": 1}}}
    monkeypatch.setattr(site.api, "all_names", lambda: names)
    lines = b"mixpanel.Client py:class 1 api/clients/#$ -\n"
    (tmp_path / "objects.inv").write_bytes(INVENTORY + zlib.compress(lines))
    assert site.inventory(tmp_path) == {"mixpanel.Client": "api/clients/#mixpanel.Client"}
    assert site.undocumented(tmp_path) == ["mixpanel.Client.track", "mixpanel.other"]


def test_a_page_that_llms_txt_lacks_is_found(built):
    """In the index or in the full text; and an index that is too long."""
    built("", "docs/x/index.html")
    folder = built("")
    (folder / "llms.txt").write_text("- [Start](./)\n- [X](docs/x/)\n")
    (folder / "llms-full.txt").write_text("<!-- ./ -->\n")
    assert site.unlisted(folder) == ["docs/x/"]
    (folder / "llms.txt").write_text("(./) (docs/x/)" + " " * site.INDEX_BYTES)
    assert len(site.unlisted(folder)) == 2


@pytest.mark.slow
def test_the_index_for_models_lists_every_page_in_little_space():
    """Title, address and first sentence of each; the full text has what each says."""
    index, full = site.llms_index(), site.llms_full()
    assert "[Troubleshooting](docs/troubleshooting/)" in index
    assert "[Clients and consumers](api/clients/)" in index
    assert len(index.encode()) < site.INDEX_BYTES
    assert "<!-- docs/troubleshooting/ -->\n\n# Troubleshooting" in full
    assert "## mixpanel.AsyncMixpanel(" in full


@pytest.mark.slow
def test_the_built_site_has_no_problems():
    """Strictly built before, by `tox run -e docs`."""
    pytest.importorskip("zensical", reason="needs zensical, from the dependency group `docs`")
    if not (site.SITE / "objects.inv").is_file():
        pytest.skip("the site is not built: python -m tests.docs build")
    assert site.problems(site.SITE) == []
