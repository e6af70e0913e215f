"""What this host's own files say of its programs: versions of packages, and the environment of services."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from mirror.config.proxies import read_proxies

if TYPE_CHECKING:
    from mirror.config import Proxies
    from mirror.doctor.case import Case

_VERSION = re.compile(r"^Version: (?:[0-9]+:)?([0-9]+)\.([0-9]+)", re.MULTILINE)
_UNITS = ("/usr/lib/systemd/system", "/lib/systemd/system", "/etc/systemd/system")


def version(case: Case, *packages: str) -> tuple[int, int] | None:
    """Return major and minor version of the first of Debian's packages that is installed; None: that is not known."""
    try:
        text = case.at("/var/lib/dpkg/status").read_text(encoding="utf-8", errors="replace")
    except OSError:  # another distribution
        return None
    for package in packages:
        start = text.find(f"\nPackage: {package}\n", 0) if not text.startswith(f"Package: {package}\n") else 0
        if start < 0:
            continue
        entry = text[start:].lstrip("\n").partition("\n\n")[0]
        found = _VERSION.search(entry)
        if found is not None and "\nStatus: install ok installed" in entry:
            return int(found[1]), int(found[2])
    return None


def unit_proxies(case: Case, unit: str) -> tuple[Proxies, str] | None:
    """Return the proxies that a systemd service is given, and the file that has them; None where it has none.

    Only `Environment=` in the unit and what is dropped in beside it is read (systemd.exec(5)).
    """
    environ: dict[str, str] = {}
    where = ""
    files = [case.at(f"{directory}/{unit}") for directory in _UNITS]
    for directory in _UNITS:
        files += sorted(case.at(f"{directory}/{unit}.d").glob("*.conf"))
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            if not line.startswith("Environment="):
                continue
            for name, _, value in (word.partition("=") for word in _words(line.removeprefix("Environment="))):
                environ[name] = value
                where = str(file) if name.lower().endswith("_proxy") else where
    return (read_proxies(environ, []), where) if where else None


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # a quotation without an end: systemd passes over the line too
        return []
