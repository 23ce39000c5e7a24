"""The page about agents shows what happens, and `mp docs` finds every page and section."""

import pytest

from mixpanel._agents import documentation
from mixpanel._agents.documentation import TopicNotFoundError
from tests.agents.transcript import PAGE, generated


@pytest.mark.slow
def test_the_run_on_the_page_is_what_an_agent_sees():
    """Renew it with `python -m tests.agents.transcript`."""
    page = PAGE.read_text(encoding="utf-8")
    assert page == generated(page)


def test_every_page_and_section_is_found_by_its_name():
    """With a title, a summary and a text."""
    known = documentation.topics()
    assert {"agents", "queries", "emulator", "readme", "cdp-clients"} <= known.keys()
    for name, page in known.items():
        assert (page, None) == documentation.find(name)
        assert page.title
        assert page.summary
        for section in page.sections:
            assert (page, section) == documentation.find(f"{name}#{section.slug}")
            assert section.text.startswith("#")


def test_a_section_is_found_by_its_heading_alone():
    """If only one page has it; case and spaces do not matter."""
    page, section = documentation.find("Run a query")
    assert ("queries", "run-a-query") == (page.name, section.slug)


def test_a_heading_of_several_pages_is_answered_with_all_of_them():
    """One has to be chosen."""
    by_slug = {}
    for page in documentation.topics().values():
        for section in page.sections:
            by_slug.setdefault(section.slug, []).append(f"{page.name}#{section.slug}")
    slug, names = next(each for each in by_slug.items() if len(each[1]) > 1)
    with pytest.raises(TopicNotFoundError) as raised:
        documentation.find(slug)
    assert names == raised.value.similar


@pytest.mark.parametrize(
    ("wanted", "similar"),
    [
        ("querys", "queries"),
        ("queries#run", "queries#run-a-query"),
        ("local report", "local-reports"),
    ],
)
def test_an_unknown_topic_is_answered_with_similar_ones(wanted, similar):
    """Of pages and of sections."""
    with pytest.raises(TopicNotFoundError, match="did you mean") as raised:
        documentation.find(wanted)
    assert similar in raised.value.similar


@pytest.mark.slow
@pytest.mark.parametrize(
    "wanted", ["", "#", "../../etc/passwd", "\x00", "a" * 100_000, "queries#-"]
)
def test_odd_topics_find_no_file(wanted):
    """They are looked up among the pages, and never opened as a path."""
    with pytest.raises(TopicNotFoundError) as raised:
        documentation.find(wanted)
    assert len(str(raised.value)) < 500


def test_the_list_for_models_names_every_page():
    """In the format of llms.txt: a title, a quote, a list of links."""
    text = documentation.llms_text()
    assert text.startswith("# mixpanel-async\n\n> ")
    for name, page in documentation.topics().items():
        assert f"- [{page.title}](mp://docs/{name}): {page.summary}" in text
    assert len(text) < 12_000


def test_headings_in_code_are_no_sections():
    """A comment in a shell example begins with #, too."""
    page = documentation._topic("t", "# T\n\nText.\n\n```sh\n# not a heading\n```\n\n## Second\n")
    assert ["T", "Second"] == [each.title for each in page.sections]
    assert "not a heading" in page.sections[0].text
