"""The man page: up to date, complete, and such that troff has nothing to say about it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgevpn.cli import commands, flags, man
from edgevpn.cli.node_commands import NODE_COMMANDS

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "edgevpn.1"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == man.page(), "run: python -m edgevpn.cli.reference --man > docs/reference/edgevpn.1"


def test_it_names_every_flag_command_and_option() -> None:
    page = man.page().replace(r"\-", "-")
    tags = re.findall(r"^\.B (.*)$", page, re.MULTILINE)
    for flag in (*flags.ROOT, *(flag for command in NODE_COMMANDS.values() for flag in command.flags)):
        assert any(re.match(rf"{flag.dashed}(?![\w-])", tag) for tag in tags), flag.name
    for command in (*NODE_COMMANDS.values(), *commands.COMMANDS.values()):
        assert f"edgevpn {command.usage}" in tags
    assert "--lines VALUE" in page
    assert "edgevpn peergater accept" in page


def test_text_that_means_something_to_roff_is_escaped() -> None:
    assert man._text("..\n\\fB 'x' -1") == r"\&.. \efB \(aqx\(aq \-1"
    assert man._text(".TH") == r"\&.TH"


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
def test_groff_has_no_warning() -> None:
    done = subprocess.run(["groff", "-man", "-ww", "-z", str(PAGE)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not (shutil.which("groff") and shutil.which("man")), reason="man or groff is not installed")
def test_man_shows_it_without_a_warning() -> None:
    command = ["man", "-l", "--warnings", "-P", "cat", str(PAGE)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={"PATH": "/usr/bin:/bin", "LANG": "C"}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "--privkey-cache-dir" in done.stdout
