"""What a cell shows, put together from its messages as notebooks do (nbformat 4, "code cell outputs")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from jupyter_token_ws.protocol.kernel_messages import KernelMessage

from .errors import TooLargeError


class _Update(NamedTuple):
    content: Mapping[str, Any]
    size: int
    after: int  # so many outputs


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
        self._displays: dict[str, list[int]] = {}  # by id, which outputs they are
        self._updates: dict[str, _Update] = {}  # the last of each id, until somebody asks
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
            self._update(_display_id(content), content, message.size)
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
                self._displays.setdefault(display_id, []).append(len(self._outputs))
        self._outputs.append(output)
        self._texts.append(None)

    def all(self) -> list[dict[str, Any]]:
        """The outputs so far."""
        for output, texts in zip(self._outputs, self._texts, strict=True):
            if texts is not None:
                texts[:] = ["".join(texts)]
                output["text"] = texts[0]
        for display_id, update in self._updates.items():
            for index in self._displays[display_id]:
                if index < update.after:
                    self._outputs[index]["data"] = update.content.get("data", {})
                    self._outputs[index]["metadata"] = update.content.get("metadata", {})
        return self._outputs

    def _update(self, display_id: str, content: Mapping[str, Any], size: int) -> None:
        """What is shown under an id becomes this. A bar may move a million times: the last is kept."""
        if display_id not in self._displays:
            return  # of another cell
        before = self._updates.get(display_id)
        self._updates[display_id] = _Update(content, size, len(self._outputs))
        self._count(size - (0 if before is None else before.size))

    def _stream(self, name: str, text: str) -> None:
        last = self._texts[-1] if self._texts else None
        if last is not None and self._outputs[-1]["name"] == name:
            last.append(text)
            return
        self._outputs.append({"output_type": "stream", "name": name, "text": ""})
        self._texts.append([text])

    def _clear(self) -> None:
        self._outputs, self._texts, self._displays, self._updates = [], [], {}, {}
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
