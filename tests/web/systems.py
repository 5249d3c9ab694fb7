"""A whole Picket for tests from outside: `picket up` with its web UI, a website to break, and one slow region."""

import contextlib
import ctypes
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
PROGRAMS = TARGET / "debug"
TOOLS = pathlib.Path(os.environ.get("PICKET_TOOLS_DIR", ROOT / ".tools")).resolve()

# The regions of `picket up`, and that of the prober that the website delays.
REGIONS = ["east", "west"]
SLOW_REGION = "slow"
SLOW_AGENT = "picket-in-a-slow-region"

START_TIMEOUT = 120
STOP_TIMEOUT = 30
COMMAND_TIMEOUT = 30
REQUEST_TIMEOUT = 10
POLL_INTERVAL = 0.1
PR_SET_PDEATHSIG = 1


def eventually(limit, what, probe):
    """Polls `probe` until it returns something true, and returns that. The last value is in the error."""
    deadline = time.monotonic() + limit
    while True:
        last = probe()
        if last:
            return last
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} within {limit} s; last: {last!r}")
        time.sleep(POLL_INTERVAL)


class System:
    """Started by `start_system`. Everything in it ends with the block, or with this process."""

    def __init__(self, directory, has_probers):
        self.directory = directory
        self.data = directory / "data"
        self.has_probers = has_probers
        self._processes = []
        self._website = None
        self.variables = {
            name: value for name, value in os.environ.items()
            if name not in ("DATABASE_URL", "NATS_URL") and not name.startswith("PICKET_")
        }
        self.variables["PICKET_DATA_DIR"] = str(self.data)
        self.url = self.website_url = None

    def start(self):
        ports = find_free_ports(3)
        self.url = f"http://127.0.0.1:{ports[2]}"
        self.spawn(
            "picket", "up", "--regions", ",".join(REGIONS), "--no-apply", "--tools-dir", str(TOOLS),
            "--nats-port", str(ports[0]), "--pg-port", str(ports[1]), "--api-listen",
            f"127.0.0.1:{ports[2]}", *([] if self.has_probers else ["--no-probers"]),
        )
        self.variables |= eventually(START_TIMEOUT, "file env of picket up", self.read_environment)
        if self.has_probers:
            self.run_picket("region", "add", SLOW_REGION)
            self.spawn(
                "picket-prober", "--region", SLOW_REGION, "--user-agent", SLOW_AGENT, "--allow-addresses", "127.0.0.0/8"
            )
        eventually(START_TIMEOUT, "web UI", lambda: is_ok(f"{self.url}/api/v1/openapi.json"))
        self._website = self.spawn(
            "website", "--slow-agent", SLOW_AGENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.website_url = self._website.stdout.readline().strip()

    def read_environment(self):
        """The variables in the file `env`, which `picket up` writes when its servers run; nothing before that."""
        self.require_running()
        with contextlib.suppress(FileNotFoundError):
            lines = (self.data / "env").read_text().splitlines()
            pairs = (line.split("=", 1) for line in lines if not line.startswith("#"))
            return {name: value.strip("'") for name, value in pairs}

    def read_sign_in_link(self):
        """The link that `picket up` prints, which signs in once."""
        output = (self.directory / "picket.log").read_text()
        return re.search(rf"{re.escape(self.url)}/sign-in\?link=\S+", output)[0]

    def require_running(self):
        for process, log in self._processes:
            if process.poll() is not None:
                raise ChildProcessError(f"{process.args} ended with {process.returncode}: {log.read_text()[-4000:]}")

    def spawn(self, program, *arguments, **options):
        log = self.directory / f"{program}.log"
        with open(log, "ab") as output:
            process = subprocess.Popen(
                [PROGRAMS / program, *arguments], cwd=self.directory, env=self.variables, preexec_fn=end_with_parent,
                **{"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output, **options},
            )
        self._processes.append((process, log))
        return process

    def stop(self):
        """Ends the processes in the reverse order of their start."""
        while self._processes:
            self.end(self._processes[-1][0])

    def end(self, process):
        """Ends one process that `spawn` has started."""
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._processes = [entry for entry in self._processes if entry[0] is not process]

    def run_picket(self, *arguments):
        """Runs a command of the operator and returns its output."""
        done = subprocess.run(
            [PROGRAMS / "picket", *arguments], cwd=self.directory, env=self.variables, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False,
        )
        if done.returncode != 0:
            raise ChildProcessError(f"picket {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def command_website(self, command):
        """Sends `break`, `repair` or `slow MS` to the website, and returns when it has obeyed."""
        self._website.stdin.write(f"{command}\n")
        self._website.stdin.flush()
        confirmed = self._website.stdout.readline().strip()
        if confirmed != command:
            raise ChildProcessError(f"the website confirmed {confirmed!r} instead of {command!r}")

    def request_json(self, path, method="GET", body=None, token=None):
        """Body of a successful response of the API."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/api/v1{path}", data, method=method)
        request.add_header("content-type", "application/json")
        if token:
            request.add_header("authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT) as response:
            text = response.read()
        return json.loads(text) if text else None

    def query(self, statement):
        """Rows of a statement, each a list of texts."""
        done = subprocess.run(
            [TOOLS / "postgres/bin/psql", "service=picket", "-X", "-A", "-t", "-c", statement],
            env={**self.variables, "PGSERVICEFILE": str(self.data / "pg_service.conf")},
            capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False,
        )
        if done.returncode != 0:
            raise ValueError(f"{statement}: {done.stderr}")
        return [line.split("|") for line in done.stdout.splitlines()]


@contextlib.contextmanager
def start_system(kind=System, has_probers=True):
    """A running system of a kind in a directory of its own, which is removed at the end."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="picket-web."))
    # Postgres runs as another user when root starts it.
    directory.chmod(0o755)
    system = kind(directory, has_probers)
    try:
        system.start()
        yield system
    finally:
        system.stop()
        shutil.rmtree(directory, ignore_errors=True)


def find_free_ports(count):
    """Ports below the range from which the kernel takes ports for connections."""
    start = 16_384 + os.getpid() * 97 % 16_000
    found = []
    for port in range(start, start + 300):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"no {count} free ports from {start} on")


def is_ok(url):
    with contextlib.suppress(urllib.error.URLError, http.client.HTTPException, OSError):
        with urllib.request.urlopen(url, timeout=REQUEST_TIMEOUT) as response:
            return response.status == 200
    return False


def end_with_parent():
    """Ends a started process, in its last step before the program, when this process dies however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
