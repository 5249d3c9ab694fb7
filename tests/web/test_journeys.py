"""What people do in the web UI, from the first page to the answer, with JavaScript and without it where it applies."""

import re
import urllib.parse

import pytest
from playwright.sync_api import expect

import page_checks
import pages
import systems

LIGHT, _, _, WITHOUT_JAVASCRIPT, _ = page_checks.CONTEXTS
BOTH = pytest.mark.parametrize("context", [LIGHT, WITHOUT_JAVASCRIPT], ids=str)
# Of a result that a region owes within its interval.
ARRIVAL_TIMEOUT = 30_000


def follow(page, name):
    """Follows a link of the navigation."""
    page.get_by_role("navigation", name="Pages", exact=True).get_by_role("link", name=name, exact=True).click()


def wait_for(page, context, locator):
    """Waits for an element that comes by itself, or without JavaScript with a new request."""
    if context.has_javascript:
        expect(locator).to_be_visible(timeout=ARRIVAL_TIMEOUT)
        return

    def is_there():
        page.reload()
        return locator.is_visible()

    systems.eventually(ARRIVAL_TIMEOUT / 1000, str(locator), is_there)


def add_site(system, name):
    """Adds a site that is checked every few seconds, and returns its number."""
    url = f"{system.website_url}?{urllib.parse.quote(name)}"
    system.run_picket("site", "add", url, "--name", name, "--interval", pages.INTERVAL)
    [[site]] = system.query(f"SELECT site_id FROM report.sites WHERE site = '{name}'")
    return site


def test_the_printed_link_signs_in_once(system, session, open_context):
    assert session["cookies"], "the link started no session"
    page = open_context(LIGHT)
    page_checks.open_page(page, system.url)
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()

    page.goto(system.read_sign_in_link())

    expect(page.get_by_role("alert")).to_contain_text("used")


@BOTH
def test_a_revoked_token_signs_nobody_in(system, open_context, context):
    name = f"agency-{context}"
    page = open_context(context)
    page_checks.open_page(page, system.url)
    follow(page, "Tokens")
    form = page.get_by_role("form", name="New token")
    form.get_by_label("Name").fill(name)
    form.get_by_role("button", name="Create token").click()
    secret = re.search(r"pkt_\w+", page.get_by_role("main").inner_text())[0]

    visitor = open_context(context, signed_in=False)
    page_checks.open_page(visitor, f"{system.url}/sign-in")
    sign_in_with_token(visitor, secret)
    expect(visitor.get_by_role("button", name="Sign out")).to_be_visible()

    page.get_by_role("row").filter(has_text=name).get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("row").filter(has_text=name)).to_contain_text("revoked")
    visitor.goto(f"{system.url}/sites")
    expect(visitor.get_by_role("main").get_by_role("link", name="Sign in")).to_be_visible()
    visitor.goto(f"{system.url}/sign-in")
    sign_in_with_token(visitor, secret)
    expect(visitor.get_by_role("alert")).to_contain_text("revoked")


def sign_in_with_token(page, secret):
    form = page.get_by_role("form", name="Sign in")
    form.get_by_label("Token").fill(secret)
    form.get_by_role("button", name="Sign in").click()


@BOTH
def test_the_first_check_of_an_added_site_arrives_long_before_its_first_tick(system, open_context, context):
    name = f"Added {context}"
    page = open_context(context)
    page_checks.open_page(page, system.url)
    page.get_by_role("link", name="Add a site").click()
    form = page.get_by_role("form", name="New site")
    form.get_by_label("URL", exact=True).fill(f"{system.website_url}?{context}")
    form.get_by_label("Name").fill(name)
    form.get_by_label("Interval").fill("1h")
    form.get_by_role("button", name="Add the site").click()

    expect(page.get_by_role("heading", level=1)).to_have_text(name)
    answers = page.get_by_role("region", name="First checks").get_by_role("row")
    for region in [*systems.REGIONS, systems.SLOW_REGION]:
        answer = answers.filter(has=page.get_by_role("rowheader", name=region))
        wait_for(page, context, answer.get_by_text("up", exact=True))
    # They are no ticks: nothing is in the history of the site.
    [[count]] = system.query(f"SELECT count(*) FROM report.checks JOIN report.sites USING (site_id) WHERE sites.site = '{name}'")
    assert count == "0"


