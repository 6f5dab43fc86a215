"""Plain data between a program and its tests: frames on a socket, values by exact construction.

A frame is four bytes of length and JSON. A value is a JSON scalar or a list whose first item names
its type; whoever reads one builds built-in objects from it and nothing else, so no method of the
writer's ever runs on the reader's side. What is not plain data stays with the program and is
known outside by a number ("h"). Standard library only.
"""

from __future__ import annotations

import builtins
import collections
import datetime
import decimal
import fractions
import json
import socket
import struct
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

MAX_FRAME_BYTES = 8 << 20
_MAX_ITERATOR_ITEMS = 10_000
_SAFE_INTEGER = 1 << 53
_LENGTH = struct.Struct("<I")
_SEQUENCES: dict[str, Callable[[Any], Any]] = {
    "l": list,
    "t": tuple,
    "s": set,
    "z": frozenset,
    "q": collections.deque,
    "it": lambda items: iter(tuple(items)),
    "dk": lambda items: dict.fromkeys(items).keys(),
    "dv": lambda items: dict(enumerate(items)).values(),
}
_MAPPINGS: dict[str, type] = {
    "d": dict,
    "od": collections.OrderedDict,
    "dd": collections.defaultdict,
    "n": collections.Counter,
}
_ITERATORS = (collections.abc.Iterator, collections.abc.ItemsView)
_BUILTINS = {id(thing): name for name, thing in vars(builtins).items() if callable(thing)}


class Malformed(ValueError):
    """What came is no value of this encoding."""


def send(to: socket.socket, message: Any) -> None:
    """One frame. Errors: Malformed when it is longer than MAX_FRAME_BYTES, OSError."""
    content = json.dumps(message).encode()
    if len(content) > MAX_FRAME_BYTES:
        raise Malformed(f"more than {MAX_FRAME_BYTES} bytes")
    to.sendall(_LENGTH.pack(len(content)) + content)


def receive(of: socket.socket) -> Any:
    """The next frame. Errors: EOFError at the end, Malformed."""
    (length,) = _LENGTH.unpack(_exactly(of, _LENGTH.size))
    if length > MAX_FRAME_BYTES:
        raise Malformed(f"more than {MAX_FRAME_BYTES} bytes")
    try:
        return json.loads(_exactly(of, length))
    except (ValueError, RecursionError) as error:
        raise Malformed(str(error)[:100]) from None


def _exactly(of: socket.socket, count: int) -> bytes:
    content = bytearray()
    while len(content) < count:
        try:
            more = of.recv(min(count - len(content), 1 << 16))
        except ConnectionResetError:
            more = b""
        if not more:
            raise EOFError
        content += more
    return bytes(content)


def encode(value: Any, other: Callable[[Any], Any]) -> Any:
    """`value` as JSON; `other` says what becomes of an object that is no plain data.

    Subclasses of the built-in types count as their built-in content; iterators as their items.
    """
    match value:
        case None | bool():
            return value
        case int():
            return int(value) if abs(value) < _SAFE_INTEGER else ["i", hex(value)]
        case str():
            return str.__str__(value)
        case float():
            return float(value)
        case complex():
            return ["c", value.real, value.imag]
        case bytes() | bytearray():
            return ["b" if isinstance(value, bytes) else "B", value.decode("latin-1")]
        case range():
            return ["r", *(encode(n, other) for n in (value.start, value.stop, value.step))]
        case decimal.Decimal():
            return ["D", str(value)]
        case fractions.Fraction():
            return ["F", hex(value.numerator), hex(value.denominator)]
        case datetime.datetime() | datetime.date() | datetime.time():
            return [type(value).__name__, value.isoformat()]
        case dict():
            flat = (encode(x, other) for pair in dict.items(value) for x in pair)
            return [_mapping_tag(value), *flat]
        case list() | tuple() | set() | frozenset() | collections.deque():
            return [_sequence_tag(value), *(encode(x, other) for x in value)]
        case collections.abc.KeysView():
            return ["dk", *(encode(x, other) for x in value)]
        case collections.abc.ValuesView():
            return ["dv", *(encode(x, other) for x in value)]
    if isinstance(value, _ITERATORS):
        items = list(islice(value, _MAX_ITERATOR_ITEMS + 1))
        if len(items) <= _MAX_ITERATOR_ITEMS:
            return ["it", *(encode(x, other) for x in items)]
    if id(value) in _BUILTINS:
        return ["y", _BUILTINS[id(value)]]
    return other(value)


def _sequence_tag(value: Any) -> str:
    kinds = ("l", list), ("t", tuple), ("s", set), ("z", frozenset), ("q", collections.deque)
    return next(tag for tag, kind in kinds if isinstance(value, kind))


def _mapping_tag(value: Any) -> str:
    return next(tag for tag in ("n", "dd", "od", "d") if isinstance(value, _MAPPINGS[tag]))


def decode(message: Any, other: Callable[..., Any]) -> Any:
    """The value; `other` makes something of an object's number and the name of its type.

    Errors: Malformed for whatever `encode` does not write.
    """
    if message is None or isinstance(message, bool | int | float | str):
        return message
    try:
        return _decode_tagged(message, other)
    except Malformed:
        raise
    except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
        raise Malformed(f"{type(error).__name__}: {error}"[:200]) from None


def _decode_tagged(message: Any, other: Callable[..., Any]) -> Any:
    if not isinstance(message, list):
        raise Malformed("not a list")
    tag, *parts = message
    if tag in _SEQUENCES:
        return _SEQUENCES[tag]([decode(x, other) for x in parts])
    if tag in _MAPPINGS:
        return _mapping(tag, [decode(x, other) for x in parts])
    match tag, parts:
        case "i", [str(text)]:
            return int(text, 16)
        case "c", [float(real), float(imaginary)]:
            return complex(real, imaginary)
        case "b", [str(text)]:
            return text.encode("latin-1")
        case "B", [str(text)]:
            return bytearray(text, "latin-1")
        case "r", [start, stop, step]:
            return range(*(decode(n, other) for n in (start, stop, step)))
        case "D", [str(text)]:
            return decimal.Decimal(text)
        case "F", [str(over), str(under)]:
            return fractions.Fraction(int(over, 16), int(under, 16))
        case (("datetime" | "date" | "time"), [str(text)]):
            return getattr(datetime, tag).fromisoformat(text)
        case "y", [str(name)] if id(vars(builtins).get(name)) in _BUILTINS:
            return vars(builtins)[name]
        case "h", [int(), str()]:
            return other(*parts)
    raise Malformed(f"unknown: {str(tag)[:40]}")


def _mapping(tag: str, flat: list[Any]) -> Any:
    pairs: Iterator[tuple[Any, Any]] = zip(flat[::2], flat[1::2], strict=True)
    if tag == "dd":
        return collections.defaultdict(None, pairs)
    return collections.Counter(dict(pairs)) if tag == "n" else _MAPPINGS[tag](pairs)
