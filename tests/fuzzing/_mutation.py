"""Random changes of bytes, of texts, and of values as JSON and YAML have them."""

import copy
import math
from random import Random
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 7, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e308),
    *(math.nan, math.inf, -math.inf, "", " ", "0", "1e999", "nan", "null", "a\nb", "\0", "\ud800"),
    *("../../outside", "/", "~", ".", "<script>alert(1)</script>", "${x}", "%s", "é☃", "☃" * 999),
    *([], {}, [[]], [None], {"": None}, [1, "a"], {"a": {"b": []}}, "0.attention", "99.mlp"),
)  # fmt: skip
PIECES: tuple[bytes, ...] = (
    *(b"", b"\0", b"\xff", b"\xef\xbb\xbf", b"\n", b"\r\n", b'"', b"'", b"{", b"}", b"[", b"]"),
    *(b",", b":", b"- ", b"&a ", b"*a", b"!!python/object:os.system ", b"<<: ", b"\t", b"\\"),
    *(b"NaN", b"1e999", b"9" * 5000, b"[" * 20_000, b"\xed\xa0\x80", b"\\ud800", b"2001-99-99"),
    *(b"\xff" * 8, b"\0" * 8, b"\x7f\xff\xff\xff", b"../"),
)  # fmt: skip


def mutated_bytes(random: Random, content: bytes) -> bytes:
    """The content with one to four changes: bits, bytes, pieces, cuts, repetitions."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        start = random.randrange(len(changed) + 1)
        end = min(len(changed), start + random.choice((0, 1, 1, 4, 32, 1024)))
        kind = random.randrange(6)
        if kind == 0 and start < len(changed):
            changed[start] ^= 1 << random.randrange(8)
        elif kind == 1:
            del changed[start:]
        elif kind == 2:
            del changed[start:end]
        elif kind == 3:
            changed[start:start] = changed[start:end] * random.choice((1, 2, 50))
        elif kind == 4:
            changed[start:end] = random.randbytes(end - start)
        else:
            changed[start:end] = random.choice(PIECES)
    return bytes(changed)


def mutated_value(random: Random, value: Any) -> Any:
    """A copy of a value of mappings and lists, with one to three changes at random places."""
    whole = [copy.deepcopy(value)]
    for _ in range(random.choice((1, 1, 2, 3))):
        parent, key = random.choice(_places(whole))
        kind = random.randrange(6)
        if kind == 0 and parent is not whole:
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            parent[random.choice((f"{key}_", "", "x", str(key).upper()))] = parent.pop(key)
        elif kind == 2:
            parent[key] = [parent[key]]
        elif kind == 3:
            parent[key] = copy.deepcopy(
                random.choice(
                    _places(whole),
                )
            )[0]
        else:
            parent[key] = copy.deepcopy(random.choice(VALUES))
    return whole[0]


def _places(whole: Any) -> list[tuple[Any, Any]]:
    """Every place in a value: the mapping or list that holds it, and its key."""
    found, left = list[tuple[Any, Any]](), [whole]
    while left:
        parent = left.pop()
        keys = list(parent) if isinstance(parent, dict) else range(len(parent))
        for key in keys:
            found.append((parent, key))
            if isinstance(parent[key], (dict, list)):
                left.append(parent[key])
    return found
