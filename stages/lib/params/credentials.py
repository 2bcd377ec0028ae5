"""What opens doors stands in no file: addresses in params.yaml that carry some are refused, and words that quote some are masked.

params.yaml goes into git, dvc.lock, run folders and pages; errors go into logs, last_exit.json and chats. Masking changes words and
never an out, so no stage declares this file (`TELLING` in tests/closure.py).
"""

import logging
import os
import re
import sys
from collections.abc import Mapping
from typing import IO
from urllib.parse import quote

MASK = "***"
PLACES = ("_FILE", "_PATH", "_DIR", "_URI")
"""Ends of variables that say where something lies: AWS_SHARED_CREDENTIALS_FILE."""
SHORTEST = 8
"""Characters of a value that is looked for; shorter ones would mask ordinary words."""
OF_VARIABLES = re.compile(
    r"secret|token|passw|passphrase|credential|signature|api_?key|auth_string|connection_url|private_?key|client_headers",
    re.I,
)
"""Of an environment variable: AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, HF_TOKEN, PREFECT_API_KEY, ..."""
USER = re.compile(r"(\b[a-z][a-z0-9+.-]{0,30}://)[^/\s\"'<>?#]*@", re.I)
"""`user:password@`, or a user alone, in an address."""
QUERY = re.compile(
    r"([?&;](?:[\w.-]{0,40}(?:secret|token|passw|pwd|credential|signature|api-?_?key|auth)[\w.-]{0,40}|sig|key|sas|awsaccesskeyid|policy"
    r"|key-pair-id))=[^&;\s\"'<>#]+",
    re.I,
)
"""What signs an address, or stands for a password in it."""
HEADER = re.compile(
    r"(\b(?:proxy-)?authorization['\"]?\s*[:=]\s*['\"]?(?:(?:basic|bearer|aws4-hmac-sha256)\s+)?)[^\s,'\"]+", re.I
)


def masked(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text with *** for whatever opens doors: in addresses, in headers, and values of variables that are called so."""
    if "://" in text:
        text = USER.sub(rf"\1{MASK}@", text)
    if "=" in text:
        text = QUERY.sub(rf"\1={MASK}", text)
    if "authorization" in text.lower():
        text = HEADER.sub(rf"\1{MASK}", text)
    for value in _values(environment):
        text = text.replace(value, MASK)
    return text


def without(address: str) -> str:
    """The address. Raises ValueError where it carries a user, a password or a signature, without repeating them."""
    if USER.search(address) or QUERY.search(address):
        raise ValueError(
            f"{masked(address, {})} carries a user, a password or a signature, and params.yaml goes into git, dvc.lock and "
            "reports. Write the address without it. For s3:// set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; "
            "a file that https gives only to some is fetched once with `python -m stages.fetch '<signed address>' <sha256>`"
        )
    return address


class Masked(logging.Formatter):
    """Masks the whole of a line, its traceback too."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return masked(super().format(record))


def say(level: int = logging.INFO, stream: IO[str] | None = None) -> None:
    """From now on what is logged goes to stderr as it is, but masked."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Masked("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def _values(environment: Mapping[str, str]) -> list[str]:
    """What is looked for, the longest first: one may be a part of another."""
    called_so = {name: value for name, value in environment.items() if OF_VARIABLES.search(name)}
    found = {value for name, value in called_so.items() if len(value) >= SHORTEST and not name.endswith(PLACES)}
    return sorted(found | {quote(value, safe="") for value in found}, key=len, reverse=True)
