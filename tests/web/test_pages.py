"""Every page of pages.py in every context: reports nothing, breaks no rule of axe, fits a phone, and has one heading."""

import urllib.parse

import pytest

import page_checks
import pages
import systems

SCREENSHOTS = systems.TARGET / "web"
LIGHT = page_checks.CONTEXTS[0]


@pytest.fixture(scope="module")
def facts(system):
    return pages.gather_facts(system)


@pytest.mark.parametrize("context", page_checks.CONTEXTS, ids=str)
@pytest.mark.parametrize("name", pages.PAGES)
def test_a_page_is_sound_in_every_context(system, facts, open_context, name, context):
    page = open_context(context)
    page_checks.open_page(page, system.url + facts.fill(pages.PAGES[name]))

    page_checks.save_screenshot(page, SCREENSHOTS, f"{name}-{context}")

    assert page.get_by_role("heading", level=1).count() == 1
    assert page.get_by_role("main").count() == 1
    if context.has_axe:
        page_checks.require_accessible(page, systems.TOOLS)
    if context.has_javascript and context.media == "screen":
        page_checks.require_no_sideways_scrolling(page)


def test_every_link_of_the_navigation_leads_to_a_listed_page(system, open_context):
    page = open_context(LIGHT)
    page_checks.open_page(page, system.url)

    links = page.get_by_role("navigation", name="Pages", exact=True).get_by_role("link").all()
    paths = {urllib.parse.urlsplit(link.get_attribute("href")).path for link in links}

    assert paths, "there is no navigation"
    assert paths <= set(pages.PAGES.values())


def test_every_page_can_be_reached_by_keyboard_alone(system, open_context):
    page = open_context(LIGHT)
    page_checks.open_page(page, system.url)

    page.keyboard.press("Tab")
    assert page.get_by_role("link", name="Skip to the content").is_visible()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")

    # Focus is in the content, not in the navigation before it.
    assert page.evaluate("document.querySelector('main').contains(document.activeElement)")
