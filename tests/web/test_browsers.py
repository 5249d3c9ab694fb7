"""How the browser and the packages of npm are found, verified and refused."""

import base64
import hashlib
import http.server
import io
import os
import pathlib
import platform
import subprocess
import sys
import tarfile
import threading

import pytest

import browsers
import npm_packages

RUN = pathlib.Path(__file__).parent / "run.py"
RUN_TIMEOUT = 60


@pytest.fixture
def registry(monkeypatch):
    """A registry of packages on loopback, which npm is configured to use; its archives are in the dict."""
    archives = {}

    class RegistryHandler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = archives.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), RegistryHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{server.server_port}/mirror/")
    yield archives
    server.shutdown()


def pack_archive(files):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


def pin_package(monkeypatch, name, archive):
    digest = base64.b64encode(hashlib.sha512(archive).digest()).decode()
    monkeypatch.setitem(npm_packages.PINS, name, {"version": "1.2.3", "sha512": digest})


def test_a_run_without_a_browser_ends_as_not_tested_in_its_last_line():
    variables = {**os.environ, "PICKET_CHROMIUM": "/bin/false"}

    done = subprocess.run(
        [sys.executable, RUN], env=variables, capture_output=True, text=True, timeout=RUN_TIMEOUT, check=False
    )

    assert done.returncode == 3
    assert done.stdout.splitlines()[-1] == "NOT TESTED: no browser"
    assert "/bin/false" in done.stdout


def test_a_package_is_unpacked_from_the_configured_registry(monkeypatch, registry, tmp_path):
    archive = pack_archive({"package/index.js": "1", "../outside": "2", "package/../../outside": "3"})
    registry["/mirror/@scope/tool/-/tool-1.2.3.tgz"] = archive
    pin_package(monkeypatch, "@scope/tool", archive)

    directory = npm_packages.install_package(tmp_path / "tools", "@scope/tool")

    assert (directory / "package/index.js").read_text() == "1"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["index.js"]
    registry.clear()
    assert npm_packages.install_package(tmp_path / "tools", "@scope/tool") == directory


def test_a_package_with_another_checksum_is_refused_and_nothing_of_it_stays(monkeypatch, registry, tmp_path):
    pin_package(monkeypatch, "tool", pack_archive({"package/index.js": "1"}))
    registry["/mirror/tool/-/tool-1.2.3.tgz"] = pack_archive({"package/index.js": "another"})

    with pytest.raises(ValueError, match="sha512"):
        npm_packages.install_package(tmp_path, "tool")

    assert list(tmp_path.iterdir()) == []


def test_the_pinned_browser_is_not_installed_where_it_cannot_run(monkeypatch, tmp_path):
    monkeypatch.setattr(browsers.platform, "machine", lambda: "aarch64")

    with pytest.raises(browsers.NoBrowser, match="Linux on x86_64 only, not for .* on aarch64"):
        browsers.install_browser(tmp_path)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the pinned browser exists for x86_64 only")
def test_a_registry_without_the_package_is_the_reason_for_no_browser(registry, tmp_path):
    with pytest.raises(browsers.NoBrowser, match="404"):
        browsers.install_browser(tmp_path)
