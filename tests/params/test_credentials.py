"""What opens doors is refused in params.yaml and masked in words; what opens none is left as it is."""

import io
import logging
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from stages.lib.core import load
from stages.lib.core.outcome import Refusal, ending_of
from stages.lib.params.credentials import masked, say, without
from stages.lib.params.everything import Everything
from stages.lib.params.published import PublishedUri
from stages.lib.params.sources import Source
from tests.workspace import ROOT, edit

SECRET = "pl4nted-s3cret/with+signs="
ADDRESSES = [
    f"https://user:{SECRET.replace('/', '%2F')}@host/w.pth",
    "https://pl4nted-s3cret@host/w.pth",
    "s3://AKIA:pl4nted-s3cret@bucket/prefix",
    "https://host/w.pth?X-Amz-Algorithm=A&X-Amz-Signature=pl4nted-s3cret",
    "https://host/w.pth?X-Amz-Security-Token=pl4nted-s3cret&x=1",
    "https://host/w.pth?sig=pl4nted-s3cret",
    "https://host/w.pth?access_token=pl4nted-s3cret#part",
    "https://host/w.pth?key=pl4nted-s3cret",
    "s3://bucket/prefix?AWSAccessKeyId=pl4nted-s3cret",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_masked__an_address_keeps_its_host_and_loses_what_opens_it(address: str) -> None:
    said = masked(f"GET {address!r} failed: no answer from {address}.", {})
    assert "s3cret" not in said and said.count("***") >= 2 and "failed: no answer" in said
    assert "host/w.pth" in said or "bucket/prefix" in said


@pytest.mark.parametrize("address", ADDRESSES)
def test_params__an_address_that_opens_doors_is_refused_and_not_repeated(address: str, tmp_path: Path) -> None:
    """Through `make check`'s own way: a sentence that says where credentials belong."""
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    key = "teacher.source" if address.startswith("https") else "shard.published_uri"
    edit(tmp_path, {key: address, "teacher.sha256": "0" * 8, "teacher.licence": "x"})
    with pytest.raises(Refusal, match="AWS_SECRET_ACCESS_KEY") as caught:
        load.whole(Everything, tmp_path / "params.yaml")
    assert "s3cret" not in str(caught.value) and key in str(caught.value)
    for made in (
        lambda: PublishedUri.model_validate(address),
        lambda: Source.model_validate({"layout": "folder", "path": address}),
    ):
        with pytest.raises(ValidationError):
            made()


@pytest.mark.parametrize(
    "address",
    [
        "https://host/w.pth",
        "https://host/w.pth?download=true",
        "s3://bucket/pre-fix/keys=1/x",
        "s3://b-1/a@b/c",
        "data/x@y",
        "./a?b",
    ],
)
def test_without__plain_addresses_pass(address: str) -> None:
    assert without(address) == address == masked(address, {})


def test_masked__values_of_variables_that_are_called_so() -> None:
    environment = {
        "AWS_SECRET_ACCESS_KEY": SECRET, "HF_TOKEN": "hf_pl4nted", "PREFECT_API_KEY": "pnu_pl4nted", "AWS_SESSION_TOKEN": "short",
        "AWS_ACCESS_KEY_ID": "AKIAPUBLIC", "HOME": "/home/somebody", "AWS_SHARED_CREDENTIALS_FILE": "/home/somebody",
    }  # fmt: skip
    said = masked(
        f"{SECRET} hf_pl4nted pnu_pl4nted short AKIAPUBLIC /home/somebody pl4nted-s3cret%2Fwith%2Bsigns%3D", environment
    )
    assert said == "*** *** *** short AKIAPUBLIC /home/somebody ***"
    assert masked("Authorization: Basic cGw0bnRlZA==, 'authorization': 'Bearer abc.def'", {}).count("***") == 2


def test_masked__takes_no_time_for_any_text() -> None:
    began = time.process_time()
    for unit in ("a.", "?token", "&sig", "://a", "x://", "authorization:", "?a.-", "@", "a+"):
        masked(unit * (8192 // len(unit)), {"TOKEN": "longenough"})
    assert time.process_time() - began < 2


def test_say__every_line_and_traceback_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    root, out = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    try:
        say(stream=out)
        try:
            raise OSError(f"no answer from https://u:{SECRET.replace('/', '')}@host/")
        except OSError:
            logging.getLogger("anybody").exception("with %s", SECRET)
    finally:
        root.handlers[:], root.level = handlers, level
    assert "s3cret" not in out.getvalue() and "Traceback" in out.getvalue() and "https://***@host/" in out.getvalue()


def test_ending_of__the_reason_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    for error in (Refusal(f"x {SECRET}"), OSError(f"x {SECRET}"), ValueError(SECRET)):
        assert SECRET not in ending_of(error).reason and "***" in ending_of(error).reason
