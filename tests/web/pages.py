"""The pages of the web UI. A page that is listed here is tested in every context, and its screenshots are kept."""

import dataclasses

import systems

SITE_NAME = "Shop"
INTERVAL = "5s"
# The first confirmed failure opens an incident within seconds; a machine under load takes longer.
INCIDENT_TIMEOUT = 60

PAGES = {
    "overview": "/",
    "past-overview": "/?at={down_at}",
    "sites": "/sites",
    "new-site": "/sites/new",
    "site": "/sites/{site}",
    "past-site": "/sites/{site}?at={down_at}",
    "check": "/checks/{site}/{region}/{up_at}",
    "failed-check": "/checks/{site}/{region}/{down_at}",
    "incidents": "/incidents",
    "incident": "/incidents/{incident}",
    "warnings": "/warnings",
    "live": "/live",
    "check-now": "/check",
    "maintenance": "/maintenance",
    "notifications": "/notifications",
    "channels": "/channels?kind=email",
    "routes": "/routes?site={site}",
    "silences": "/silences",
    "reports": "/reports",
    "ledger": "/ledger",
    "regions": "/regions",
    "tokens": "/tokens",
    "settings": "/settings",
    "sign-in": "/sign-in",
}
NEWEST_CHECK = """
SELECT to_char(scheduled_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') FROM report.checks
WHERE site_id = {site} AND kind = 'scheduled' AND outcome = '{outcome}' AND region = '{region}' ORDER BY scheduled_at DESC LIMIT 1
"""


@dataclasses.dataclass(frozen=True)
class Facts:
    """Objects of the running system that the paths of pages refer to."""

    site: str
    region: str
    up_at: str
    down_at: str
    incident: str

    def fill(self, path):
        return path.format(**dataclasses.asdict(self))


def gather_facts(system):
    """Adds a site, lets it be up, breaks and repairs it, and returns what came of it."""
    region = systems.REGIONS[0]
    system.run_picket("site", "add", f"{system.website_url}?pages", "--name", SITE_NAME, "--interval", INTERVAL)
    [[site]] = system.query(f"SELECT id FROM picket.sites WHERE name = '{SITE_NAME}'")
    up_at = wait_for_check(system, site, "up", region)
    system.command_website("break")
    statement = f"SELECT incident_id FROM report.incidents WHERE site_id = {site}"
    [[incident]] = systems.eventually(INCIDENT_TIMEOUT, "incident", lambda: system.query(statement))
    down_at = wait_for_check(system, site, "down", region)
    system.command_website("repair")
    return Facts(site, region, up_at, down_at, incident)


def wait_for_check(system, site, outcome, region):
    statement = NEWEST_CHECK.format(site=site, outcome=outcome, region=region)
    [[due]] = systems.eventually(INCIDENT_TIMEOUT, f"{outcome} check", lambda: system.query(statement))
    return due
