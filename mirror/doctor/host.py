"""What this host's own files say of its programs: versions of packages, and the environment of services."""

from __future__ import annotations

import itertools
import re
import shlex
from typing import TYPE_CHECKING

from mirror.config.proxies import read_proxies

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
    for file, assigned in _assignments(case, unit, "Environment"):
        for name, _, value in (word.partition("=") for word in _words(assigned)):
            environ[name] = value
            where = str(file) if name.lower().endswith("_proxy") else where
    return (read_proxies(environ, []), where) if where else None


def unit_options(case: Case, unit: str, option: str) -> tuple[list[str], str]:
    """Return the values that a systemd service gives its program for `--option`, and the file that says so."""
    command, where = "", ""
    for file, assigned in _assignments(case, unit, "ExecStart"):
        command, where = assigned, str(file)  # an empty one takes those before it away, and one follows
    words = _words(command)
    values = [word.partition("=")[2] for word in words if word.startswith(f"--{option}=")]
    values += [value for word, value in itertools.pairwise(words) if word == f"--{option}"]
    return values, where


def _assignments(case: Case, unit: str, key: str) -> Iterator[tuple[Path, str]]:
    """Yield what the unit, and then what is dropped in beside it, sets `key` to (systemd.unit(5))."""
    files = [case.at(f"{directory}/{unit}") for directory in _UNITS]
    for directory in _UNITS:
        files += sorted(case.at(f"{directory}/{unit}.d").glob("*.conf"))
    for file in files:
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        for line in text.replace("\\\n", " ").splitlines():
            name, equals, assigned = line.partition("=")
            if equals and name.strip() == key:
                yield file, assigned.strip()


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # a quotation without an end: systemd passes over the line too
        return []
