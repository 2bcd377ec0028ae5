"""Brings a file from https, S3 or timm's hub into the folder of fetched files, proven by its sha256."""

import logging
import shutil
import urllib.request
from pathlib import Path

from stages.lib.core import content, https, objects
from stages.lib.core.outcome import Refusal
from stages.lib.params.credentials import masked

log = logging.getLogger(__name__)
HUB_FILE = "model.safetensors"
WHOLE = 64  # hex digits of a sha256


def fetch(source: str, sha256: str, through: urllib.request.OpenerDirector | None = None) -> Path:
    """The file, fetched unless it is kept already. source: https://..., s3://... or timm/<name>; sha256: its first hex digits.

    Raises Refusal for what a person must put right, OSError where the network failed and may do better next time.
    """
    with content.arriving(sha256) as part:
        if kept := content.find(sha256):
            return kept
        log.info("fetching %s", masked(source))
        if source.startswith("https://"):
            https.download(source, part, through)
        elif objects.is_remote(source):
            objects.download(source, part, sha256 if len(sha256) == WHOLE else "")
        elif source.startswith("timm/"):
            shutil.copyfile(_from_hub(source), part)
        else:
            raise Refusal(f"{masked(source)} is no remote file: https://, s3:// or timm/<name>.")
        return content.keep(part, sha256, source)


def _from_hub(name: str) -> str:
    """Path of the weights in the hub library's cache. Raises Refusal where the hub has none, OSError where it is not reached."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return str(hf_hub_download(name, HUB_FILE))
    except LocalEntryNotFoundError as error:  # no network, or offline by choice, and not in its cache
        raise OSError(f"{name}: its hub cannot be reached, and {HUB_FILE} is not in its cache ({error})") from error
    except (RepositoryNotFoundError, EntryNotFoundError) as error:
        raise Refusal(f"the hub has no {HUB_FILE} of {name}: {error}") from None
