"""Landlock: a Linux process gives up what it may do with files, for itself and for all that it starts.

It needs no privilege, and cannot be undone (landlock(7)). A process in such a domain also reads neither
memory nor environment of those outside it, since it may not trace them, and sends them no signal where the
kernel knows how to forbid it. Root's capabilities would let it, and are given up too (capabilities(7)).

Kernels have it since 5.13. What a later one added is used where it is there: before 6.2 a file may still be
shortened, before 6.12 a signal be sent.
"""

import ctypes
import os
import stat
from collections.abc import Iterable
from enum import IntFlag
from functools import cache
from pathlib import Path


class Access(IntFlag):
    """What may be done with a file, or in and below a folder: rights of linux/landlock.h."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14

    LIST = READ_DIR
    READ = EXECUTE | READ_FILE | READ_DIR
    WRITE = READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | REFER | TRUNCATE
    WRITE_ANYTHING = WRITE | MAKE_SOCK | MAKE_FIFO | MAKE_SYM


_EVERYTHING = Access((1 << 15) - 1)
_OF_FILES = Access.EXECUTE | Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE
_SINCE = {Access.REFER: 2, Access.TRUNCATE: 3}  # all others came with version 1
_SIGNALS_SINCE = 6
_ABSTRACT_SOCKETS, _SIGNALS = 1 << 0, 1 << 1

# the same numbers on all architectures that NVFlare runs on
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION = 1 << 0
_PATH_BENEATH = 1
_SET_NO_NEW_PRIVILEGES = 38

# root's, for files of others, low ports, pinned memory and priorities; none of them leads out of the domain
_KEPT_CAPABILITIES = sum(1 << c for c in (0, 1, 3, 10, 14, 23, 24))
_CAPABILITY_VERSION = 0x20080522


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("process", ctypes.c_int))


class _Capabilities(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def version() -> int:
    """The version of Landlock in this kernel; 0 where it has none, or does not let this process use it."""
    try:
        return _call(_CREATE_RULESET, None, 0, _ASK_VERSION)
    except (OSError, AttributeError):  # no Linux, or a C library without syscall()
        return 0


def restrict(grants: Iterable[tuple[Path, Access]]) -> None:
    """Give up all use of files but what is granted.

    Args:
        grants: files, and folders with all that is and will be in them; what does not exist grants nothing.

    Raises:
        RuntimeError: the process has other threads, which would keep what this one gives up.
        OSError: the kernel refuses, as where `version` is 0.
    """
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        raise RuntimeError("only a process with a single thread can be confined")
    known = version()
    handled = _EVERYTHING
    for access, since in _SINCE.items():
        if known < since:
            handled &= ~access
    scoped = _ABSTRACT_SOCKETS | _SIGNALS if known >= _SIGNALS_SINCE else 0
    ruleset = _call(_CREATE_RULESET, ctypes.byref(_Ruleset(handled, 0, scoped)), ctypes.sizeof(_Ruleset), 0)
    try:
        for path, access in grants:
            _grant(ruleset, path, access & handled)
        _checked(_libc().prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    _drop_capabilities()


def _grant(ruleset: int, path: Path, access: Access) -> None:
    try:
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):  # gone meanwhile, or out of reach in any case
        return
    try:
        if not stat.S_ISDIR(os.fstat(file).st_mode):
            access &= _OF_FILES
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(_PathBeneath(access, file)), 0)
    finally:
        os.close(file)


def _call(number: int, *arguments: object) -> int:
    words = (ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
    return _checked(_libc().syscall(ctypes.c_long(number), *words))


def _drop_capabilities() -> None:
    header, sets = _CapabilityHeader(_CAPABILITY_VERSION, 0), (_Capabilities * 2)()
    _checked(_libc().capget(ctypes.byref(header), sets))
    for half, bits in enumerate(sets):
        kept = _KEPT_CAPABILITIES >> 32 * half
        bits.effective &= kept
        bits.permitted &= kept
        bits.inheritable = 0
    _checked(_libc().capset(ctypes.byref(header), sets))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
