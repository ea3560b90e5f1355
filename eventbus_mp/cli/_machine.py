"""What `doctor` looks at on this machine: memory, limits, systemd. Each check is given where to look."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator
from pathlib import Path

from eventbus_mp.cli._finding import Finding, fine, problem, warning
from eventbus_mp.cli._text import shown_bytes

__all__ = ["cgroup_memory", "machine_findings", "open_files", "remove_ipc", "shared_memory"]

SHARED_BYTES_MIN = 256 << 20
"""A quarter of what is free is the memory of a new bus: below this, that is less than a segment of 64 MiB."""
FREE_SHARE_MIN = 0.1
DESCRIPTORS_MIN = 1024
CGROUP_BYTES_MIN = 256 << 20
SYSTEM_UIDS = range(1000)
"""systemd removes nothing of system users; see systemd-logind(8)."""


def machine_findings() -> Iterator[Finding]:
    """All of them."""
    import resource

    yield shared_memory(Path("/dev/shm"))
    yield remove_ipc(Path("/"), os.getuid())
    yield open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))
    yield cgroup_memory(Path("/"))


def shared_memory(path: Path) -> Finding:
    """Whether there is room for the events of a bus."""
    subject = str(path)
    try:
        status = os.statvfs(path)
    except OSError as error:
        return problem(subject, f"it cannot be used: {error.strerror}", "mount a tmpfs there: buses keep events in it")
    total, free = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
    text = f"{shown_bytes(free)} of {shown_bytes(total)} are free"
    if not os.access(path, os.W_OK | os.X_OK):
        return problem(subject, "this user cannot write there", f"chmod 1777 {path}")
    if total < SHARED_BYTES_MIN:
        return problem(
            subject,
            f"{text}, which is little for a bus",
            "docker run --shm-size=1g; in Kubernetes, mount an emptyDir of medium Memory there",
        )
    if free < total * FREE_SHARE_MIN:
        return warning(subject, text, f"look for what fills it: du -a {path} | sort -n | tail; eventbus-mp clean")
    return fine(subject, text)


def remove_ipc(root: Path, uid: int) -> Finding:
    """Whether systemd removes this user's shared memory when the user logs out."""
    subject = "systemd RemoveIPC"
    if not (root / "run/systemd/system").is_dir():
        return fine(subject, "systemd does not run here")
    if uid in SYSTEM_UIDS:
        return fine(subject, "it spares system users, of whom this is one")
    if _setting_of_logind(root, "RemoveIPC").lower() in ("no", "false", "0", "off"):
        return fine(subject, "it is off")
    name = _name_of(uid)
    if (root / "var/lib/systemd/linger" / name).exists():
        return fine(subject, f"user {name} lingers, so there is no last logout")
    return problem(
        subject,
        f"when user {name} logs out for the last time, systemd removes the memory of running buses",
        f"loginctl enable-linger {name}; or RemoveIPC=no in /etc/systemd/logind.conf; or run buses as a system user",
    )


def _setting_of_logind(root: Path, name: str) -> str:
    """The last one wins, as systemd reads them; its own default is yes."""
    files = [root / "etc/systemd/logind.conf"]
    folders = [root / "usr/lib/systemd/logind.conf.d", root / "etc/systemd/logind.conf.d"]
    files += sorted((path for folder in folders for path in folder.glob("*.conf")), key=lambda path: path.name)
    texts = [path.read_text(errors="replace") for path in files if path.is_file()]
    found = re.findall(rf"^\s*{name}\s*=\s*(\S+)", "\n".join(texts), re.M)
    return str(found[-1]) if found else "yes"


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)  # A container may have no entry for its user.


def open_files(soft: int, hard: int) -> Finding:
    """Whether a process may have enough descriptors."""
    subject = "open files (nofile)"
    if 0 <= soft < DESCRIPTORS_MIN:
        return warning(
            subject,
            f"a process may have {soft}; the manager needs some for each process of the bus",
            f"ulimit -n {max(DESCRIPTORS_MIN, min(hard, 65_536))}, or LimitNOFILE= of the service; then start the bus",
        )
    return fine(subject, f"a process may have {soft:,}" if soft >= 0 else "a process may have any number")


def cgroup_memory(root: Path) -> Finding:
    """Whether the limit of this process's control group, which counts shared memory as well, leaves room for a bus."""
    subject = "cgroup memory"
    limits = list(_cgroup_limits(root))
    if not limits:
        return fine(subject, "there is no limit")
    limit, used = min(limits)
    text = f"{shown_bytes(used)} of {shown_bytes(limit)} are used"
    if limit - used < CGROUP_BYTES_MIN:
        return warning(
            subject,
            f"{text}; events count as well, and beyond the limit processes are killed",
            "raise the limit (docker run --memory=, MemoryMax= of the service), or set EVENTBUS_MP_MEMORY_BYTES_MAX",
        )
    return fine(subject, text)


def _cgroup_limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, used) of the control group and of those above it that have a limit; of both versions of cgroups."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if not controllers:
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base, names = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        here = base / path.lstrip("/")
        for folder in (here, *here.parents):
            if folder == base.parent:
                break
            limit, used = (_number_in(folder / name) for name in names)
            if limit is not None and used is not None and limit < 1 << 60:  # More is the first version's "none".
                yield limit, used


def _number_in(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
