"""Records the screenshots of the README: `picket demo` with sites of its own, a made past, and a real failure.

Writes docs/images/*.png. Pages, checks, incidents and votes are real; the weeks before are made by screens_history.sql
from what the regions measure, since nobody waits for them.

    just record-screens        builds, installs the pinned packages, and runs this script
"""

import sys

from playwright.sync_api import sync_playwright

import browsers
import page_checks
import systems

OUTPUT = systems.ROOT / "docs/images"
HISTORY = systems.ROOT / "tests/web/screens_history.sql"
REGIONS = ["ap-south", "eu-west", "us-east"]
TARGET_PORT = 28190
PLAIN = f"http://localhost:{TARGET_PORT}"
SECURE = f"https://localhost:{TARGET_PORT + 1}"
# Name, URL, and the first part of its tags.
SITES = [
    ("Shop", f"{SECURE}/fine?shop", "store"),
    ("Checkout", f"{SECURE}/fine?checkout", "store"),
    ("Catalogue", f"{SECURE}/fine?catalogue", "store"),
    ("Journal", f"{SECURE}/fine?journal", "press"),
    ("Newsletter", f"{SECURE}/silent?newsletter", "press"),
    ("Clinic", f"{SECURE}/health?clinic", "health"),
    ("Bookings", f"{SECURE}/hop/2?bookings", "health"),
    ("Search", f"{PLAIN}/flapping?search", "store"),
]
FEATURED, FAILED, FLAPPING = "Shop", "Newsletter", "Search"
INTERVAL = "10s"
EVENT_TIMEOUT = 240
WIDTH = 1280
# Taller pages are cut, where a part of them ends: a reader of the README sees their beginning.
MAX_HEIGHTS = {"overview": 900, "site": 1192, "check": 1000, "incident": 900}
MAX_BYTES = 600_000


class DemoSystem(systems.System):
    """`picket demo` on ports of its own."""

    def start(self):
        ports = systems.find_free_ports(3)
        self.url = f"http://127.0.0.1:{ports[2]}"
        self.spawn(
            "picket", "demo", "--regions", ",".join(REGIONS), "--tools-dir", str(systems.TOOLS), "--nats-port", str(ports[0]),
            "--pg-port", str(ports[1]), "--api-listen", f"127.0.0.1:{ports[2]}", "--target-port", str(TARGET_PORT),
        )
        self.variables |= systems.eventually(systems.START_TIMEOUT, "file env of picket demo", self.read_environment)
        systems.eventually(systems.START_TIMEOUT, "web UI", lambda: systems.is_ok(f"{self.url}/api/v1/openapi.json"))

    def find_site(self, name):
        [[site]] = self.query(f"SELECT site_id FROM report.sites WHERE site = '{name}'")
        return site

    def wait_for_row(self, what, statement):
        [row] = systems.eventually(EVENT_TIMEOUT, what, lambda: self.query(statement))
        return row


def fill_system(system):
    """Replaces the demo's sites, and waits until each has results, one is down and one was."""
    systems.eventually(EVENT_TIMEOUT, "sites of the demo", lambda: system.query("SELECT 1 FROM picket.sites LIMIT 1"))
    system.query("DELETE FROM picket.sites; DELETE FROM picket.incidents; DELETE FROM picket.warnings")
    for name, url, tag in SITES:
        system.run_picket(
            "site", "add", url, "--name", name, "--interval", INTERVAL, "--timeout", "2s", "--tag", tag, "--tag", "production"
        )
    expected = str(len(SITES) * len(REGIONS))
    counted = "SELECT count(DISTINCT (site_id, region_id)) FROM picket.check_results WHERE site_id IN (SELECT id FROM picket.sites)"
    systems.eventually(EVENT_TIMEOUT, "check of each site in each region", lambda: system.query(counted) == [[expected]])
    system.query(HISTORY.read_text())
    system.wait_for_row("incident", f"SELECT 1 FROM report.incidents WHERE site_id = {system.find_site(FAILED)} AND closed_at IS NULL")
    system.wait_for_row(
        "closed incident",
        f"SELECT incident_id FROM report.incidents WHERE site_id = {system.find_site(FLAPPING)} AND closed_at IS NOT NULL LIMIT 1",
    )
    ledger = "SELECT 1 FROM picket.leases HAVING min(accounted_through) > now() - interval '2 minutes'"
    system.wait_for_row("closed ledger", ledger)


def list_screens(system):
    """Names and paths of the screenshots."""
    failed, flapping = system.find_site(FAILED), system.find_site(FLAPPING)
    region, due = system.wait_for_row(
        "failed check",
        "SELECT region, to_char(scheduled_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM report.checks"
        f" WHERE site_id = {failed} AND kind = 'scheduled' AND outcome = 'down' ORDER BY scheduled_at DESC LIMIT 1",
    )
    [incident] = system.wait_for_row(
        "closed incident",
        f"SELECT incident_id FROM report.incidents WHERE site_id = {flapping} AND closed_at IS NOT NULL"
        " ORDER BY opened_at DESC LIMIT 1",
    )
    return {
        "overview": "/",
        "site": f"/sites/{system.find_site(FEATURED)}",
        "check": f"/checks/{failed}/{region}/{due}",
        "incident": f"/incidents/{incident}",
    }


def record(system, browser):
    context = browser.new_context(viewport={"width": WIDTH, "height": 640}, color_scheme="light", reduced_motion="reduce")
    page = context.new_page()
    page_checks.open_page(page, system.read_sign_in_link())
    for name, path in list_screens(system).items():
        page_checks.open_page(page, system.url + path)
        height = page.evaluate("document.documentElement.scrollHeight")
        page.screenshot(
            path=OUTPUT / f"{name}.png", full_page=True, animations="disabled",
            clip={"x": 0, "y": 0, "width": WIDTH, "height": min(height, MAX_HEIGHTS[name])},
        )
    context.close()
    sizes = {path.name: path.stat().st_size for path in sorted(OUTPUT.glob("*.png"))}
    print(f"wrote {sizes} to {OUTPUT.relative_to(systems.ROOT)}")
    if sum(sizes.values()) > MAX_BYTES:
        sys.exit(f"the screenshots have {sum(sizes.values())} bytes; allowed: {MAX_BYTES}")


def main():
    found = browsers.find_browser(systems.TOOLS)
    with systems.start_system(DemoSystem) as system, sync_playwright() as playwright:
        fill_system(system)
        browser = found.launch(playwright)
        record(system, browser)
        browser.close()


if __name__ == "__main__":
    main()
