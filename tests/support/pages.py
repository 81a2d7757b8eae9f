"""The programs on the documentation's pages. A block of code that begins with a file's name is that file."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.plugins.programs import FRONTEND, requires, requires_node_package

ROOT = Path(__file__).resolve().parents[2]

_BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"(?:#|//|<!--) ([\w.-]+\.\w+)(?: -->)?\n")


def blocks(page: str, language: str) -> list[str]:
    """The blocks of code in one language on a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        "\n".join(line.removeprefix(indent) for line in body.splitlines()) + "\n"
        for indent, kind, body in _BLOCK.findall(text)
        if kind == language
    ]


def save(page: str, folder: Path) -> list[str]:
    """Save every file of a page, as its reader would; return the names."""
    names = []
    for language in ("python", "javascript", "html"):
        for block in blocks(page, language):
            match = _NAME.match(block)
            if match:
                assert match[1] not in names, f"{page}: {match[1]} stands there twice"
                (folder / match[1]).write_text(block, encoding="utf-8")
                names.append(match[1])
    return names


def replace(path: Path, changes: Mapping[str, str]) -> None:
    """Change what a reader is told to change: each text stands in the file once."""
    text = path.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert text.count(old) == 1, f"{path.name}: {old!r}"
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def build_package(folder: Path) -> None:
    """Put the modules of ``frontend/`` into ``lib`` of a folder, as ``npm run build`` does."""
    modules = requires_node_package("typescript", FRONTEND / "node_modules")
    compiler = modules / "typescript" / "bin" / "tsc"
    command = [requires("node", "nodejs"), compiler, "-p", FRONTEND / "tsconfig.build.json"]
    subprocess.run([*map(str, command), "--outDir", str(folder / "lib")], check=True)
