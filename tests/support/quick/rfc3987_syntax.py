"""Stands before the package of this name on the path of processes that tests start.

Who imports that waits for a second, until its grammars are made. jsonschema does so at once in every
server, to check strings of the format "iri", which no schema of a server has; it goes without where there is
no such package.
"""

from __future__ import annotations

raise ImportError("not for tests: it takes a second of every server's start")
