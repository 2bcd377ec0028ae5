"""Compiled code: made once for a content, made again for another, and never needed."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.lib.core import native


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `codes` with one C file, and a folder of its own for libraries."""
    (tmp_path / "codes").mkdir()
    (tmp_path / "codes" / "__init__.py").touch()
    (tmp_path / "codes" / "answer.c").write_text("int answer(void) { return 42; }\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "codes", raising=False)  # of another test, in another folder
    monkeypatch.setattr(native, "folder", lambda: tmp_path / "made")
    monkeypatch.delenv("TUTELAGE_NATIVE", raising=False)
    native.library.cache_clear()
    yield tmp_path
    native.library.cache_clear()


def test_library__is_compiled_once_and_again_for_other_code(package: Path) -> None:
    first = native.library("codes/answer.c")
    assert first is not None and first.answer() == 42
    (made,) = (package / "made").iterdir()
    time = made.stat().st_mtime_ns
    native.library.cache_clear()
    assert native.library("codes/answer.c") is not None and made.stat().st_mtime_ns == time
    (package / "codes" / "answer.c").write_text("int answer(void) { return 43; }\n")
    native.library.cache_clear()
    second = native.library("codes/answer.c")
    assert second is not None and second.answer() == 43
    assert len(list((package / "made").iterdir())) == 2


@pytest.mark.usefixtures("package")
def test_library__is_none_where_it_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_NATIVE", "0")
    assert native.library("codes/answer.c") is None


@pytest.mark.parametrize("command", [[], ["/no/such/compiler"], ["false"]])
def test_library__says_why_there_is_none(
    package: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native, "compiler", lambda: command)
    with caplog.at_level(logging.WARNING):
        assert native.library("codes/answer.c") is None
    assert "codes/answer.c could not be compiled" in caplog.text
    assert not [path for path in (package / "made").glob("*") if path.suffix == ".so"]


def test_library__is_made_again_where_its_file_is_cut_short(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.library("codes/answer.c") is not None
    (made,) = (package / "made").iterdir()
    (package / "cut").mkdir()
    (package / "cut" / made.name).write_bytes(made.read_bytes()[:100])
    monkeypatch.setattr(native, "folder", lambda: package / "cut")
    native.library.cache_clear()
    again = native.library("codes/answer.c")
    assert again is not None and again.answer() == 42
    assert (
        package / "cut" / made.name
    ).stat().st_size > 100  # about as long as `made`: the linker notes a temporary name


def test_library__is_none_where_its_folder_cannot_be_written(
    package: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (package / "file").touch()
    monkeypatch.setattr(native, "folder", lambda: package / "file" / "below")
    assert native.library("codes/answer.c") is None
    assert "codes/answer.c could not be compiled" in caplog.text


def test_compiler__is_the_chosen_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "gcc -m64")
    assert native.compiler() == ["gcc", "-m64"]
    monkeypatch.delenv("CC")
    assert native.compiler()[-1] == "cc"
