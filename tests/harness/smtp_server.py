"""A mail server (aiosmtpd) that records what it accepts. Arguments: a directory, and the settings as JSON.

Prints its port, and writes each accepted message to `N.json` in the directory, as Python's `email` package reads it.
"""

import asyncio
import email
import email.policy
import json
import os
import pathlib
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

directory, settings = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])


def describe_part(part):
    return {
        "type": part.get_content_type(),
        "charset": part.get_content_charset(),
        "file_name": part.get_filename(),
        "text": part.get_content() if part.get_content_maintype() == "text" else None,
    }


class Recorder:
    """Answers of the settings, once or always; everything else is accepted."""

    def __init__(self):
        self.accepted = 0

    @staticmethod
    def choose_answer(stage, address):
        return settings["once"].get(stage, {}).pop(address, None) or settings["always"].get(stage, {}).get(address)

    async def handle_MAIL(self, server, session, envelope, address, options):
        answer = self.choose_answer("mail", address)
        if answer is None:
            envelope.mail_from = address
        return answer or "250 2.1.0 sender ok"

    async def handle_RCPT(self, server, session, envelope, address, options):
        answer = self.choose_answer("rcpt", address)
        if answer is None:
            envelope.rcpt_tos.append(address)
        return answer or "250 2.1.5 recipient ok"

    async def handle_DATA(self, server, session, envelope):
        answer = self.choose_answer("data", envelope.rcpt_tos[0])
        if answer == "hang":
            self.record(session, envelope)
            await asyncio.sleep(3600)
        if answer is not None:
            return answer
        self.record(session, envelope)
        return "250 2.0.0 accepted"

    def record(self, session, envelope):
        message = email.message_from_bytes(envelope.original_content, policy=email.policy.default)
        record = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "is_encrypted": session.ssl is not None or settings["tls"] == "implicit",
            "user": session.auth_data,
            "headers": [[name, str(value)] for name, value in message.items()],
            "parts": [describe_part(part) for part in message.walk() if not part.is_multipart()],
            "structure": [part.get_content_type() for part in message.walk()],
            "defects": [repr(defect) for part in message.walk() for defect in part.defects],
            "longest_line": max(len(line) for line in envelope.original_content.split(b"\r\n")),
            "is_ascii": envelope.original_content.isascii(),
        }
        self.accepted += 1
        # Complete as soon as it exists.
        new = directory / "new"
        new.write_text(json.dumps(record))
        os.rename(new, directory / f"{self.accepted}.json")


def authenticate(server, session, envelope, mechanism, data):
    user, password = data.login.decode(), data.password.decode()
    if [user, password] == settings["login"]:
        return AuthResult(success=True, auth_data=user)
    # A server that repeats what it got is a trap for whoever records its answers.
    return AuthResult(success=False, handled=False, message=f"535 5.7.8 no login with {password}")


async def main():
    context = None
    if settings["tls"] != "none":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(directory / "certificate.pem", directory / "key.pem")
    recorder = Recorder()

    def start_session():
        # With TLS from the first byte, aiosmtpd does not know that there is TLS.
        rules = {"authenticator": authenticate, "auth_required": True, "auth_require_tls": settings["tls"] == "starttls"}
        login = rules if settings["login"] else {}
        starttls = {"tls_context": context, "require_starttls": True} if settings["tls"] == "starttls" else {}
        return SMTP(recorder, hostname="mail.test", ident="test", **starttls, **login)

    implicit = context if settings["tls"] == "implicit" else None
    server = await asyncio.get_running_loop().create_server(start_session, "127.0.0.1", 0, ssl=implicit)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
