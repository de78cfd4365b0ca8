"""The tests of `tests/devices` on a device that stands in for a GPU.

They have processes of their own: torch starts a thread for the device, after which a process cannot be forked.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "devices"


@pytest.mark.parametrize("file", sorted(path.name for path in FOLDER.glob("test_*.py")))
def test_a_file_passes_on_the_stand_in(file, tmp_path):
    options = ["-q", "-m", "stand_in", "-p", "no:cacheprovider", "--report", str(tmp_path / "report.md")]
    command = [sys.executable, "-m", "pytest", *options, str(FOLDER / file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=FOLDER.parent.parent)
    assert done.returncode == 0, done.stdout
    report = (tmp_path / "report.md").read_text()
    assert report.startswith("## Tests on ") and re.search(r"(?m)^\d+ passed$", report)
