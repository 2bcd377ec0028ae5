"""The S3 client of this process, and what its errors mean: wait and try again, or tell a person what to put right.

The standard AWS_* variables say who asks, AWS_ENDPOINT_URL names a server that is not Amazon's. boto3 is imported with the
first request: stages start without it.
"""

import functools
import logging
import os
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from stages.lib.core.outcome import Refusal

log = logging.getLogger(__name__)
Result = TypeVar("Result")
SCHEME = "s3://"
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
PASSING = {  # answers below 500 that are nobody's mistake
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}


class Patience(NamedTuple):
    """How long a server is waited for; boto3's own retries are off, so that these alone count."""

    connect_seconds: float = 10.0
    read_seconds: float = 30.0
    """Without a single byte."""
    attempts: int = 10
    """For one request, and for the rest of its body."""
    pause_seconds: float = 0.2
    """Before the second attempt; doubles each time."""
    longest_pause_seconds: float = 20.0


PATIENCE = Patience()


class Unavailable(OSError):
    """The server failed too often, and nobody did anything wrong: the same command may do better later."""


class PastEnd(Refusal):
    """A range that starts at or behind the end of an object."""


def is_remote(uri: str) -> bool:
    """Whether this names something in a bucket rather than a path."""
    return uri.startswith(SCHEME)


def split(uri: str) -> tuple[str, str]:
    """(bucket, key or prefix, may be empty); the key is taken as it stands. Raises Refusal."""
    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    if not is_remote(uri) or not bucket:
        raise Refusal(f"{uri!r} is no S3 address; write s3://bucket/prefix.")
    return bucket, key


def join(uri: str, name: str) -> str:
    """The address of `name` under a prefix."""
    return f"{uri.rstrip('/')}/{name}"


def patiently(uri: str, action: Callable[[Any], Result]) -> Result:
    """action(client), again after a pause while the fault is a passing one. Raises Refusal or, in the end, Unavailable.

    An action that is called again goes on where it stopped, if it remembers that itself.
    """
    from botocore import exceptions as told

    passing = (told.HTTPClientError, told.ConnectionError, told.IncompleteReadError, told.FlexibleChecksumError)
    pause, fault = PATIENCE.pause_seconds, ""
    for attempt in range(PATIENCE.attempts):
        if attempt:
            log.info("%s: %s; attempt %d of %d", uri, fault, attempt + 1, PATIENCE.attempts)
            time.sleep(pause * random.uniform(0.5, 1.0))  # apart from others who failed at the same moment
            pause = min(2 * pause, PATIENCE.longest_pause_seconds)
        try:
            return action(client())
        except told.ClientError as error:
            if wrong := mistake(error, uri):
                raise wrong from None
            fault = str(error)
        except (*passing, ConnectionError, TimeoutError) as error:
            fault = str(error) or type(error).__name__
        except (
            told.BotoCoreError,
            ValueError,
        ) as error:  # no or half credentials, a profile or an endpoint that is none
            raise Refusal(
                f"{uri} cannot be asked for: {error}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE), and "
                "AWS_ENDPOINT_URL for a server that is not Amazon's."
            ) from None
    raise Unavailable(
        f"{uri}: {PATIENCE.attempts} attempts failed, the last with: {fault}. Nothing was used of it. See whether "
        f"{os.environ.get('AWS_ENDPOINT_URL', 'the network')} is well, and run the same command again."
    )


def client() -> Any:
    """The client, made once for a process, its AWS_* variables and PATIENCE; any number of threads may use it."""
    about = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    return _client(os.getpid(), PATIENCE, about)


@functools.lru_cache(maxsize=2)
def _client(_process: int, patience: Patience, _about: tuple[tuple[str, str], ...]) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=patience.connect_seconds,
        read_timeout=patience.read_seconds,
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=32,
        request_checksum_calculation="when_required",  # we give a SHA256; servers that are not Amazon's know no other
    )
    return boto3.session.Session().client("s3", config=config)


def mistake(error: Any, uri: str) -> Refusal | None:
    """What a person must put right, in words without secrets; None for a fault that may pass. error: a ClientError."""
    bucket, key = split(uri)
    code, said = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in EXPIRED:
        return Refusal(
            f"The credentials for {uri} have expired ({code}). Renew AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
            "AWS_SESSION_TOKEN, and run the same command again."
        )
    if code == "NoSuchBucket":
        return Refusal(f"There is no bucket {bucket!r} ({uri}). Check its name, AWS_ENDPOINT_URL and the region.")
    if code in PASSING or status >= 500 or status in (408, 429):
        return None
    if status == 404:
        return Refusal(f"There is no object {key!r} in the bucket {bucket!r} ({uri}). Check the name, or put it there.")
    if status == 412:
        return Refusal(
            f"{uri} has changed since it was first looked at. Nothing more is read of it; run the stage again."
        )
    if status == 416:
        return PastEnd(f"{uri} ends before the place that was asked for: it is shorter than what was recorded.")
    if status in (401, 403):
        return Refusal(
            f"S3 does not allow this for {uri} ({code}: {said or 'no reason given'}). The credentials in AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN are wrong, expired, or lack the permission (reading: s3:GetObject, "
            "s3:ListBucket; publishing: s3:PutObject, s3:DeleteObject too)."
        )
    return Refusal(f"S3 refuses {error.operation_name} of {uri}: {code} ({status}). {said}")
