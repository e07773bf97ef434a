"""The rule about skipped tests, on a small test suite of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
import pytest
def test_runs(): pass
@pytest.mark.skip(reason="no reader here")
def test_left_out(): pass
@pytest.mark.xfail
def test_known_to_fail(): assert False
"""
MODULE = "import pytest\npytest.importorskip('a_module_that_is_not_there')\ndef test_more(): pass\n"


def run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    (folder / "test_some.py").write_text(SUITE)
    others = {name: value for name, value in os.environ.items() if name != "UNFUSE_CI" and "PYTEST" not in name}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env=others | environment, cwd=folder)


def test_a_skipped_test_is_named(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.returncode == 0
    assert "test_some.py::test_left_out: no reader here" in result.stdout
    assert "test_known_to_fail:" not in result.stdout


def test_in_ci_a_skipped_test_is_a_failure(tmp_path: Path) -> None:
    result = run(tmp_path, UNFUSE_CI="1")
    assert result.returncode == 1
    assert "test_some.py::test_left_out: no reader here" in result.stdout


@pytest.mark.parametrize("ci", ["", "1"])
def test_a_module_that_skips_itself_counts_too(tmp_path: Path, ci: str) -> None:
    (tmp_path / "test_module.py").write_text(MODULE)
    result = run(tmp_path, UNFUSE_CI=ci)
    assert result.returncode == (1 if ci else 0)
    assert "test_module.py: " in result.stdout
    assert "a_module_that_is_not_there" in result.stdout
