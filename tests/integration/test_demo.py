"""``jupyter token-ws demo`` as a newcomer runs it: what it shows, and that it ends what it started."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import psutil
import pytest

pytestmark = pytest.mark.measured  # nothing else runs it

OPEN = "token as sub", "ticket of a login", "token in a header", "token in the URL"
REFUSED = {
    "no token ": "4401 credentials_missing",
    "wrong token": "4403 token_rejected",
    "ticket that was revoked": "4401 token_revoked",
    "two tokens": "4400 malformed_credentials",
    "good token, no such kernel": "4404 not_found",
}


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jupyter_token_ws.cli", "demo", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_demo_shows_every_way_and_ends(tmp_path):
    result = _run(TMPDIR=str(tmp_path))
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    for name in OPEN:
        assert re.search(r"  open  ", next(line for line in lines if line.startswith(name)))
    for name, told in REFUSED.items():
        line = next(line for line in lines if line.startswith(name))
        assert "1006 (HTTP 403)" in line
        assert told in line
    assert "Out: Hello from the kernel." in result.stdout
    assert "debug log: 0 times" in result.stdout
    assert list(tmp_path.glob("token-ws-demo-*")) == []


def test_demo_keep_leaves_one_server(tmp_path):
    result = _run("--keep", TMPDIR=str(tmp_path))
    assert result.returncode == 0, result.stderr
    found = re.search(r"^Stop it with: kill (\d+)$", result.stdout, re.MULTILINE)
    assert found is not None
    server = psutil.Process(int(found[1]))
    assert re.search(r"still running: http://127\.0\.0\.1:\d+/\?token=\S+", result.stdout)
    server.send_signal(signal.SIGTERM)
    server.wait(60)


def test_demo_says_which_server_did_not_start(tmp_path):
    result = _run(PYTHONPATH=str(_broken_server(tmp_path)), TMPDIR=str(tmp_path))
    assert result.returncode == 1
    assert re.search(
        r"^The demonstration failed: the server '\w+' did not start, see /",
        result.stderr,
        re.MULTILINE,
    )
    assert "Traceback" not in result.stderr
    assert re.search(r"^What is left of it is in /\S+token-ws-demo-", result.stderr, re.MULTILINE)


def test_demo_prints_in_any_encoding(tmp_path):
    result = _run(TMPDIR=str(tmp_path), PYTHONIOENCODING="ascii")
    assert result.returncode == 0, result.stderr


def _broken_server(folder):
    """A ``jupyter_server`` that only works where it is imported, not where it is run."""
    (folder / "sitecustomize.py").write_text(
        "import sys\nif sys.orig_argv[1:3] == ['-m', 'jupyter_server']:\n    sys.exit(3)\n"
    )
    return folder
