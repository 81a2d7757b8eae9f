"""The bridge of one server: its hubs, and the seam by which it learns what becomes of kernels."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from jupyter_core.utils import ensure_async

from . import metrics
from .backlog import Quota
from .client import Client
from .hub import BridgeOptions, Hub

SETTING = "token_ws_bridge"
"""Key of the bridge in the web application's settings."""

METADATA = "jupyter_token_ws"
"""Key of ours in a kernelspec's metadata: ``{"bridge": false}`` leaves a kernel to upstream's class."""


class Bridge:
    """The bridge of one server."""

    def __init__(
        self, options: BridgeOptions | None = None, log: logging.Logger | None = None
    ) -> None:
        self.options = options or BridgeOptions()
        self.quota = Quota(self.options.disk_total, self._disk_full)
        self._log = log or logging.getLogger("jupyter_token_ws")
        self._hubs: dict[str, Hub] = {}
        metrics.watch(self)

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Bridge:
        """The bridge of a web application, by its settings; one with default options where there is none."""
        found: Bridge | None = settings.get(SETTING)
        if found is None:
            found = settings[SETTING] = cls()
        return found

    def __len__(self) -> int:
        return len(self._hubs)

    def clients(self) -> Iterator[Client]:
        """All clients of all kernels, there or away."""
        for hub in list(self._hubs.values()):
            yield from hub.clients

    def find(self, kernel_id: str) -> Hub | None:
        """The hub of a kernel, if it has one."""
        return self._hubs.get(kernel_id)

    def hub(self, kernel: Any) -> Hub:
        """The hub of a kernel."""
        kernel_id: str = kernel.kernel_id
        found = self._hubs.get(kernel_id)
        if found is not None and found.kernel is not kernel:
            found.close()
            found = None
        if found is None:
            found = self._hubs[kernel_id] = Hub(
                kernel_id, kernel, self.options, self.quota, self._log, self._idle
            )
        return found

    def _disk_full(self) -> None:
        self._log.warning(
            "backlog_disk_total is used up, %.1f of %.1f MB: until some of it is read or forgotten,"
            " clients that do not read, of any kernel, have no more room on disk",
            self.quota.used / 1e6,
            self.quota.limit / 1e6,
        )

    def _idle(self, hub: Hub) -> None:
        if self._hubs.get(hub.kernel_id) is hub:
            del self._hubs[hub.kernel_id]

    def close(self) -> None:
        """Close all hubs."""
        for hub in list(self._hubs.values()):
            hub.close()

    def watch(self, manager: Any) -> None:
        """Learn from a ``MappingKernelManager`` of kernels that start, restart and end.

        The manager itself is told to call us, by attributes of this one object: whatever class an
        administrator chose stays as it is. Its activity watcher gets a tap of the kernel's hub.
        """
        start, restart, remove = (
            manager.start_watching_activity,
            manager.restart_kernel,
            manager.remove_kernel,
        )

        def start_watching_activity(kernel_id: str) -> None:
            kernel = manager.get_kernel(kernel_id)
            if not wanted_for(kernel):
                self._log.info(
                    "Kernel %s is without the bridge: the metadata of its kernelspec %r says so",
                    kernel_id,
                    kernel.kernel_name,
                )
                start(kernel_id)
                return
            hub = self.hub(kernel)
            hub.check_ports()  # now: it connects by what is replaced below
            kernel.connect_iopub = lambda *_args, **_kwargs: hub.tap()
            try:
                start(kernel_id)
            finally:
                del kernel.connect_iopub

        async def restart_kernel(kernel_id: str, *args: Any, **kwargs: Any) -> Any:
            result = await ensure_async(restart(kernel_id, *args, **kwargs))
            hub = self.find(kernel_id)
            if hub is not None:
                hub.check_ports()
                hub.unsettle()
            return result

        def remove_kernel(kernel_id: str) -> Any:
            result = remove(kernel_id)
            hub = self.find(kernel_id)
            if hub is not None:
                hub.close()
            return result

        manager.start_watching_activity = start_watching_activity
        manager.restart_kernel = restart_kernel
        manager.remove_kernel = remove_kernel


def wanted_for(kernel: Any) -> bool:
    """Whether a kernel's sockets go through the bridge."""
    metadata = getattr(getattr(kernel, "kernel_spec", None), "metadata", None) or {}
    own = metadata.get(METADATA)
    return not (isinstance(own, dict) and own.get("bridge") is False)
