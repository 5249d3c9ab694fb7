"""The browser and the system of all tests. `just web` runs them."""

import signal

import pytest
from playwright.sync_api import sync_playwright

import browsers
import page_checks
import systems


# Far above the time of any test, fixtures included; within the five minutes that `just web` may take.
TEST_TIMEOUT = 120


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Interrupts a test that hangs in the browser, where no timeout of its own applies."""

    def interrupt(*_):
        raise TimeoutError(f"{item.name} took more than {TEST_TIMEOUT} s")

    signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(TEST_TIMEOUT)
    try:
        return (yield)
    finally:
        signal.alarm(0)


@pytest.fixture(scope="session")
def browser():
    found = browsers.find_browser(systems.TOOLS)
    with sync_playwright() as playwright:
        running = found.launch(playwright)
        yield running
        running.close()


@pytest.fixture(scope="session")
def system():
    with systems.start_system() as started:
        yield started


@pytest.fixture(scope="session")
def session(browser, system):
    """State of a browser in which a person has opened the link that `picket up` prints."""
    context = browser.new_context()
    page_checks.open_page(context.new_page(), system.read_sign_in_link())
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def open_context(browser, session):
    """A function that opens a page in a context of its own. What the browser reports of it fails the test."""
    opened = []

    def open_in(context, signed_in=True):
        browser_context = browser.new_context(**context.options, storage_state=session if signed_in else None)
        page = browser_context.new_page()
        page.set_default_timeout(page_checks.NAVIGATION_TIMEOUT)
        page.emulate_media(media=context.media)
        opened.append((browser_context, page_checks.PageObserver(page)))
        return page

    yield open_in
    for browser_context, _ in opened:
        browser_context.close()
    for _, observer in opened:
        observer.require_nothing_found()
