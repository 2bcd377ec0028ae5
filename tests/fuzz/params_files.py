"""params.yaml: the embedded run and the presets, with values, keys and YAML itself gone wrong."""

import io
import random
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.lib.core import load
from stages.lib.core.outcome import Refusal
from stages.lib.params.everything import Everything
from tests.fuzz.target import Target

ROOT = Path(__file__).parents[2]
LAUGHS = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (98 + n, 98 + n, b",".join([b"*%c" % (97 + n)] * 9)) for n in range(12)
)
TOKENS = [
    b"&a ", b"*a", b"<<: *a\n", b"!!python/object/apply:os.system ['touch pwned']", b"!!binary '=='", b"!!timestamp '2'",
    b"!!set {a}", b"!!omap [a]", b"!!float x", b"!!int ''", b"!!bool 3", b"[" * 3000, b"{a: " * 2000, b"- " * 3000, b"? " * 2000,
    b"? [a]\n: b\n", b"1e999", b".inf", b"-.nan", b"9" * 6000, b"0x" + b"f" * 6000, b"1_000", b"0o17", b"'\\ud800'",
    b'"\\ud800"', b'"\\x00"', b"\x00", b"\t", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc0\xaf", b"%YAML 1.1\n---\n", b"---\n", b"...\n",
    b"|\n", b">-\n", b"null", b"~", b"true", b"''", b": ", b"\n", b"  ", b"2001-12-14t21:59:43.10-05:00", b"2001-99-99",
    b"1:30:00", b"!<tag:yaml.org,2002:int> x", b"\xf0\x9f\x92\xa9", LAUGHS, b"#", b"@", b"`", b"!", b"&", b"*",
]  # fmt: skip
VALUES: list[Any] = [None, True, -1, 0, 1 << 70, 1e308, float("nan"), "", "x; rm -rf /", "../up", "-x", "s3://", "a" * 10_000, [],
                     {}, [[]], {"a": {"b": {}}}, [1] * 1000, "s3://u:p@b/k", {1: 2}, {None: 1}, 10**6000]  # fmt: skip


def revalued(dice: random.Random, data: bytes) -> bytes:
    """One value, somewhere in the tree, of another kind; or a key that is none."""
    try:
        values = load.parse(data.decode())
        place = values
        while isinstance(place, dict) and place and dice.random() < 0.8:
            key = dice.choice(list(place))
            if not isinstance(place[key], dict) or not place[key]:
                break
            place = place[key]
        place[dice.choice([*place, "unknown", 3])] = dice.choice(VALUES)
        out = io.StringIO()
        YAML(typ="safe").dump(values, out)
        return out.getvalue().encode(errors="surrogatepass")
    except (Refusal, Exception):  # what other changes left cannot be read any more
        return data


def target(_folder: Path) -> Target:
    """What `make check` does with the file, its packages apart."""
    good = [path.read_bytes() for path in (ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml")))]
    return Target(lambda path: load.whole(Everything, path), good, TOKENS, [revalued])
