"""Sign-in by OpenID Connect at a real provider, which the recipe installs."""

import os
import subprocess
import sys

import pytest
from playwright.sync_api import expect

import systems

# As in provider.py, whose packages this process does not have.
CLIENT_ID, CLIENT_SECRET = "picket", "secret-of-the-client"
PERSON, PASSWORD = "jo", "correct horse battery"


# A new one for each test: a provider remembers what a person has allowed.
@pytest.fixture
def provider(system):
    """Issuer of a running provider, and the port for an API process that is its client."""
    port, api_port = systems.find_free_ports(5)[3:]
    redirect_uri = f"http://127.0.0.1:{api_port}/sign-in/oidc/callback"
    log = open(system.directory / "provider.log", "wb")
    process = subprocess.Popen(
        [sys.executable, systems.ROOT / "tests/web/provider.py", str(port), redirect_uri], stdin=subprocess.DEVNULL,
        stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": os.environ["PICKET_PROVIDER_PACKAGES"]},
        preexec_fn=systems.end_with_parent,
    )
    issuer = f"http://127.0.0.1:{port}"
    systems.eventually(systems.START_TIMEOUT, "provider", lambda: systems.is_ok(f"{issuer}/.well-known/openid-configuration"))
    yield issuer, api_port
    process.terminate()
    process.wait(systems.STOP_TIMEOUT)
    log.close()


def start_api(system, provider, groups):
    """URL of an API process that sends people to the provider."""
    issuer, port = provider
    secret = system.directory / "client-secret"
    secret.write_text(CLIENT_SECRET)
    process = system.spawn(
        "picket-api", "--api-listen", f"127.0.0.1:{port}", "--oidc-issuer", issuer, "--oidc-client-id", CLIENT_ID,
        "--oidc-client-secret-file", str(secret), "--oidc-groups", groups,
    )
    url = f"http://127.0.0.1:{port}"
    systems.eventually(systems.START_TIMEOUT, "API with a provider", lambda: systems.is_ok(f"{url}/sign-in"))
    return url, process


def sign_in(page, url):
    page.goto(f"{url}/sign-in?next=/incidents")
    page.get_by_role("link", name="Sign in with").click()
    page.get_by_label("Login").fill(PERSON)
    page.get_by_role("button", name="Continue").click()
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Accept").click()


def test_a_person_signs_in_at_the_provider_with_the_rights_of_the_group(system, provider, browser):
    url, process = start_api(system, provider, "admins=admin; ops=read,check:acme; *=write")
    context = browser.new_context()
    try:
        page = context.new_page()
        # Without a session nothing is open beside a provider, on loopback neither.
        assert context.request.get(f"{url}/api/v1/me").status == 401
        sign_in(page, url)

        expect(page.get_by_role("heading", level=1)).to_have_text("Incidents")
        me = context.request.get(f"{url}/api/v1/me").json()
        # The provider does not say that the address is verified.
        assert me == {"name": PERSON, "scopes": ["read", "check"], "tags": ["acme"], "open": False}
        names = [cookie["name"] for cookie in context.cookies(url)]
        assert "picket-oidc" not in names, "the attempt is over"

        # A return that this browser did not begin, as a stranger's link would be.
        page.goto(f"{url}/sign-in/oidc/callback?code=x&state=y")
        expect(page.get_by_role("alert")).to_contain_text("unknown to this browser")
    finally:
        context.close()
        system.end(process)


def test_a_person_in_no_group_with_rights_is_told_so_and_gets_no_session(system, provider, browser):
    url, process = start_api(system, provider, "admins=admin")
    context = browser.new_context()
    try:
        page = context.new_page()
        sign_in(page, url)

        expect(page.get_by_role("alert")).to_contain_text(f"{PERSON} has signed in, but is in no group with rights here")
        assert context.request.get(f"{url}/api/v1/me").status == 401
    finally:
        context.close()
        system.end(process)
