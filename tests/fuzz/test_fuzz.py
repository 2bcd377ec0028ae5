"""A few hundred bad files for every reader, and what the fuzzer found once; ten minutes each: make fuzz."""

import gzip
import itertools
import math
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz import attempts
from tests.fuzz.__main__ import TARGETS, fuzz, target_of
from tests.fuzz.mutation import mutated

FOUND = Path(__file__).parent / "found"
INPUTS = {"tar": 120, "tables": 60, "plain_pickles": 400, "params_files": 60, "weights": 200, "hub_tables": 200}
WELL = {"read", "refused"}


@pytest.fixture
def bounded() -> Iterator[None]:
    """No more memory than this process has and 3 GiB: a reader that asks for what a file claims must not end the machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (3 << 30), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("name", TARGETS)
def test_reader__reads_or_refuses(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same inputs every time. Both answers occur: a reader that refuses all would prove nothing."""
    monkeypatch.setattr(attempts, "LIMIT_SECONDS", 20.0)  # breaking off in this process is a last resort
    beside = tmp_path / "beside"
    beside.mkdir()
    target = target_of(name, beside)
    came = list(itertools.islice(attempts.series(target, 7, 0, tmp_path / "input"), INPUTS[name]))
    assert [(number, one.how, one.said) for number, one in came if one.how not in WELL] == []
    assert {one.how for _, one in came} == WELL
    for path in sorted((FOUND / name).glob("*.gz")):
        (tmp_path / "input").write_bytes(gzip.decompress(path.read_bytes()))
        one = attempts.attempt(target, tmp_path / "input")
        assert one.how in WELL, (path, one)


def test_inputs__are_the_same_for_a_number_and_differ_between_numbers(tmp_path: Path) -> None:
    target = target_of("plain_pickles", tmp_path)
    some = [mutated(n, 0, target.good, target.tokens, target.changes) for n in range(50)]
    assert some == [mutated(n, 0, target.good, target.tokens, target.changes) for n in range(50)]
    assert len(set(some)) > 40
    assert some != [mutated(n, 1, target.good, target.tokens, target.changes) for n in range(50)]


@pytest.mark.slow
def test_driver__finds_every_kind_of_defect_and_goes_on() -> None:
    """The control: an error let out, an endless loop, too much memory, a process that dies; each with its input, and counted."""
    found = fuzz("planted_defects", 0, 60, math.inf)
    kinds = " ".join(found.defects)
    for word in ("KeyError", "TooLong", "MemoryError", "the process ended with -11"):
        assert word in kinds, found
    assert found.inputs == 60 and found.read and found.refused
    assert found.read + found.refused + sum(found.defects.values()) <= 60
    with pytest.raises(RuntimeError, match="before its first input"):
        fuzz("no_such_target", 0, 1, 30)
