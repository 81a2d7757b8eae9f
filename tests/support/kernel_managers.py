"""Managers of kernels with a habit, for ``kernel_manager_class``."""

from __future__ import annotations

from typing import Any

from jupyter_server.services.kernels.kernelmanager import ServerKernelManager


class NewPorts(ServerKernelManager):
    """A kernel that is started anew has other ports, as one has that a scheduler starts anew."""

    async def restart_kernel(self, now: bool = False, newports: bool = False, **kw: Any) -> None:  # type: ignore[override] # as theirs
        """Start it anew."""
        del newports
        await super().restart_kernel(now=now, newports=True, **kw)
