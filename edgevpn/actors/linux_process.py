"""What Linux gives to processes and Python does not: prctl(2), fork with CLONE_PARENT, a process title.

`fork_sibling` is fork(2) whose child belongs to the caller's *parent*: the raw clone(2) system call with CLONE_PARENT,
called between the interpreter's own fork hooks (PyOS_BeforeFork, PyOS_AfterFork_*; exported by CPython 3.11 to 3.13).
glibc caches the thread id in the thread's control block and its own fork() renews it; the raw call does not, so the
kernel is told to write it there (CLONE_CHILD_SETTID at the address that PR_GET_TID_ADDRESS names), else a later
pthread_kill in the child would aim at the parent's thread. glibc's other fork handlers (malloc and stdio locks) are
skipped, which is harmless with exactly one thread, and `fork_sibling` refuses to work with more.

Sources: prctl(2), clone(2), proc_pid_smaps(5), proc_pid_stat(5) for the argument area that a title is written into.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import time

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER = 1, 2, 3
CAP_SETGID, CAP_SETUID = 6, 7
CAP_SYS_NICE = 23
_CAPABILITY_VERSION_3 = 0x20080522
PR_SET_NO_NEW_PRIVS = 38
PR_GET_TID_ADDRESS = 40  # needs CONFIG_CHECKPOINT_RESTORE

CLONE_PARENT = 0x00008000
CLONE_CHILD_CLEARTID = 0x00200000
CLONE_CHILD_SETTID = 0x01000000

# The number of clone(2), and whether its last arguments are (ctid, tls) instead of the usual (tls, ctid).
_CLONE_CALLS = {"x86_64": (56, True), "aarch64": (220, False), "riscv64": (220, False)}

_libc = ctypes.CDLL(None, use_errno=True)
_libc_with_gil = ctypes.PyDLL(None, use_errno=True)  # does not release the GIL: nothing may run around the clone


def prctl(option: int, argument: int | bytes | ctypes.Array[ctypes.c_char] | ctypes.c_void_p = 0) -> None:
    """prctl(2) with one argument. Raises OSError."""
    if isinstance(argument, int):
        first: object = ctypes.c_ulong(argument)
    elif isinstance(argument, ctypes.c_void_p):
        first = ctypes.byref(argument)
    else:
        first = argument
    zero = ctypes.c_ulong(0)
    if _libc.prctl(ctypes.c_int(option), first, zero, zero, zero) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def die_with_parent(parent_pid: int, signal_number: int = signal.SIGKILL) -> None:
    """Get `signal_number` when the parent's thread that started us ends; end now if the parent is gone already.

    The kernel ties this to the *thread* that forked, so parents start processes from their main thread. It survives an
    exec of the parent. A change of credentials clears it: call this after setuid.
    """
    prctl(PR_SET_PDEATHSIG, int(signal_number))
    if os.getppid() != parent_pid:
        os._exit(71)


def forbid_new_privileges() -> None:
    """No exec of ours can ever gain rights any more (setuid bits, file capabilities)."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def keep_capabilities(*kept: int) -> None:
    """Give up all capabilities but these (capabilities(7), capset(2)), in what is permitted and what is in force.

    Of these it keeps those that it has. Raises OSError.
    """
    mask = sum(1 << capability for capability in kept) & _permitted()
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = struct.pack("=6I", low, low, 0, high, high, 0)  # effective, permitted, inheritable
    if _libc.capset(header, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"capset: {os.strerror(number)}")


def _permitted() -> int:
    """The capabilities that this process may have in force."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        return int(status.read().partition("CapPrm:")[2].split(maxsplit=1)[0], 16)


def hide_memory() -> None:
    """No core dump, and no process without CAP_SYS_PTRACE may look into this one (PR_SET_DUMPABLE of prctl(2))."""
    prctl(PR_SET_DUMPABLE, 0)


def caught_signals() -> list[int]:
    """The numbers of the signals that have a handler, by the kernel's account: of Python or of C."""
    descriptor = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        mask = int(os.read(descriptor, 8192).partition(b"SigCgt:")[2].split(maxsplit=1)[0], 16)
    finally:
        os.close(descriptor)
    return [number for number in range(1, 65) if mask >> (number - 1) & 1]


def count_threads() -> int:
    """The number of threads of this process, by the kernel's count."""
    return len(os.listdir("/proc/self/task"))


def memory(pid: int) -> tuple[int, int]:
    """(RSS, PSS) of a process in bytes: what it has resident, and its part where pages are shared. 0 for what can't be
    read: it is gone, or belongs to somebody else. Takes up to 1 ms."""
    try:
        with open(f"/proc/{pid}/statm") as statm:
            rss = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        with open(f"/proc/{pid}/smaps_rollup") as rollup:
            return rss, next((int(line.split()[1]) * 1024 for line in rollup if line.startswith("Pss:")), 0)
    except (OSError, IndexError, ValueError):
        return 0, 0


def age(pid: int) -> float:
    """Seconds since a process was started, to the tick; 0.0 when it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            started = int(stat.read().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0.0
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK"))


def is_stopped(pid: int) -> bool:
    """Whether a process stands still by a signal (SIGSTOP, SIGTSTP...)."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False


class TitleArea:
    """The memory that ps(1) reads as our command line: as long as the arguments that we were started with."""

    def __init__(self) -> None:
        with open("/proc/self/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        self._start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end: fields 48 and 49
        self._size = max(end - self._start, 0) if self._start else 0

    def write(self, title: str) -> None:
        """Show `title` in ps and, cut to 15 bytes, as the thread's name. Do it before setuid."""
        prctl(PR_SET_NAME, title.encode()[:15])
        if self._size > 1:
            text = title.encode()[: self._size - 1]
            ctypes.memmove(self._start, text.ljust(self._size, b"\0"), self._size)


def raise_descriptor_limit() -> None:
    """As many descriptors as this process may have: the soft limit of old programs (1024) is for select(2)."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def can_fork_siblings() -> bool:
    """Whether `fork_sibling` works here: a machine whose call we know, and a kernel that tells the tid address."""
    try:
        return os.uname().machine in _CLONE_CALLS and _tid_address() != 0
    except OSError:
        return False


def _tid_address() -> int:
    address = ctypes.c_void_p()
    prctl(PR_GET_TID_ADDRESS, address)
    return address.value or 0


def fork_sibling() -> int:
    """fork(2), except that the child's parent is our parent. Returns 0 in the child, its pid in the caller.

    Raises OSError when the kernel refuses, RuntimeError when we have more than one thread.
    """
    if count_threads() != 1:
        raise RuntimeError("a process with several threads can't be forked safely")
    number, ctid_before_tls = _CLONE_CALLS[os.uname().machine]
    flags = CLONE_PARENT | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | signal.SIGCHLD
    null, ctid = ctypes.c_long(0), ctypes.c_long(_tid_address())
    call = _libc_with_gil.syscall
    call.restype = ctypes.c_long
    arguments = [ctypes.c_long(number), ctypes.c_long(flags), null, null]
    arguments += [ctid, null] if ctid_before_tls else [null, ctid]
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = int(call(*arguments))
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"clone: {os.strerror(error)}")
    return pid