@BOTH
def test_a_broken_site_is_down_with_the_votes_of_its_regions(system, open_context, context):
    name = f"Broken {context}"
    add_site(system, name)
    page = open_context(context)
    page_checks.open_page(page, f"{system.url}/")
    system.command_website("break")
    try:
        # A site without a result is there as well, as unknown.
        row = page.get_by_role("region", name="What is not up").get_by_role("row").filter(has_text=name)
        link = row.filter(has_text="down").get_by_role("link", name=name)
        wait_for(page, context, link)
        link.click()
        incident = page.get_by_role("region", name="Incidents").get_by_role("link").first
        wait_for(page, context, incident)
    finally:
        system.command_website("repair")
    incident.click()

    votes = page.get_by_role("group", name="Votes")
    for region in [*systems.REGIONS, systems.SLOW_REGION]:
        expect(votes.get_by_role("rowheader", name=region)).to_be_visible()
    expect(votes.get_by_text("down", exact=True).first).to_be_visible()


@BOTH
def test_a_check_from_everywhere_is_answered_by_each_region_with_its_waterfall(system, open_context, context):
    page = open_context(context)
    page_checks.open_page(page, system.url)
    follow(page, "Check")
    page.get_by_label("URL", exact=True).fill(system.website_url)
    page.get_by_role("button", name="Check now").click()

    for region in [*systems.REGIONS, systems.SLOW_REGION]:
        answer = page.get_by_role("region", name=region, exact=True)
        expect(answer.get_by_text("up", exact=True)).to_be_visible(timeout=ARRIVAL_TIMEOUT)
        expect(answer.get_by_role("img")).to_have_accessible_name(re.compile("First byte"))
    expect(page.get_by_text("3 of 3 regions say up.", exact=True)).to_be_visible()
    if context.has_javascript:
        # The answers came one by one into the page that was there.
        assert page.evaluate("performance.getEntriesByType('navigation')[0].name").endswith("/check")
        assert page.evaluate("performance.getEntriesByType('resource').some(entry => entry.name.endsWith('/check'))")


def test_a_refused_check_says_why_without_leaving_the_page(system, open_context):
    page = open_context(LIGHT)
    page_checks.open_page(page, f"{system.url}/check")
    page.get_by_label("URL", exact=True).fill("ftp://example.com")
    with page.expect_response("**/check") as refused:
        page.get_by_role("button", name="Check now").click()

    assert refused.value.status == 422
    expect(page.get_by_role("status")).to_contain_text("'ftp://example.com' is not allowed")


@BOTH
def test_a_past_moment_of_a_site_has_an_address_of_its_own(system, open_context, context):
    site = add_site(system, f"Remembered {context}")
    pages.wait_for_check(system, site, "up", systems.REGIONS[0])
    page = open_context(context)
    page_checks.open_page(page, f"{system.url}/sites/{site}")
    page.get_by_text("Show another moment").click()
    page.get_by_role("link", name="Permalink of this moment").click()

    expect(page.get_by_text("As of")).to_be_visible()
    expect(page.get_by_role("heading", name="Then, by region")).to_be_visible()
    permalink = page.url
    page.get_by_role("link", name="An hour earlier").click()
    expect(page.get_by_text("before the site was added")).to_be_visible()
    page.goto(permalink)
    expect(page.get_by_role("region", name="Then, by region").get_by_text("up", exact=True).first).to_be_visible()
    page.get_by_role("link", name="Now", exact=True).click()
    expect(page.get_by_role("heading", name="Now, by region")).to_be_visible()


