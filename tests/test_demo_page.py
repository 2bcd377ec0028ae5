"""The demo page: a real server on a free port, models that timm loads, real requests (the server alone: test_loopback.py)."""

import contextlib
import http.client
import io
import json
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from stages.demo_page import Page
from stages.lib.core import loopback
from stages.lib.core.outcome import Refusal
from stages.lib.models import architecture, deit, folder
from stages.lib.models.mae import MAE
from stages.lib.params.pretrain import Decoder
from stages.lib.params.vit import ViT
from stages.lib.reporting import demo_answers
from tests.workspace import edit, start

ROOT = Path(__file__).parents[1]
VIT = ViT(patch_size=4, width=24, depth=2, heads=3)
CLASSES = ["seven", "eight <b>", "nine"]


def save_student(path: Path, distilled: bool, size: int = 16, names: list[str] | None = CLASSES) -> None:
    """A random student as `export` leaves one; larger weights than at the start, so that it has opinions."""
    torch.manual_seed(3)
    model = deit.create(VIT, size, 3, distilled)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape) * 0.3)
    name, arguments = architecture.classifier(VIT, size, distilled)
    folder.save(model, path, name, arguments, size, 0.9, names)


def save_mae(path: Path) -> None:
    """A random autoencoder as `pretrain` leaves one."""
    torch.manual_seed(4)
    decoder = Decoder(width=16, depth=1, heads=2)
    name, arguments = architecture.encoder(VIT, 16)
    folder.save_mae(MAE(16, VIT, decoder, 0.75), path, name, arguments, 16, decoder.model_dump())


def png(width: int = 40, height: int = 30, seed: int = 0) -> bytes:
    """Noise as a PNG."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, format="PNG")
        return file.getvalue()


def lay_out(place: Path, distilled: bool = True) -> None:
    """What a folder has after `make demo`, as far as the page reads it, without images to choose from."""
    (place / "stages").symlink_to(ROOT / "stages")
    (place / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    save_student(place / "data/exported/student", distilled)
    save_mae(place / "data/models/mae")


class Asked:
    """A page behind a real server in this process, and what comes of asking it."""

    def __init__(self) -> None:
        self.server = loopback.Server(Page("student").respond, 0, demo_answers.LARGEST_BYTES)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes, dict[str, str]]:
        """(status, body, headers)."""
        line = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=60)
        try:
            line.request(method, path, body, {"Content-Type": loopback.BODY} if body is not None else {})
            answer = line.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())
        finally:
            line.close()

    def answer(self, body: bytes, path: str = "/answer") -> dict[str, Any]:
        """What is said of an image."""
        status, text, _ = self.ask("POST", path, body)
        assert status == 200, text
        found: dict[str, Any] = json.loads(text)
        return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models."""
    found = tmp_path_factory.mktemp("demo")
    lay_out(found)
    return found


@pytest.fixture(scope="module")
def page(place: Path) -> Iterator[Asked]:
    """One server for all."""
    with contextlib.chdir(place):
        one = Asked()
    yield one
    one.server.shutdown()
    one.server.server_close()


def by_timm(place: Path, data: bytes, model: str = "student") -> torch.Tensor:
    """What timm's own loading, preprocessing and forward pass give: probabilities f[classes] of both heads fused."""
    import timm

    network = timm.create_model(f"local-dir:{place / 'data/exported' / model}", pretrained=True).eval()
    prepare = create_transform(**resolve_model_data_config(network))
    with torch.no_grad(), Image.open(io.BytesIO(data)) as image:
        found: torch.Tensor = network(prepare(image.convert("RGB"))[None])[0].softmax(-1)
    return found


def test_answer__is_what_timm_says_of_the_exported_folder(page: Asked, place: Path) -> None:
    """Its preprocessing too: another picture has other numbers, and the two heads differ (controls)."""
    for seed in (0, 1):
        data = png(seed=seed)
        found, wanted = page.answer(data), by_timm(place, data)
        one, two, fused = found["heads"]
        assert [one["name"], two["name"]] == ["Class token", "Distillation token"]
        said = {row["label"]: row["probability"] for row in fused["top"]}
        assert said == pytest.approx({name: float(wanted[number]) for number, name in enumerate(CLASSES)}, abs=1e-4)
        assert [row["probability"] for row in one["top"]] == sorted(
            (row["probability"] for row in one["top"]), reverse=True
        )
        assert one["top"] != two["top"]
        assert [token["name"] for token in found["attention"]] == ["Class token", "Distillation token"]
        assert all(0 < token["share"] < 1 for token in found["attention"])
    assert page.answer(png(seed=0)) != page.answer(png(seed=1))


def test_paint__hides_as_many_patches_as_the_slider_says_and_draws_masks_apart(page: Asked) -> None:
    data = png()
    found = page.answer(data, "/paint?ratio=0.75&draw=0")
    assert (found["hidden"], found["patches"]) == (12, 16) and found["loss"] > 0
    assert page.answer(data, "/paint?ratio=0.75&draw=0") == found
    assert page.answer(data, "/paint?ratio=0.75&draw=1")["seen"] != found["seen"]
    assert page.answer(data, "/paint?ratio=0.25&draw=0")["hidden"] == 4
    assert page.answer(data, "/paint?ratio=0.98&draw=0")["hidden"] == 15  # one must be left to see


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/answer", b"", 422, "no image that can be read"),
        ("/answer", b"hello", 422, "no image that can be read"),
        ("/answer", png()[:900], 422, "no image that can be read"),
        ("/answer", b"%!PS-Adobe-3.0 EPSF-3.0\n", 422, "no image that can be read"),
        ("/paint?ratio=0", png(), 422, "0.05..0.98"),
        ("/paint?ratio=1", png(), 422, "0.05..0.98"),
        ("/paint?ratio=nan", png(), 422, "no number"),
        ("/paint?ratio=0.5&draw=-1", png(), 422, "mask"),
        ("/paint?ratio=0.5&draw=1e300", png(), 422, "mask"),
        ("/paint", png(), 422, "no number"),
        ("/../params.yaml", png(), 404, "nothing here"),
        ("/sample?number=0", png(), 404, "nothing here"),
    ],
)
def test_request__that_makes_no_sense_ends_in_a_sentence(
    page: Asked, path: str, body: bytes, status: int, words: str
) -> None:
    found, text, _ = page.ask("POST", path, body)
    assert (found, words in text.decode()) == (status, True), text
    assert "Traceback" not in text.decode() and str(ROOT) not in text.decode()
    assert page.ask("GET", "/")[0] == 200


