"""Which addresses do processes listen at? Read from the kernel, so that nobody's word is taken for it."""

import contextlib
import os
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

LISTENS = "0A"


def doors(pids: Iterable[int]) -> set[tuple[str, int]]:
    """(address, port) of every TCP socket these processes listen at."""
    mine = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):  # it was closed while we looked
                mine.add(os.readlink(link))
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                place, state, inode = (line.split()[at] for at in (1, 3, 9))
                if state == LISTENS and f"socket:[{inode}]" in mine:
                    address, _, port = place.partition(":")
                    words = [
                        int(address[at : at + 8], 16) for at in range(0, len(address), 8)
                    ]  # each in this machine's order
                    packed = b"".join(struct.pack("=I", word) for word in words)
                    found.add((socket.inet_ntop(family, packed), int(port, 16)))
    return found


def open_to_others(pids: Iterable[int]) -> set[tuple[str, int]]:
    """Those that other machines reach."""
    return {door for door in doors(pids) if not door[0].startswith(("127.", "::ffff:127.")) and door[0] != "::1"}
