"""System calls and files that a process gives up for good: seccomp and Landlock, by ctypes.

Both work without any privilege, also in containers that allow no namespaces. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterable

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_LOAD, _EQUAL, _ANY_BIT, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16  # in struct seccomp_data, little endian
_X32_BIT = 0x40000000
_CLONE_THREAD = 0x00010000

# Denied whatever the arguments: network, other processes, namespaces and mounts, new programs,
# memory and objects that outlive the process or escape its limits.
_DENIED = {
    "x86_64": (
        *(41, 101, 310, 311, 440, 312, 272, 308, 165, 166, 155, 429, 428, 430, 431, 432, 433, 442),
        *(161, 250, 248, 249, 321, 298, 323, 425, 426, 427, 57, 58, 319, 447, 29, 30, 68, 64, 240),
        *(59, 322, 129, 297, 434, 424, 438, 200, 141, 203),
    ),
    "aarch64": (
        *(198, 117, 270, 271, 440, 272, 97, 268, 40, 39, 41, 429, 428, 430, 431, 432, 433, 442),
        *(51, 219, 217, 218, 280, 241, 282, 425, 426, 427, 279, 447, 194, 196, 186, 190, 180),
        *(221, 281, 138, 240, 434, 424, 438, 130, 140, 122),
    ),
}
# Allowed on the process itself: kill, tgkill, prlimit64.
_ON_ITSELF = {"x86_64": (62, 234, 302), "aarch64": (129, 131, 261)}
_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435

_libc = ctypes.CDLL(None, use_errno=True)


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("<HBBI", code, yes, no, value)


def _rules(machine: str) -> bytes:
    """The filter as BPF: each check skips the return that follows it unless it matches."""
    deny = _step(_RETURN, _ERRNO | _EPERM)
    steps = [
        _step(_LOAD, _ARCHITECTURE_AT),
        _step(_EQUAL, _ARCHITECTURE[machine], 1, 0),
        deny,
        _step(_LOAD, _NUMBER_AT),
        _step(_AT_LEAST, _X32_BIT, 0, 1),
        deny,
        _step(_EQUAL, _CLONE3, 0, 1),
        _step(
            _RETURN, _ERRNO | _ENOSYS
        ),  # the C library then asks for clone, whose flags can be read
    ]
    for number in _DENIED[machine]:
        steps += [_step(_EQUAL, number, 0, 1), deny]
    steps += [
        _step(_EQUAL, _CLONE[machine], 0, 4),
        _step(_LOAD, _FIRST_ARGUMENT_AT),
        _step(_ANY_BIT, _CLONE_THREAD, 1, 0),
        deny,
        _step(_RETURN, _ALLOW),
    ]
    for number in _ON_ITSELF[machine]:
        steps += [
            _step(_EQUAL, number, 0, 5),
            _step(_LOAD, _FIRST_ARGUMENT_AT),
            _step(_EQUAL, os.getpid(), 2, 0),
            _step(_EQUAL, 0, 0 if number in (62, 129) else 1, 0),
            deny,
            _step(_RETURN, _ALLOW),
        ]
    return b"".join([*steps, _step(_RETURN, _ALLOW)])


def supports_calls() -> bool:
    return platform.machine() in _DENIED


def deny_calls() -> None:
    """Filter the system calls of this process from now on; needs no_new_privs. Errors: OSError."""
    rules = _rules(platform.machine())
    held = ctypes.create_string_buffer(rules, len(rules))
    program = struct.pack("HxxxxxxP", len(rules) // 8, ctypes.addressof(held))
    if _libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.c_char_p(program), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ_FILE, _READ_FOLDER, _WRITE_FILE = 1 << 2, 1 << 3, 1 << 1
_FILE_RIGHTS = (13, 14, 15, 15, 16, 16)  # how many rights versions 1, 2, ... know
_PATH_BENEATH = 1


def landlock_version() -> int:
    """0 where the kernel has none."""
    return max(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1), 0)


def deny_files(readable: Iterable[str], devices: Iterable[str]) -> None:
    """From now on: reading below `readable`, reading and writing `devices`, no other file; no
    TCP (version 4), no signals out (version 6). Needs no_new_privs. Errors: OSError."""
    version = landlock_version()
    rights = (1 << _FILE_RIGHTS[min(version, len(_FILE_RIGHTS)) - 1]) - 1
    handled = struct.pack("<QQQ", rights, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = _libc.syscall(_CREATE_RULESET, ctypes.c_char_p(handled), ctypes.c_size_t(size), 0)
    if rules < 0:
        raise OSError(ctypes.get_errno(), "landlock")
    try:
        for path in readable:
            _allow(rules, path, _READ_FILE | _READ_FOLDER)
        for path in devices:
            _allow(rules, path, _READ_FILE | _WRITE_FILE)
        if _libc.syscall(_RESTRICT_SELF, rules, 0):
            raise OSError(ctypes.get_errno(), "landlock")
    finally:
        os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        rule = struct.pack("<Qi", rights, place)
        if _libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, ctypes.c_char_p(rule), 0):
            raise OSError(ctypes.get_errno(), f"landlock {path}")
    finally:
        os.close(place)