def test_an_edit_is_marked_on_the_charts_and_named_beside_them(system, open_context):
    site = add_site(system, "Edited")
    page = open_context(LIGHT)
    page_checks.open_page(page, f"{system.url}/sites/{site}")
    edits = page.get_by_role("region", name="Edits in this span").get_by_role("listitem")
    expect(edits).to_have_count(1)
    system.query(f"UPDATE picket.sites SET interval_seconds = 7 WHERE id = {site}")

    page.reload()

    expect(edits).to_have_count(2)
    expect(edits.last).to_contain_text("interval 7 s instead of 5 s")
    assert page.locator("svg.chart-phases g.edit").count() == 2


def test_the_slow_region_has_the_longest_time_on_the_page_of_the_site(system, open_context):
    system.command_website("slow 400")
    try:
        site = add_site(system, "Slow somewhere")
        checked = f"SELECT count(DISTINCT region) FROM report.checks WHERE site_id = {site}"
        regions = [*systems.REGIONS, systems.SLOW_REGION]
        systems.eventually(
            ARRIVAL_TIMEOUT / 1000, "check of each region", lambda: system.query(checked) == [[str(len(regions))]]
        )
        page = open_context(LIGHT)
        page_checks.open_page(page, f"{system.url}/sites/{site}")

        rows = page.get_by_role("group", name="Newest check of each region").get_by_role("row")

        def read_times():
            page.reload()
            times = {region: read_milliseconds(rows.filter(has=page.get_by_role("rowheader", name=region))) for region in regions}
            return times if all(times.values()) else None

        # The newest check of a region may be one that a busy machine missed.
        times = systems.eventually(ARRIVAL_TIMEOUT / 1000, "time of each region", read_times)
    finally:
        system.command_website("slow 0")

    assert max(times, key=times.get) == systems.SLOW_REGION, times


def read_milliseconds(row):
    """The column "Took" of a row of regions; None without a time."""
    found = re.search(r"([\d.,]+)\s*(µs|ms|s)\b", row.get_by_role("cell").nth(3).inner_text())
    if not found:
        return None
    number, unit = found.groups()
    return float(number.replace(",", "")) * {"µs": 0.001, "ms": 1, "s": 1000}[unit]


@BOTH
def test_the_waterfall_of_a_failed_check_begins_at_its_due_time(system, open_context, context):
    site = add_site(system, f"Failed {context}")
    system.command_website("break")
    try:
        systems.eventually(
            ARRIVAL_TIMEOUT / 1000, "failed check",
            lambda: system.query(f"SELECT 1 FROM report.checks WHERE site_id = {site} AND outcome = 'down'"),
        )
    finally:
        system.command_website("repair")
    page = open_context(context)
    page_checks.open_page(page, f"{system.url}/sites/{site}")
    page.get_by_role("region", name="Newest checks").get_by_role("row").filter(has_text="down").get_by_role("link").first.click()

    waterfall = page.get_by_role("region", name="From the due time on")
    expect(waterfall.get_by_role("img")).to_have_accessible_name(re.compile("late|due"))
    expect(page.get_by_role("main").get_by_text("503").first).to_be_visible()


@BOTH
def test_planned_maintenance_is_listed_and_can_be_removed(system, open_context, context):
    name = f"Maintained {context}"
    site = add_site(system, name)
    page = open_context(context)
    page_checks.open_page(page, system.url)
    follow(page, "Maintenance")
    page.get_by_label("Site number").fill(site)
    page.get_by_label("To (UTC").fill("+2h")
    page.get_by_role("button", name="Add window").click()

    row = page.get_by_role("row").filter(has_text=name)
    expect(row).to_contain_text("maintenance")
    row.get_by_role("button", name="Remove").click()
    expect(page.get_by_role("row").filter(has_text=name).filter(has_text="maintenance")).to_have_count(0)


