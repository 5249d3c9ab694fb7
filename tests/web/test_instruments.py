"""The checks of page_checks.py on pages that are faulty on purpose: a check that cannot fail would prove nothing."""

import contextlib
import http.server
import threading

import pytest

import page_checks
import systems

LIGHT, DARK, PHONE, WITHOUT_JAVASCRIPT, PRINT = page_checks.CONTEXTS
HEAD = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sites</title><link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/style.css"></head>"""
STYLE = """
:root { color-scheme: light dark }
.faint { color: #111; background: #fff }
@media (prefers-color-scheme: dark) { .faint { color: #333; background: #222 } }
@media print { nav { display: none } }
"""
PAGES = {
    "/style.css": STYLE,
    "/script.js": "document.querySelector('p').textContent = 'enhanced'",
    "/sound": f"{HEAD}<body><main><h1>Sites</h1><p>All are up.</p></main></body></html>",
    "/enhanced": f"{HEAD}<body><main><h1>Sites</h1><p>All are up.</p></main><script src=/script.js></script></body></html>",
    "/blank": f"{HEAD}<body><main></main></body></html>",
    "/logs": f"{HEAD}<body><script src=/logs.js></script></body></html>",
    "/logs.js": "console.error('no such site')",
    "/throws": f"{HEAD}<body><script src=/throws.js></script></body></html>",
    "/throws.js": "null.site",
    "/lacks-image": f"{HEAD}<body><img src=/nowhere.png alt=Logo></body></html>",
    "/inline-style": f"{HEAD}<body><p style='color: red'>down</p></body></html>",
    "/inline-script": f"{HEAD}<body><p>up</p><script>document.title = 'No'</script></body></html>",
    "/unlabelled": f"{HEAD}<body><main><h1>Sites</h1><input type=search></main></body></html>",
    "/faint-in-the-dark": f"{HEAD}<body><main><h1>Sites</h1><p class=faint>All are up.</p></main></body></html>",
    "/wide": f"{HEAD}<body><main><h1>Sites</h1><pre>{'wide' * 100}</pre></main></body></html>",
    "/navigation": f"{HEAD}<body><nav>Overview</nav><main><h1>Sites</h1></main></body></html>",
}


class PageHandler(http.server.BaseHTTPRequestHandler):
    """Serves PAGES under the content security policy of the web UI."""

    def do_GET(self):
        body = PAGES.get(self.path)
        kind = {"css": "text/css", "js": "text/javascript"}.get(self.path.rpartition(".")[2], "text/html")
        self.send_response(404 if body is None else 200)
        self.send_header("content-type", f"{kind}; charset=utf-8")
        self.send_header("content-security-policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:")
        self.end_headers()
        self.wfile.write((body or "not found").encode())

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def url():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), PageHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def observe(browser, url):
    """A function that opens a page of PAGES and returns it with its findings."""
    with contextlib.ExitStack() as stack:

        def observe_page(path, context=LIGHT):
            page = stack.enter_context(contextlib.closing(browser.new_context(**context.options))).new_page()
            page.emulate_media(media=context.media)
            observer = page_checks.PageObserver(page)
            page_checks.open_page(page, url + path)
            page.wait_for_load_state("networkidle")
            return page, observer

        yield observe_page


@pytest.mark.parametrize("context", page_checks.CONTEXTS, ids=str)
def test_a_sound_page_passes_in_every_context(observe, context):
    page, observer = observe("/sound", context)

    observer.require_nothing_found()
    if context.has_javascript:
        page_checks.require_no_sideways_scrolling(page)
        page_checks.require_accessible(page, systems.TOOLS)


@pytest.mark.parametrize(
    ("path", "finding"),
    [
        ("/logs", "no such site"),
        ("/throws", "exception"),
        ("/lacks-image", "404"),
        ("/inline-style", "Content Security Policy"),
        ("/inline-script", "Content Security Policy"),
    ],
)
def test_a_faulty_page_is_reported_with_its_fault(observe, path, finding):
    _, observer = observe(path)

    with pytest.raises(AssertionError, match=finding):
        observer.require_nothing_found()


def test_a_field_without_a_label_is_an_accessibility_violation(observe):
    page, _ = observe("/unlabelled")

    with pytest.raises(AssertionError, match="label"):
        page_checks.require_accessible(page, systems.TOOLS)


def test_faint_text_is_a_violation_only_in_the_colour_scheme_that_has_it(observe):
    page_checks.require_accessible(observe("/faint-in-the-dark", LIGHT)[0], systems.TOOLS)

    with pytest.raises(AssertionError, match="color-contrast"):
        page_checks.require_accessible(observe("/faint-in-the-dark", DARK)[0], systems.TOOLS)


def test_a_page_wider_than_a_phone_is_reported_with_the_element(observe):
    page, _ = observe("/wide", PHONE)

    with pytest.raises(AssertionError, match="<pre>"):
        page_checks.require_no_sideways_scrolling(page)


def test_a_page_without_javascript_shows_what_the_server_sent(observe):
    assert observe("/enhanced", LIGHT)[0].get_by_text("enhanced").is_visible()
    assert observe("/enhanced", WITHOUT_JAVASCRIPT)[0].get_by_text("All are up.").is_visible()


def test_a_printed_page_is_rendered_with_the_style_of_print(observe):
    assert observe("/navigation", LIGHT)[0].get_by_role("navigation").is_visible()
    assert not observe("/navigation", PRINT)[0].get_by_role("navigation").is_visible()


def test_a_screenshot_shows_the_text_of_the_page(observe, tmp_path):
    for name in ("sound", "blank"):
        page_checks.save_screenshot(observe(f"/{name}")[0], tmp_path, name)

    # Without fonts, both would be empty pages.
    assert (tmp_path / "sound.png").read_bytes() != (tmp_path / "blank.png").read_bytes()
