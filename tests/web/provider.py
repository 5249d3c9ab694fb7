"""Runs a sign-in provider, Canaille, with one person in one group and one client. Arguments: port, redirect URI of the client.

The names and passwords here are of this test only. The provider keeps everything in memory.
"""

import sys

from canaille import create_app
from canaille.app import models
from canaille.backends import Backend
from joserfc.jwk import RSAKey

CLIENT_ID = "picket"
CLIENT_SECRET = "secret-of-the-client"
PERSON, PASSWORD, EMAIL = "jo", "correct horse battery", "jo@example.com"
GROUP = "ops"


def build_app(port, redirect_uri):
    key = RSAKey.generate_key(2048, auto_kid=True)
    app = create_app({
        "SECRET_KEY": "of this test only",
        "SERVER_NAME": f"127.0.0.1:{port}",
        "PREFERRED_URL_SCHEME": "http",
        "CANAILLE": {"DATABASE": "memory"},
        "CANAILLE_OIDC": {"ACTIVE_JWKS": [key.as_dict(private=True)]},
    })
    with app.app_context():
        person = models.User(user_name=PERSON, family_name="Doe", formatted_name="Jo Doe", emails=[EMAIL], password=PASSWORD)
        Backend.instance.save(person)
        Backend.instance.save(models.Group(display_name=GROUP, members=[person]))
        client = models.Client(
            client_id=CLIENT_ID, client_secret=CLIENT_SECRET, client_name="Picket", redirect_uris=[redirect_uri],
            grant_types=["authorization_code"], response_types=["code"], scope=["openid", "email", "profile", "groups"],
            token_endpoint_auth_method="client_secret_basic",
        )
        # Its own id is the audience of its ID tokens, and a client must exist to be an audience.
        Backend.instance.save(client)
        client.audience = [client]
        Backend.instance.save(client)
    return app


if __name__ == "__main__":
    build_app(int(sys.argv[1]), sys.argv[2]).run("127.0.0.1", int(sys.argv[1]))
