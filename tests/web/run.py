"""Runs the browser tests. Arguments are pytest's, such as `-k sites`.

Exit codes: 0 all tests passed, 1 a test failed, 3 not tested because there is no browser.
"""

import os
import pathlib
import sys

import pytest

import browsers
import systems

EXIT_NOT_TESTED = 3


def main():
    try:
        browser = browsers.find_browser(systems.TOOLS)
    except browsers.NoBrowser as reason:
        print(f"{reason}\nNOT TESTED: no browser")
        return EXIT_NOT_TESTED
    print(f"testing with {browser.version} ({browser.path})", flush=True)
    os.chdir(pathlib.Path(__file__).parent)
    return pytest.main(["-p", "no:cacheprovider", "--rootdir", ".", "--tb", "short", "--durations", "5", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
