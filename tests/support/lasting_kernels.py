"""Kernels that outlive their server, as those behind a gateway or a scheduler do.

A server that is started again has new credentials, and the kernels that it had started are gone with it.
To see the one without the other a kernel runs in a process of its own, and its server finds it in a
folder (``ServerApp.allow_external_kernels``):

    with lasting_kernel(folder) as kernel:
        with start_server(tmp_path, config=config_for(folder), port=port): ...
        with start_server(tmp_path, config=config_for(folder), port=port, token="another"): ...
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from jupyter_client.manager import KernelManager
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager


@dataclass(frozen=True)
class Kernel:
    """Its id on every server, and its process."""

    id: str
    pid: int


class LastingKernels(AsyncMappingKernelManager):
    """Names each kernel of the folder by its file, so that it has one name for all servers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.list_kernel_ids()

    def new_kernel_id(self, **kwargs: Any) -> str:
        known = set(self.kernel_id_to_connection_file)
        for path in sorted(Path(self.external_connection_dir or "").glob("*.json")):
            if path.stem not in known:
                return path.stem
        return super().new_kernel_id(**kwargs)

    async def shutdown_kernel(self, kernel_id: str, *args: Any, **kwargs: Any) -> None:  # type: ignore[override] # theirs is not typed
        """A session that ends does not end those that last."""
        if kernel_id not in self.kernel_id_to_connection_file:
            await super().shutdown_kernel(kernel_id, *args, **kwargs)

    async def shutdown_all(self, now: bool = False) -> None:  # type: ignore[override] # theirs is not typed
        """They go on. Nor may a server that ends be asked any more: it would say that they are gone."""
        app: Any = self.parent
        app.http_server.stop()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(app.http_server.close_all_connections(), 1)
        await super().shutdown_all(now)


def config_for(folder: Path) -> dict[str, dict[str, Any]]:
    """What a server needs in order to have the kernels of ``folder``, and to keep its sessions too."""
    return {
        "ServerApp": {
            "allow_external_kernels": True,
            "external_connection_dir": str(folder),
            "kernel_manager_class": f"{__name__}.{LastingKernels.__name__}",
        },
        "SessionManager": {"database_filepath": str(folder / "sessions.sqlite")},
    }


@contextmanager
def lasting_kernel(folder: Path) -> Iterator[Kernel]:
    """Run a kernel for the length of a block."""
    folder.mkdir(parents=True, exist_ok=True)
    kernel_id = str(uuid4())
    manager = KernelManager(
        kernel_name="python3", connection_file=str(folder / f"{kernel_id}.json")
    )
    manager.start_kernel()
    provisioner: Any = manager.provisioner
    try:
        yield Kernel(kernel_id, provisioner.pid)
    finally:
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
        manager.context.destroy(linger=0)
