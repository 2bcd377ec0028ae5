"""Hands the lines that a process says to whoever wants them, and never lets the process wait for that. Used by flows/child.py.

A pipe holds 64 KiB: if nobody empties it, the trainer at its other end stands still. So one thread only reads, and another
one hands lines on, which may take long or fail, as a server that is away makes it do. What comes faster than it goes is left out,
and how much that was is said in its place. What opens doors is masked, whoever said it: lines go to a server and its page.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable

from stages.lib.params.credentials import masked

log = logging.getLogger(__name__)
LONGEST = 4096
"""Bytes of a line that are handed on."""
WAITING = 10_000
"""Lines that may wait to be handed on."""
REMEMBERED = 20
"""Last lines that are kept for whoever has to say why a process failed."""


class Splitter:
    """Bytes as they come -> lines. What a carriage return overwrites on a terminal (progress bars) is no line."""

    def __init__(self) -> None:
        self.begun, self.left_out, self.returned = bytearray(), 0, False

    def feed(self, data: bytes) -> list[str]:
        """The lines that are complete now."""
        *ended, rest = data.split(b"\n")
        lines = []
        for part in ended:
            self._add(part)
            lines.append(self._line())
        self._add(rest)
        return lines

    def last(self) -> list[str]:
        """What was said without the end of a line."""
        return [self._line()] if self.begun else []

    def _add(self, part: bytes) -> None:
        if not part:
            return
        if self.returned:  # a carriage return that no end of line followed
            self.begun, self.left_out = bytearray(), 0
        self.returned = part.endswith(b"\r")
        part = part.rstrip(b"\r")
        if b"\r" in part:
            self.begun, self.left_out = bytearray(), 0
            part = part.rpartition(b"\r")[2]
        room = LONGEST - len(self.begun)
        self.begun += part[:room]
        self.left_out += len(part[room:])

    def _line(self) -> str:
        line = self.begun.decode("utf-8", "replace")
        if self.left_out:
            line += f" ... ({self.left_out} bytes more)"
        self.begun, self.left_out, self.returned = bytearray(), 0, False
        return line


class Lines:
    """Reads a descriptor to its end in one thread and hands lines to `on_line` in another."""

    def __init__(self, descriptor: int, on_line: Callable[[str], None]) -> None:
        self.descriptor, self.on_line = descriptor, on_line
        self._last: deque[str] = deque(maxlen=REMEMBERED)
        self._waiting: deque[str] = deque()
        self._changed = threading.Condition()
        self._left_out, self._ended, self._failed = 0, False, False
        self._reader = threading.Thread(target=self._read, name="lines read", daemon=True)
        self._teller = threading.Thread(target=self._tell, name="lines handed on", daemon=True)
        self._reader.start()
        self._teller.start()

    @property
    def tail(self) -> list[str]:
        """The last lines that were said."""
        return [masked(line) for line in list(self._last)]

    def finish(self, seconds: float) -> None:
        """Wait until all is handed on, but not longer than that."""
        self._reader.join(seconds)
        self._teller.join(seconds)
        if self._teller.is_alive():
            log.warning("%d lines were not handed on: whoever takes them is too slow", len(self._waiting))

    def _read(self) -> None:
        splitter = Splitter()
        try:
            while data := os.read(self.descriptor, 65536):
                self._put(splitter.feed(data))
        except OSError as error:
            self._put([f"the output could not be read any further: {error}"])
        self._put(splitter.last())
        os.close(self.descriptor)
        with self._changed:
            self._say_left_out()
            self._ended = True
            self._changed.notify()

    def _put(self, lines: list[str]) -> None:
        with self._changed:
            for line in lines:
                self._last.append(line)
                if len(self._waiting) >= WAITING:
                    self._left_out += 1
                    continue
                self._say_left_out()
                self._waiting.append(line)
            self._changed.notify()

    def _say_left_out(self) -> None:
        if self._left_out:
            self._waiting.append(f"... {self._left_out} lines left out: they came faster than they could be handed on")
            self._left_out = 0

    def _tell(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._ended:
                    self._changed.wait()
                if not self._waiting:
                    return
                line = self._waiting.popleft()
            try:
                self.on_line(masked(line))  # not where lines are read: it takes its time
            except Exception as error:
                if not self._failed:
                    log.warning("a line of output could not be handed on (said once): %s", error)
                self._failed = True
