"""What system calls an actor may make: a seccomp filter (seccomp(2)) by libseccomp.

An actor computes and speaks over descriptors. It never starts a program, looks into another process, mounts, loads
code into the kernel, changes the machine's clock or its own namespaces: those calls fail with EPERM, for the actor and
for whatever took it over. The list is that of what systemd calls @clock, @cpu-emulation, @debug, @keyring, @module,
@mount, @obsolete, @raw-io, @reboot and @swap (systemd.exec(5), SystemCallFilter=), the calls that start programs or
make namespaces, and interfaces to the kernel known for their attack surface (bpf, io_uring, userfaultfd, perf).

`LOCAL` also leaves no sockets but Unix ones: for actors that have no business on a network. `NETWORK` has besides
those IPv4, IPv6 and netlink (routes and addresses are read through it).

Actors have no rights and a user of their own besides; this is a second wall, for the day the first has a hole.
"""

from __future__ import annotations

import errno
import socket
from functools import cache
from typing import Any

try:
    import pyseccomp  # type: ignore[import-untyped]
except (ImportError, RuntimeError):  # the second: there is no libseccomp
    pyseccomp = None

NONE, LOCAL, NETWORK = "", "local", "network"

_FORBIDDEN = """
    execve execveat
    ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd process_madvise
    mount umount umount2 pivot_root move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr chroot
    setns unshare
    init_module finit_module delete_module kexec_load kexec_file_load create_module query_module get_kernel_syms
    bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register lookup_dcookie
    add_key request_key keyctl
    settimeofday clock_settime clock_adjtime adjtimex stime
    reboot swapon swapoff acct quotactl quotactl_fd syslog sethostname setdomainname vhangup
    iopl ioperm modify_ldt vm86 vm86old personality
    setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups
    mknod mknodat open_by_handle_at name_to_handle_at fanotify_init
    uselib ustat sysfs _sysctl nfsservctl afs_syscall getpmsg putpmsg tuxcall security vserver
""".split()  # noqa: SIM905 - a list of words, read as one
_NAMESPACES = 0x7E020000  # CLONE_NEW{NS, CGROUP, UTS, IPC, USER, PID, NET} of clone(2)
_FAMILIES = {
    LOCAL: (socket.AF_UNIX,),
    NETWORK: (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK),
}


def confine(profile: str) -> str:
    """Put the filter on this process, for ever, and for what it forks. NONE does nothing.

    It sets no_new_privs, which the kernel asks for. Returns why there is no filter, "" when there is.
    """
    if profile == NONE:
        return ""
    if pyseccomp is None:
        return "libseccomp is not installed (Debian: apt-get install libseccomp2)"
    try:
        _filter(profile).load()
    except OSError as error:
        return f"the kernel takes no system-call filter: {error.strerror}"
    return ""


@cache
def _filter(profile: str) -> Any:
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    refuse = pyseccomp.ERRNO(errno.EPERM)
    for name in _FORBIDDEN:
        try:
            number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
        except (ValueError, OSError):
            continue  # libseccomp is older than the call
        if number >= 0:  # below: a call of other machines
            rules.add_rule(refuse, number)
    for bit in range(32):
        if _NAMESPACES >> bit & 1:
            rules.add_rule(refuse, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, 1 << bit, 1 << bit))
    rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")  # its flags are in memory, where no filter sees them
    allowed = _FAMILIES[profile]
    for family in range(max(allowed) + 1):
        if family not in allowed:
            rules.add_rule(refuse, "socket", pyseccomp.Arg(0, pyseccomp.EQ, family))
    rules.add_rule(refuse, "socket", pyseccomp.Arg(0, pyseccomp.GT, max(allowed)))
    return rules


def prepare() -> None:
    """Build the filters now: in the template, for all actors that it will fork."""
    if pyseccomp is not None:
        for profile in (LOCAL, NETWORK):
            _filter(profile)