def test_image__larger_than_is_taken_is_refused_before_it_is_decoded(page: Asked) -> None:
    """A file of 9,000 x 9,000 pixels weighs little; one of too many bytes is not even read into memory."""
    with io.BytesIO() as file:
        Image.new("1", (9000, 9000)).save(file, format="PNG")
        bomb = file.getvalue()
    status, text, _ = page.ask("POST", "/answer", bomb)
    assert status == 422 and b"9000 x 9000 pixels" in text and len(bomb) < 100_000
    status, text, _ = page.ask("POST", "/answer", bytes(demo_answers.LARGEST_BYTES + 1))
    assert status == 413 and b"are not taken" in text


def test_page__may_load_nothing_and_run_nothing_but_its_own(page: Asked) -> None:
    status, text, headers = page.ask("GET", "/")
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy and headers["X-Content-Type-Options"] == "nosniff"
    assert b"http://" not in text.replace(b"http://www.w3.org", b"") and b"https://" not in text
    assert b"eight <b>" not in text


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with models, as the current one."""
    lay_out(tmp_path, distilled=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_student__with_one_head_of_another_size_without_names_and_no_autoencoder(here: Path) -> None:
    """The page shows what there is, and says what is not."""
    shutil.rmtree(here / "data/models/mae")
    save_student(here / "data/exported/student", distilled=False, size=24, names=None)
    inside = Page("student")
    found = json.loads(inside.respond(loopback.Request("POST", "/answer", {}, png())).body)
    assert [head["name"] for head in found["heads"]] == ["Class token"] and found["size"] == 24
    assert {row["label"] for row in found["heads"][0]["top"]} == {"class 0", "class 1", "class 2"}
    assert [token["name"] for token in found["attention"]] == ["Class token"]
    text = inside.respond(loopback.Request("GET", "/", {})).body.decode()
    assert "dvc repro pretrain" in text and 'id="ratio"' not in text


def test_models__that_are_missing_are_named_with_what_makes_them(here: Path) -> None:
    with pytest.raises(Refusal, match=r"no data/exported/finetuned; there is student"):
        Page("finetuned")
    for word in ("../models/mae", "/etc", ""):
        with pytest.raises(Refusal, match=r"there is student"):
            Page(word)
    shutil.rmtree(here / "data/exported")
    with pytest.raises(Refusal, match=r"make demo"):
        Page("student")


@pytest.mark.slow
def test_command__says_where_it_is_and_ends_when_told(tmp_path: Path) -> None:
    """As `make demo-page` starts it: imports, models, a free port; exit code 0 at SIGTERM, and 2 with a sentence without models."""
    lay_out(tmp_path)
    process = start(tmp_path, "stages.demo_page", "--port", "0")
    assert process.stdout
    greeting = process.stdout.readline()
    while "http://" not in greeting and process.poll() is None:  # warnings: no samples here
        greeting = process.stdout.readline()
    with urllib.request.urlopen(greeting.split("  ")[0].split()[-1], timeout=60) as answer:
        assert b"Ask the student" in answer.read()
    process.terminate()
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in rest
    shutil.rmtree(tmp_path / "data/exported")
    process = start(tmp_path, "stages.demo_page")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and "make demo" in said and "Traceback" not in said


def test_samples__are_spread_over_classes_and_given_as_the_shards_hold_them(project: Path, here: Path) -> None:
    for name in ("index", "shards"):
        (here / "data" / name).symlink_to(project / "data" / name)
    edit(here, {"sets.main": "digits-7-9", "sets.transfer": ["digits-0-6"]})
    inside = Page("student")
    assert inside.samples.names[:6] == ("7", "8", "9", "7", "8", "9")
    answer = inside.respond(loopback.Request("GET", "/sample", {"number": "1"}))
    assert answer.status == 200 and demo_answers.opened(answer.body, upright=False).size == (8, 8)
    for word in ("99", "-1", "x", "../1", ""):
        assert inside.respond(loopback.Request("GET", "/sample", {"number": word})).status == 404


def test_lit__covers_patches_as_they_are_looked_at_and_leaves_the_others_alone() -> None:
    seen = np.full((6, 6, 3), 200, np.uint8)
    found = demo_answers.lit(seen, np.array([[0.0, 0.0], [0.3, 0.1]]))
    assert (found[:3] == 200).all()
    assert (found[3:, :3] == (241, 178, 50)).all() and (found[3:, 3:] == (214, 192, 150)).all()  # 3/4 and 1/4 amber


def test_opened__turns_a_photo_where_ingestion_would() -> None:
    with io.BytesIO() as file:
        exif = Image.Exif()
        exif[demo_answers.ORIENTATION] = 6
        Image.new("RGB", (4, 2)).save(file, format="JPEG", exif=exif)
        data = file.getvalue()
    assert demo_answers.opened(data, upright=False).size == (4, 2)
    assert demo_answers.opened(data, upright=True).size == (2, 4)
