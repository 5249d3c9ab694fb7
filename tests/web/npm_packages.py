"""Packages of npm, pinned by packages.json with version and sha512, unpacked into the tools directory.

npm itself is used only to ask for its registry; the packages' own scripts never run.
"""

import base64
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request

PINS = json.loads((pathlib.Path(__file__).parent / "packages.json").read_text())
DEFAULT_REGISTRY = "https://registry.npmjs.org/"
DOWNLOAD_TIMEOUT = 60
NPM_TIMEOUT = 30


class Unavailable(Exception):
    """A package could not be downloaded. A package with a wrong checksum is an error instead."""


def install_package(tools, name, prepare=None):
    """Returns the directory of an unpacked package, after `prepare` has run in it once."""
    pin = PINS[name]
    # The name holds the pin and exists only when the directory is complete, as in tools/install-packages.
    stamp = base64.b16encode(base64.b64decode(pin["sha512"])[:6]).decode().lower()
    directory = tools / f"{name.replace('/', '-').lstrip('@')}-{pin['version']}-{stamp}"
    if directory.is_dir():
        return directory
    tools.mkdir(parents=True, exist_ok=True)
    new = pathlib.Path(tempfile.mkdtemp(prefix="new.", dir=tools))
    try:
        new.chmod(0o755)
        archive = new / "package.tgz"
        download_archive(name, pin, archive)
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile() and ".." not in pathlib.PurePosixPath(member.name).parts:
                    extract_file(tar, member, new)
        archive.unlink()
        if prepare:
            prepare(new)
        try:
            new.rename(directory)
        except OSError:
            # Another run was first.
            if not directory.is_dir():
                raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return directory


def extract_file(tar, member, directory):
    """Writes one regular file of an archive below `directory`, readable by all."""
    path = directory / member.name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tar.extractfile(member) as source, open(path, "wb") as target:
        shutil.copyfileobj(source, target)
    path.chmod(0o755 if member.mode & 0o100 else 0o644)


def download_archive(name, pin, path):
    url = f"{read_registry().rstrip('/')}/{name}/-/{name.split('/')[-1]}-{pin['version']}.tgz"
    digest = hashlib.sha512()
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT) as response, open(path, "wb") as file:
            while block := response.read(1 << 20):
                digest.update(block)
                file.write(block)
    except (urllib.error.URLError, OSError) as error:
        raise Unavailable(f"could not download {url}: {error}") from error
    found = base64.b64encode(digest.digest()).decode()
    if found != pin["sha512"]:
        raise ValueError(f"{url} has the sha512 {found}; tests/web/packages.json allows {pin['sha512']}")


def read_registry():
    """URL of the registry that npm is configured to use, so that mirrors work; without npm, its default."""
    for variable in ("npm_config_registry", "NPM_CONFIG_REGISTRY"):
        if os.environ.get(variable):
            return os.environ[variable]
    if shutil.which("npm"):
        asked = subprocess.run(
            ["npm", "config", "get", "registry"], capture_output=True, text=True, timeout=NPM_TIMEOUT, check=False
        )
        if asked.returncode == 0 and asked.stdout.strip().startswith("http"):
            return asked.stdout.strip()
    return DEFAULT_REGISTRY
