"""Sends generated requests, valid and invalid, to a running picket-api and compares the answers with its OpenAPI document.

Exit codes: those of schemathesis, 0 without a finding and 1 with one. A seed repeats a run.
"""

import argparse
import os
import pathlib
import secrets
import subprocess
import sys

import systems

HERE = pathlib.Path(__file__).parent
# The run of CI is the same each time, so that a failure there concerns the change.
DEFAULT_SEED = "1"
# schemathesis spends the whole budget on further requests.
DEFAULT_SECONDS = 60
# Without ignored_auth, whose requests exceed the limit of invalid tokens: api/tests/it/scopes.rs tries every route
# with every scope and with none.
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "positive_data_acceptance",
    "unsupported_method",
    "allow_header_conformance",
    "use_after_free",
    "ensure_resource_availability",
]


def parse_seed(text):
    return secrets.randbelow(1 << 32) if text == "random" else int(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seed", type=parse_seed, default=DEFAULT_SEED, help="a number, or 'random' [default: %(default)s]")
    parser.add_argument("--seconds", type=int, default=DEFAULT_SECONDS, help="time for requests [default: %(default)s]")
    options, arguments = parser.parse_known_args()
    # Without probers, so that no generated URL is requested.
    with systems.start_system(has_probers=False) as system:
        # The first token closes the API to requests without one.
        token = system.request_json("/tokens", "POST", {"name": "fuzz", "scopes": ["admin"]})["secret"]
        print(f"repeat with: just fuzz-api --seed {options.seed} --seconds {options.seconds}", flush=True)
        command = [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"),
            "run", f"{system.url}/api/v1/openapi.json", "--checks", ",".join(CHECKS),
            "--seed", str(options.seed), "--max-time", str(options.seconds), "--request-timeout", "10",
            "--continue-on-failure", "--no-color", *arguments,
        ]
        limit = options.seconds + 120
        variables = {**os.environ, "PICKET_FUZZ_TOKEN": token}
        fuzzed = subprocess.run(command, cwd=system.directory, env=variables, timeout=limit, check=False)
        # A process that a request has ended is a finding of its own, and so is a token that a request has revoked.
        system.require_running()
        system.request_json("/me", token=token)
    return fuzzed.returncode


if __name__ == "__main__":
    sys.exit(main())
