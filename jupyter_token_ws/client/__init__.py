"""A client of Jupyter servers: ``async with connect(url, auth=token) as server``.

Needs the extra: ``pip install 'jupyter-token-ws[client]'``.
"""

from __future__ import annotations

from .comm import Comm
from .execution import Execution, Result
from .kernel import Kernel, Limits
from .server import Server, connect
from .sockets import Socket
from .tls import TLSIdentity

__all__ = [
    "Comm",
    "Execution",
    "Kernel",
    "Limits",
    "Result",
    "Server",
    "Socket",
    "TLSIdentity",
    "connect",
]
