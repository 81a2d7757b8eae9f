"""What a cell shows, put together from its messages as notebooks do (nbformat 4, "code cell outputs")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jupyter_token_ws.protocol.kernel_messages import KernelMessage

from .errors import TooLargeError


class Outputs:
    """The outputs of one cell.

    Neighbouring pieces of one stream are one output; ``update_display_data`` changes what has its
    ``display_id``; ``clear_output`` takes away what there is, at once or before the next output.

    Args:
        limit: bytes of messages that are kept at most (``max_output``).
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._outputs: list[dict[str, Any]] = []
        self._texts: list[list[str] | None] = []  # of streams, until somebody asks
        self._displays: dict[str, list[dict[str, Any]]] = {}
        self._size = 0
        self._clear_next = False

    def feed(self, message: KernelMessage) -> None:
        """Take a message, whatever its type. Raises ``TooLargeError``."""
        kind, content = message.type, message.content
        if kind == "clear_output":
            if content.get("wait"):
                self._clear_next = True
            else:
                self._clear()
            return
        if kind == "update_display_data":
            for shown in self._displays.get(_display_id(content), ()):
                shown["data"] = content.get("data", {})
                shown["metadata"] = content.get("metadata", {})
            self._count(message.size)
            return
        if kind not in ("stream", "display_data", "execute_result", "error"):
            return
        if self._clear_next:
            self._clear()
        self._count(message.size)
        if kind == "stream":
            self._stream(str(content.get("name", "stdout")), str(content.get("text", "")))
            return
        output: dict[str, Any] = {"output_type": kind}
        if kind == "error":
            for name in ("ename", "evalue", "traceback"):
                output[name] = content.get(name, [] if name == "traceback" else "")
        else:
            if kind == "execute_result":
                output["execution_count"] = content.get("execution_count")
            output["data"] = content.get("data", {})
            output["metadata"] = content.get("metadata", {})
            if display_id := _display_id(content):
                self._displays.setdefault(display_id, []).append(output)
        self._outputs.append(output)
        self._texts.append(None)

    def all(self) -> list[dict[str, Any]]:
        """The outputs so far."""
        for output, texts in zip(self._outputs, self._texts, strict=True):
            if texts is not None:
                texts[:] = ["".join(texts)]
                output["text"] = texts[0]
        return self._outputs

    def _stream(self, name: str, text: str) -> None:
        last = self._texts[-1] if self._texts else None
        if last is not None and self._outputs[-1]["name"] == name:
            last.append(text)
            return
        self._outputs.append({"output_type": "stream", "name": name, "text": ""})
        self._texts.append([text])

    def _clear(self) -> None:
        self._outputs, self._texts, self._displays = [], [], {}
        self._size = 0
        self._clear_next = False

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > self._limit:
            raise TooLargeError(f"the cell showed more than {self._limit} bytes (max_output)")


def _display_id(content: Mapping[str, Any]) -> str:
    transient = content.get("transient")
    value = transient.get("display_id") if isinstance(transient, Mapping) else None
    return value if isinstance(value, str) else ""