def follow_tab(page, name):
    """Follows a link among the pages of notifications."""
    follow(page, "Notifications")
    page.get_by_role("navigation", name="Pages of notifications").get_by_role("link", name=name).click()


@BOTH
def test_a_channel_and_a_route_decide_who_is_told_about_a_site(system, open_context, context):
    channel, name = f"desk-{context}", f"Told {context}"
    site = add_site(system, name)
    page = open_context(context)
    page_checks.open_page(page, system.url)
    follow_tab(page, "Channels")
    page.get_by_label("New channel of the kind").select_option("webhook")
    page.get_by_role("button", name="Choose").click()
    form = page.get_by_role("form", name="New channel")
    form.get_by_label("Name", exact=True).fill(channel)
    form.get_by_label("URL, or secret:NAME").fill(system.website_url)
    form.get_by_role("button", name="Add channel").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Channel {channel}")

    page.get_by_role("button", name="Send a test").click()
    # The receiver's answer, or why there is none.
    main = page.get_by_role("main")
    expect(main).to_contain_text(re.compile("The receiver's answer|The failure|no notifier runs"), timeout=ARRIVAL_TIMEOUT)

    follow_tab(page, "Routes")
    form = page.get_by_role("form", name="New route")
    form.get_by_label("Channels, separated by commas").fill(channel)
    form.get_by_label("These sites").fill(site)
    form.get_by_role("button", name="Add route").click()
    expect(page.get_by_role("region", name="Routes in their order").get_by_role("row").filter(has_text=channel)).to_be_visible()
    page.get_by_label("Who would be told about site number").fill(site)
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("region", name="Who would be told").get_by_role("row").filter(has_text=name)).to_contain_text(channel)
    page.get_by_role("link", name=name).click()
    expect(page.get_by_role("region", name="Who is told about this site")).to_contain_text(channel)

    page.get_by_role("link", name="Silence this site").click()
    form = page.get_by_role("form", name="New silence")
    expect(form.get_by_label("Site number")).to_have_value(site)
    form.get_by_label("Reason").fill("the provider works on it")
    form.get_by_role("button", name="Silence from now on").click()
    row = page.get_by_role("row").filter(has_text=name)
    expect(row).to_contain_text("now")
    row.get_by_role("button", name="End now").click()
    expect(page.get_by_role("row").filter(has_text=name)).to_contain_text("over")


@BOTH
def test_an_incident_is_acknowledged_with_a_note(system, open_context, context):
    site = add_site(system, f"Cared for {context}")
    system.command_website("break")
    try:
        opened = f"SELECT incident_id FROM report.incidents WHERE site_id = {site} AND closed_at IS NULL"
        [[incident]] = systems.eventually(pages.INCIDENT_TIMEOUT, "incident", lambda: system.query(opened))
        page = open_context(context)
        page_checks.open_page(page, f"{system.url}/incidents/{incident}")
        care = page.get_by_role("region", name="Who takes care")
        care.get_by_label("Note").fill("restarting it")
        care.get_by_role("button", name="Acknowledge").click()

        expect(care).to_contain_text("restarting it")
        care.get_by_role("button", name="Take the acknowledgement back").click()
        expect(care).to_contain_text("Nobody has acknowledged")
    finally:
        system.command_website("repair")


def test_a_page_that_cannot_refresh_itself_says_since_when(system, open_context):
    site = add_site(system, "Stale")
    page = open_context(LIGHT)
    page_checks.open_page(page, f"{system.url}/sites/{site}")

    def answer(route):
        is_refresh = "x-picket-background" in route.request.headers
        route.abort("aborted") if is_refresh else route.continue_()

    page.route("**/*", answer)

    note = page.locator("#stale")
    expect(note).to_have_text(re.compile(r"^Stale since \d\d:\d\d:\d\d UTC: "), timeout=30_000)
    assert note.get_attribute("role") == "status"

    page.unroute("**/*")
    expect(note).to_have_count(0, timeout=30_000)
