"""A filter of system calls: no new process, no socket, no touching of another process, nothing that outlives this one.

Linux, Documentation/userspace-api/seccomp_filter.rst. Limits on the number of processes do not hold for user 0, and
Landlock knows TCP only, so these rules are needed beside them. The filter is a program for the kernel's packet filter
machine: it loads the number of the call, compares, and answers. A refused call fails with EPERM.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

_LOAD, _EQUAL, _AT_LEAST, _ANY_SET, _ANSWER = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENT = 0, 4, 16        # offsets in struct seccomp_data
_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000
_REFUSE, _ABSENT = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
_X86_64, _X32_BIT = 0xC000003E, 0x40000000
_CLONE, _CLONE3, _CLONE_THREAD = 56, 435, 0x10000

REFUSED = {                                         # x86-64
    "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "setsid": 112, "setpgid": 109,
    "socket": 41, "socketpair": 53, "io_uring_setup": 425,
    "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "process_madvise": 440,
    "pidfd_open": 434, "pidfd_getfd": 438, "pidfd_send_signal": 424,
    "tkill": 200, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297,
    "setpriority": 141, "sched_setparam": 142, "sched_setscheduler": 144, "sched_setattr": 314,
    "sched_setaffinity": 203, "ioprio_set": 251, "migrate_pages": 256, "move_pages": 279,
    "unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323,
    "add_key": 248, "request_key": 249, "keyctl": 250,
    "shmget": 29, "semget": 64, "msgget": 68, "mq_open": 240, "memfd_create": 319, "memfd_secret": 447,
    "chmod": 90, "fchmod": 91, "fchmodat": 268, "fchmodat2": 452, "chown": 92, "fchown": 93, "lchown": 94,
    "fchownat": 260,
}
OWN_ONLY = {"kill": 62, "tgkill": 234, "prlimit64": 302}    # with a process id first: only one's own
_PRLIMIT64 = OWN_ONLY["prlimit64"]


def is_known() -> bool:
    """The numbers above are those of this machine."""
    return sys.platform == "linux" and platform.machine() == "x86_64" and sys.maxsize > 1 << 32


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def program(own: int) -> bytes:
    """The filter for the process *own*."""
    steps = [_step(_LOAD, _ARCHITECTURE), _step(_EQUAL, _X86_64, 1), _step(_ANSWER, _KILL_PROCESS),
             _step(_LOAD, _NUMBER), _step(_AT_LEAST, _X32_BIT, 0, 1), _step(_ANSWER, _REFUSE)]
    for number in REFUSED.values():
        steps += [_step(_EQUAL, number, 0, 1), _step(_ANSWER, _REFUSE)]
    steps += [_step(_EQUAL, _CLONE3, 0, 1), _step(_ANSWER, _ABSENT)]    # its flags are in memory; libc falls back
    steps += [_step(_EQUAL, _CLONE, 0, 4), _step(_LOAD, _ARGUMENT), _step(_ANY_SET, _CLONE_THREAD, 1),
              _step(_ANSWER, _REFUSE), _step(_ANSWER, _ALLOW)]
    for number in OWN_ONLY.values():
        allowed = (own, 0) if number == _PRLIMIT64 else (own,)
        tests = [_step(_EQUAL, pid, len(allowed) - at) for at, pid in enumerate(allowed)]
        steps += [_step(_EQUAL, number, 0, len(tests) + 3), _step(_LOAD, _ARGUMENT), *tests,
                  _step(_ANSWER, _REFUSE), _step(_ANSWER, _ALLOW)]
    return b"".join([*steps, _step(_ANSWER, _ALLOW)])


def confine() -> bool:
    """Put this process under the filter; False where there is none. PR_SET_NO_NEW_PRIVS must be set."""
    if not is_known():
        return False
    code = program(os.getpid())
    buffer = ctypes.create_string_buffer(code, len(code))
    descriptor = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    return int(ctypes.CDLL(None).prctl(22, 2, descriptor, 0, 0)) == 0   # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
