"""Makes one bad file out of good ones: flips, cuts, splices, and lies about lengths. The same number gives the same file."""

import random
import re
from collections.abc import Callable, Sequence

Change = Callable[[random.Random, bytes], bytes]
"""A change that knows the format: it keeps the rest of a file consistent, so that its lie is read and not the first checksum."""
NUMBERS = (0, 1, 2, 7, 8, 127, 128, 255, 256, 4095, 65535, 65536, 1 << 20, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1,
           1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)  # fmt: skip
MOST_CHANGES = 6
MOST_BYTES = 1 << 20  # of what comes out: splicing must not grow it from step to step


def mutated(number: int, seed: int, good: Sequence[bytes], tokens: Sequence[bytes], changes: Sequence[Change]) -> bytes:
    """Input `number` of the series `seed`: one of the good files after 1 to MOST_CHANGES changes.

    tokens: pieces that mean something in this format. changes: those that know the format, half of all where there are some.
    """
    dice = random.Random(f"{seed}/{number}")
    data = dice.choice(good)
    for _ in range(dice.randint(1, MOST_CHANGES)):
        if changes and dice.random() < 0.5:
            data = dice.choice(changes)(dice, data)
        else:
            data = dice.choice(PLAIN)(dice, data, good, tokens)
        data = data[:MOST_BYTES]
    return data


def span(dice: random.Random, data: bytes) -> tuple[int, int]:
    """A place and a later one, more often near than far."""
    start = dice.randint(0, len(data))
    longest = dice.choice((1, 4, 16, 512, len(data) or 1))
    return start, min(len(data), start + dice.randint(0, longest))


def _flip(dice: random.Random, data: bytes, _good: Sequence[bytes], _tokens: Sequence[bytes]) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 8))):
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def _put(dice: random.Random, data: bytes, _good: Sequence[bytes], _tokens: Sequence[bytes]) -> bytes:
    """A number of 1 to 8 bytes, over what is there."""
    size = dice.choice((1, 2, 4, 8))
    written = (dice.choice(NUMBERS) & ((1 << 8 * size) - 1)).to_bytes(size, dice.choice(("little", "big")))
    at = dice.randint(0, max(0, len(data) - size))
    return data[:at] + written + data[at + size :]


def _remove(dice: random.Random, data: bytes, _good: Sequence[bytes], _tokens: Sequence[bytes]) -> bytes:
    start, end = span(dice, data)
    return data[:start] + data[end:]


def _repeat(dice: random.Random, data: bytes, _good: Sequence[bytes], _tokens: Sequence[bytes]) -> bytes:
    start, end = span(dice, data)
    times = min(dice.choice((1, 1, 2, 50, 20_000)), MOST_BYTES // max(1, end - start))
    return data[:end] + data[start:end] * times + data[end:]


def _cut(dice: random.Random, data: bytes, _good: Sequence[bytes], _tokens: Sequence[bytes]) -> bytes:
    return data[: dice.randint(0, len(data))]


def _splice(dice: random.Random, data: bytes, good: Sequence[bytes], _tokens: Sequence[bytes]) -> bytes:
    """The beginning of this one and the end of another, or a piece of another somewhere."""
    other = dice.choice(good)
    start, end = span(dice, other)
    at = dice.randint(0, len(data))
    return data[:at] + (other[start:] if dice.random() < 0.3 else other[start:end] + data[at:])


def _token(dice: random.Random, data: bytes, _good: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    written = dice.choice(tokens) if tokens else dice.randbytes(dice.randint(1, 8))
    at = dice.randint(0, len(data))
    return data[:at] + written + data[at + dice.choice((0, len(written))) :]


def _digits(dice: random.Random, data: bytes, _good: Sequence[bytes], _tokens: Sequence[bytes]) -> bytes:
    """Another number where one stands as text; often of the same length."""
    found = list(re.finditer(rb"\d+", data[:65536]))
    if not found:
        return data
    one = dice.choice(found)
    number = str(dice.choice(NUMBERS)).encode()
    if dice.random() < 0.5:
        number = number[: len(one[0])].rjust(len(one[0]), b"0")
    return data[: one.start()] + dice.choice((number, b"-" + number, b"9" * len(one[0]))) + data[one.end() :]


PLAIN = (_flip, _flip, _put, _put, _remove, _repeat, _cut, _splice, _token, _token, _digits)
