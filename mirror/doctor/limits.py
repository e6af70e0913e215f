"""Whether the mirror may hold as many files open as it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.doctor.finding import About, Finding
from mirror.doctor.holders import holders, most_files

if TYPE_CHECKING:
    from mirror.doctor.case import Case

_LOW = 4096  # open files; each client holds one or two, each fill up to seven


def examine(case: Case) -> list[Finding]:
    """Look at the running mirror's limit, or at this process's where there is none to be seen."""
    if case.config is None or not case.here:
        return []
    store = case.config.storage.path.absolute()
    running = next((holder.pid for holder in holders(store / "index.sqlite-shm") if holder.mirror), None)
    most = most_files(running) if running is not None else None
    whose = f"the running mirror (process {running})" if most is not None else "a process started from here"
    if most is None:
        most = case.files
    about = About("limits", "open files")
    if most is None or most >= _LOW:
        return [about.ok(f"{whose} may hold {'any number of' if most is None else most} files open")]
    return [
        about.warning(
            f"{whose} may hold only {most} files open: from some {most // 4} clients at once it refuses new ones",
            "raise it: LimitNOFILE=65536 in the systemd unit, --ulimit nofile=65536:65536 for docker run, "
            "ulimit -n in a shell",
        )
    ]
