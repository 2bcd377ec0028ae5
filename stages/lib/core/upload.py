"""Puts files into a bucket such that a reader finds the old whole, nothing, or the new whole; never half of each.

Data goes first, and every object is compared with its file once it lies there. The files that make the rest visible go last;
where others change, they are taken away before.
"""

import base64
import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from stages.lib.core import files
from stages.lib.core.outcome import Refusal
from stages.lib.core.s3 import Unavailable, join, patiently, split

PART = 64 << 20  # bytes; larger files go up in parts of this size
SENDERS = 4  # files on their way at once


class Sent(NamedTuple):
    """What an upload did."""

    uploaded: int
    """Objects."""
    kept: int
    """Objects that lay there already, with the same content."""


@dataclass(frozen=True)
class _File:
    """A file and where it goes."""

    path: Path
    uri: str
    bytes: int
    sha256: str


def upload_folder(folder: Path, uri: str, last: Sequence[str]) -> Sent:
    """Every file under `folder`, hidden ones too, as `upload` does."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    if not found:
        raise Refusal(f"There is nothing to upload in {folder}.")
    return upload({path.relative_to(folder).as_posix(): path for path in found}, uri, last)


def upload(paths: Mapping[str, Path], uri: str, last: Sequence[str], sha256: Mapping[str, str] | None = None) -> Sent:
    """Files by their names under `uri`; those in `last` go last, in this order. What is there already is left alone.

    sha256: what some names must have; another content is refused before anything is sent. Raises Refusal.
    """
    if absent := [name for name in last if name not in paths]:
        raise Refusal(f"{', '.join(absent)} should make the rest visible and is not among the files for {uri}.")
    wanted = {name: _file(path, join(uri, name), (sha256 or {}).get(name)) for name, path in paths.items()}
    with ThreadPoolExecutor(SENDERS, thread_name_prefix="upload") as pool:
        there = dict(zip(wanted, pool.map(lambda file: _lies_there(file), wanted.values()), strict=True))
        changed = [name for name in wanted if not there[name]]
        if changed and changed != list(last[-1:]):
            for name in reversed(last):  # a reader meets nothing rather than a mixture
                _remove(wanted[name].uri)
            changed = [name for name in wanted if not there[name] or name in last]
        for _ in pool.map(_send, [wanted[name] for name in changed if name not in last]):
            pass
    for name in last:
        if name in changed:
            _send(wanted[name])
    return Sent(len(changed), len(wanted) - len(changed))


def _file(path: Path, uri: str, expected: str | None) -> _File:
    found = files.sha256(path)
    if expected not in (None, found):
        raise Refusal(
            f"{path} has the sha256 {found}, and {expected} was recorded. `dvc checkout {path.parent}` restores it."
        )
    return _File(path, uri, path.stat().st_size, found)


def _send(file: _File) -> None:
    """Put one file and look whether it arrived. Raises Refusal or Unavailable."""
    (_put if file.bytes <= PART else _put_in_parts)(file)
    if not _lies_there(file):
        raise Unavailable(f"{file.uri} does not have the size and sha256 of {file.path} after it was uploaded.")


def _lies_there(file: _File) -> bool:
    """Whether the object has the file's size and sha256: as recorded beside it, and by the server's own sum if it keeps one."""
    about = _head(file.uri)
    if about is None or about["ContentLength"] != file.bytes or about.get("Metadata", {}).get("sha256") != file.sha256:
        return False
    theirs = about.get("ChecksumSHA256", "").partition("-")[0]  # behind the hyphen stands the number of parts
    if not theirs or theirs == _encoded(bytes.fromhex(file.sha256)):
        return True
    return file.bytes > PART and theirs == _of_parts(file.path)


def _head(uri: str) -> dict[str, Any] | None:
    """What the server says of an object, None where there is none."""
    bucket, key = split(uri)

    def look(client: Any) -> dict[str, Any] | None:
        try:
            answer: dict[str, Any] = client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        except client.exceptions.ClientError as error:
            if error.response["Error"].get("Code") in ("404", "NoSuchKey"):
                return None
            raise
        return answer

    return patiently(uri, look)


def _put(file: _File) -> None:
    bucket, key = split(file.uri)
    about = {"Metadata": {"sha256": file.sha256}, "ChecksumSHA256": _encoded(bytes.fromhex(file.sha256))}

    def put(client: Any) -> None:
        with file.path.open("rb") as body:
            client.put_object(Bucket=bucket, Key=key, Body=body, **about)

    patiently(file.uri, put)


def _put_in_parts(file: _File) -> None:
    """The server compares the sum of each part; the object appears with the last call."""
    bucket, key = split(file.uri)
    place = {"Bucket": bucket, "Key": key}
    about = {"Metadata": {"sha256": file.sha256}, "ChecksumAlgorithm": "SHA256"}
    place["UploadId"] = patiently(file.uri, lambda client: client.create_multipart_upload(**place, **about))["UploadId"]
    parts = []
    try:
        for number, data in enumerate(_parts(file.path), start=1):
            sent = {"Body": data, "PartNumber": number, "ChecksumSHA256": _encoded(hashlib.sha256(data).digest())}
            answer = patiently(file.uri, lambda client: client.upload_part(**place, **sent))  # noqa: B023
            parts.append({"ETag": answer["ETag"], "PartNumber": number, "ChecksumSHA256": sent["ChecksumSHA256"]})
        patiently(file.uri, lambda client: client.complete_multipart_upload(**place, MultipartUpload={"Parts": parts}))
    except BaseException as error:
        if isinstance(error, Refusal) and _lies_there(file):  # only the answer to the last call was lost
            return
        with contextlib.suppress(Exception):  # parts that stay would be paid for; the first error is the one to show
            patiently(file.uri, lambda client: client.abort_multipart_upload(**place))
        raise


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(PART):
            yield data


def _of_parts(path: Path) -> str:
    """The sum S3 keeps of an object that came in parts: that of the parts' sums."""
    return _encoded(hashlib.sha256(b"".join(hashlib.sha256(data).digest() for data in _parts(path))).digest())


def _encoded(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _remove(uri: str) -> None:
    if _head(uri) is None:
        return
    bucket, key = split(uri)
    patiently(uri, lambda client: client.delete_object(Bucket=bucket, Key=key))
