"""The walls around a process, each a few system calls by ctypes: namespaces, a root of its own,
limits, an identity without rights. Linux only; standard library only."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from dataclasses import dataclass

from corp_ray.tasks.sandbox import filters

NEW_MOUNTS, NEW_HOST_NAME, NEW_IPC = 0x00020000, 0x04000000, 0x08000000
NEW_USERS, NEW_PROCESSES, NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
_READ_ONLY, _NO_SETUID, _NO_DEVICES = 1, 2, 4
_REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 32, 4096, 16384, 1 << 18
_KEPT_FLAGS = 1 | 2 | 4 | 8 | 1024 | 2048  # of statvfs, whose numbers for these are those of mount
_DETACH = 2
_SET_DEATH_SIGNAL, _SET_DUMPABLE, _DROP_BOUNDING, _NO_NEW_PRIVILEGES = 1, 4, 24, 38
_CHILD_SUBREAPER = 36
_SIGKILL = 9
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_NOBODYS_IDS = 3_000_000_000  # no distribution hands these out
_NOBODY = 65534
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
WORKING_FOLDER = "/box"

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    _checked(_libc.unshare(flags), "unshare")


def be_root_of_own_users() -> None:
    """A new user namespace where this process has all rights over what is its own."""
    user, group = os.geteuid(), os.getegid()
    unshare(NEW_USERS)
    for name, content in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {user} 1"),
        ("gid_map", f"0 {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(content)


def python_folders() -> list[str]:
    """What a Python without site-packages needs to read: its library and shared objects."""
    base, library = sys.base_prefix, os.path.dirname(os.__file__)
    wanted = {library, os.path.realpath(library), f"{base}/lib", f"{base}/lib64"}
    wanted |= {"/usr/lib", "/usr/lib64", "/lib", "/lib64"}
    found = sorted(os.path.abspath(path) for path in wanted if os.path.isdir(path))
    return [p for p in found if not any(p != q and p.startswith(q + os.sep) for q in found)]


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    arguments = (part.encode() or None for part in (source, target, kind))
    _checked(
        _libc.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None), f"mount {target}"
    )


def _bind(path: str, root: str) -> None:
    target = root + path
    if os.path.islink(path) and not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.symlink(os.readlink(path), target)  # /lib -> usr/lib; what it points to is bound as well
        return
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC))
    _mount(path, target, "", _BIND | _RECURSIVE)
    flags = os.statvfs(target).f_flag & _KEPT_FLAGS
    if os.statvfs(target).f_flag & 4096:
        flags |= 1 << 21  # relatime: locked together with the others in a user namespace
    devices = 0 if path in DEVICES else _READ_ONLY | _NO_DEVICES
    _mount("", target, "", flags | _REMOUNT | _BIND | _NO_SETUID | devices)


def enter_empty_root() -> None:
    """A root that holds Python's folders, read-only, four devices and an empty WORKING_FOLDER.

    Needs a mount namespace of its own. Errors: OSError.
    """
    scratch = "/proc"  # a folder that every system has and nobody keeps files in
    _mount("", "/", "", _PRIVATE | _RECURSIVE)
    _mount("tmpfs", scratch, "tmpfs", _NO_SETUID, "size=1m,mode=0755")
    for path in (*python_folders(), *DEVICES):
        _bind(path, scratch)
    os.mkdir(scratch + WORKING_FOLDER)
    os.chdir(scratch)
    _checked(_libc.syscall(_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    _checked(_libc.umount2(b".", _DETACH), "umount")
    os.chdir("/")
    _mount("", "/", "", _REMOUNT | _BIND | _READ_ONLY | _NO_SETUID)


def fresh_working_folder(owner: int, size_bytes: int) -> None:
    """An empty folder in memory in place of WORKING_FOLDER, for this mount namespace alone."""
    options = f"size={size_bytes},nr_inodes=1000,mode=0700"
    options += f",uid={owner},gid={owner}" if owner else ""
    _mount("tmpfs", WORKING_FOLDER, "tmpfs", _NO_SETUID | _NO_DEVICES, options)
    os.chdir(WORKING_FOLDER)


@dataclass(frozen=True)
class Limits:
    """What one program may use. `cpu_s` is whole seconds; `wall_s` covers all of its tests."""

    cpu_s: int = 5
    wall_s: float = 20.0
    memory_bytes: int = 1 << 30
    file_bytes: int = 16 << 20
    open_files: int = 64
    processes: int = 16


def limit(limits: Limits, *, writable: bool) -> None:
    """Hard limits of this process and what it starts; without `writable` no file may grow."""
    file_bytes = limits.file_bytes if writable else 0
    for kind, most in (
        (resource.RLIMIT_CPU, limits.cpu_s),
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_NPROC, limits.processes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (allowed, allowed))


def nobodys_id(number: int) -> int:
    """A user id that no account has, one for each number; 0 where this process may not change."""
    return _NOBODYS_IDS + number if os.geteuid() == 0 else 0


def be_nobody(user: int) -> None:
    """Give up identity (when `user` is not 0) and every capability for good."""
    for capability in range(64):
        if _libc.prctl(_DROP_BOUNDING, capability, 0, 0, 0):
            break
    for wanted in (user, _NOBODY) if user else ():
        try:
            os.setgroups([])
            os.setresgid(wanted, wanted, wanted)
            os.setresuid(wanted, wanted, wanted)
        except OSError:  # an id that this user namespace does not map, or no right to change
            continue
        break
    header, nothing = ctypes.c_char_p(b"\x22\x05\x08\x20" + bytes(4)), ctypes.c_char_p(bytes(24))
    _checked(_libc.capset(header, nothing), "capset")
    _checked(_libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no_new_privs")
    _checked(_libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")


def die_with_parent() -> None:
    _checked(_libc.prctl(_SET_DEATH_SIGNAL, _SIGKILL, 0, 0, 0), "pdeathsig")


def adopt_orphans() -> None:
    """What this process's children leave behind becomes its child, so that it can be ended."""
    _checked(_libc.prctl(_CHILD_SUBREAPER, 1, 0, 0, 0), "subreaper")


def kill_orphans() -> None:
    """End all children of this process, those that they leave behind too."""
    children = f"/proc/self/task/{os.getpid()}/children"
    while True:
        with open(children) as file:
            found = file.read().split()
        if not found:
            return
        for child in found:
            os.kill(int(child), _SIGKILL)
        os.waitpid(-1, 0)


def close_all_but(wanted: list[int], spared: int) -> None:
    """Close every file descriptor but those."""
    kept = sorted({*wanted, spared})
    for low, high in zip([-1, *kept], [*kept, 1 << 16], strict=True):
        if low + 1 < high:
            os.closerange(low + 1, high)


def give_up(limits: Limits, user: int, *, files: bool, calls: bool, writable: bool) -> None:
    """The last steps before a program runs: limits, identity, death with the parent, filters."""
    limit(limits, writable=writable)
    be_nobody(user)
    if os.geteuid() == 0 and not (files or writable):
        raise PermissionError("root can give up neither its identity nor its files here")
    die_with_parent()
    if files:
        filters.deny_files([*python_folders(), os.getcwd()], DEVICES)
    if calls:
        filters.deny_calls()
