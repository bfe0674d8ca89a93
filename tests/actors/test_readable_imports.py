"""Imports of a process that gave up root."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgevpn.actors import readable_imports


def test_a_directory_is_reachable_when_all_above_it_can_be_passed(tmp_path: Path) -> None:
    below = tmp_path / "shut" / "below"
    below.mkdir(parents=True)
    assert readable_imports.is_reachable("/usr")
    (tmp_path / "shut").chmod(0o700)
    assert not readable_imports.is_reachable(str(below))
    assert readable_imports.is_reachable(str(tmp_path / "nothing"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give it up")
def test_modules_and_packages_of_a_shut_directory_are_found_after_root_is_given_up(tmp_path: Path) -> None:
    library = tmp_path / "library"
    (library / "late_package").mkdir(parents=True)
    (library / "late_package" / "__init__.py").write_text("import late_package.early\n")
    (library / "late_package" / "early.py").write_text("")
    (library / "late_package" / "late.py").write_text("value = 7\n")
    (library / "late_module.py").write_text("value = 5\n")
    tmp_path.chmod(0o700)
    program = f"""
import os, sys
sys.path.insert(0, {os.fspath(library)!r})
from edgevpn.actors import readable_imports
import late_package
if "without" not in sys.argv:
    assert readable_imports.keep_readable() > 0
os.setresuid(65534, 65534, 65534)
import late_module, late_package.late, colorsys
print(late_module.value + late_package.late.value)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "12\n", done.stderr
    assert "ModuleNotFoundError" in subprocess.run([*command, "without"], capture_output=True, text=True).stderr
