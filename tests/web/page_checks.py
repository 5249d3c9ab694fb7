"""What every page must satisfy in a browser, and the contexts in which pages are opened."""

import dataclasses
import json
import pathlib

import npm_packages

# WCAG 2.2 AA and the practices of axe, all rules that need no person.
AXE_OPTIONS = {"resultTypes": ["violations"]}
NAVIGATION_TIMEOUT = 15_000
# Width of a small phone, in CSS pixels (WCAG 2.2, 1.4.10 Reflow, allows no scrolling sideways at 320).
PHONE_WIDTH = 360


@dataclasses.dataclass(frozen=True)
class Context:
    """A way to look at a page. The name is part of the screenshot's."""

    name: str
    options: dict
    media: str = "screen"
    has_axe: bool = False

    def __str__(self):
        return self.name

    @property
    def has_javascript(self):
        """Scripts of the tests run in pages that may run scripts; in others they would wait for ever."""
        return self.options.get("java_script_enabled", True)


CONTEXTS = [
    Context("light", {"color_scheme": "light"}, has_axe=True),
    Context("dark", {"color_scheme": "dark"}, has_axe=True),
    Context("phone", {"viewport": {"width": PHONE_WIDTH, "height": 740}, "has_touch": True}),
    Context("without-javascript", {"java_script_enabled": False}),
    Context("print", {}, media="print"),
]


class PageObserver:
    """Collects what a person would not see: console errors, exceptions, failing requests, refused content."""

    def __init__(self, page):
        self.findings = []
        page.on("console", self._add_console_message)
        page.on("pageerror", lambda error: self.findings.append(f"exception: {error}"))
        page.on("requestfailed", self._add_failed_request)
        page.on("response", self._add_response)

    def _add_console_message(self, message):
        # A violation of the content security policy is one of them, also without JavaScript.
        # Failed requests are reported by their responses, which tell a page from its parts.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.findings.append(f"console {message.type}: {message.text}")

    def _add_failed_request(self, request):
        # A page that is left ends its event stream, and its request for newer content.
        if request.resource_type in ("eventsource", "fetch") and request.failure == "net::ERR_ABORTED":
            return
        self.findings.append(f"request failed: {request.method} {request.url}: {request.failure}")

    def _add_response(self, response):
        # A form that refuses a value answers with 422, by a document or to a script, which is what is under test.
        is_refusal = response.status == 422 and response.request.method == "POST"
        if response.status >= 400 and response.request.resource_type != "document" and not is_refusal:
            self.findings.append(f"response {response.status}: {response.request.method} {response.url}")

    def require_nothing_found(self):
        findings, self.findings = self.findings, []
        assert not findings, "the browser reports:\n" + "\n".join(findings)


def open_page(page, url):
    """Opens a page and waits until it is loaded. Its stream of events never ends, so it is not waited for."""
    response = page.goto(url, wait_until="load", timeout=NAVIGATION_TIMEOUT)
    assert response.ok, f"{url} answered {response.status}"
    return response


def require_accessible(page, tools):
    """Fails with axe's violations, each with its elements and what to do."""
    axe = npm_packages.install_package(tools, "axe-core") / "package" / "axe.min.js"
    # Evaluated by the debugger, which no content security policy refuses.
    page.evaluate(axe.read_text())
    result = page.evaluate(f"axe.run(document, {json.dumps(AXE_OPTIONS)})")
    lines = []
    for violation in result["violations"]:
        lines.append(f"{violation['id']} ({violation['impact']}): {violation['help']}; {violation['helpUrl']}")
        lines += [f"    {node['html'][:300]}\n    {node['failureSummary']}" for node in violation["nodes"]]
    assert not lines, "axe reports:\n" + "\n".join(lines)


def require_no_sideways_scrolling(page):
    """Fails with the elements that make the page wider than the screen. Needs JavaScript."""
    wide = page.evaluate(
        """() => {
            const width = document.documentElement.clientWidth;
            if (document.documentElement.scrollWidth <= width) return [];
            const elements = [...document.querySelectorAll("body *")]
                .filter(element => element.getBoundingClientRect().left + element.scrollWidth > width)
                .slice(-10).map(element => element.outerHTML.slice(0, 120));
            return [`${document.documentElement.scrollWidth} instead of ${width} pixels`, ...elements];
        }"""
    )
    assert not wide, "wider than the screen:\n" + "\n".join(wide)


def save_screenshot(page, directory, name):
    path = pathlib.Path(directory) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path, full_page=True, animations="disabled")
