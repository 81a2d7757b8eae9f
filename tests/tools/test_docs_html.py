"""The documentation as HTML."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tools.bootstrap import ROOT


def test_it_is_made_without_a_warning(tmp_path: Path):
    options = ["-q", "--fail-on-warning", "--keep-going", "--nitpicky", "-b", "html"]
    places = ["-d", tmp_path / "doctrees", ROOT / "docs", tmp_path / "html"]
    command = [sys.executable, "-m", "sphinx", *options, *map(str, places)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "The tunnel on the wire" in (tmp_path / "html" / "reference" / "tunnel.html").read_text(
        "utf-8"
    )
