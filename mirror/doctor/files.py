"""The configuration files of this host's clients, read; and what is wrong with those that cannot be."""

from __future__ import annotations

import json
import re
import tomllib
from typing import TYPE_CHECKING, Any

import yaml

from mirror.doctor.finding import About, Finding

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_MOST = 1 << 20  # bytes of a configuration
_AT = re.compile(r"line [0-9]+")
_CURES = {
    "JSON": "quotes around each text, a comma between entries and none after the last",
    "TOML": "quotes around each text, and each [table] only once",
    "YAML": "spaces and no tabs in front, a colon and a space after each key",
}


def read_json(check: str, path: Path, harm: str) -> dict[str, Any] | Finding | None:
    """Return what a JSON file holds, or what is wrong with it, or None where there is none.

    `harm` says what the program does with a file that it cannot read, as the end of a sentence.
    """
    return _read(check, path, harm, "JSON", json.loads)


def read_toml(check: str, path: Path, harm: str) -> dict[str, Any] | Finding | None:
    """Return what a TOML file holds; see `read_json`."""
    return _read(check, path, harm, "TOML", tomllib.loads)


def read_yaml(check: str, path: Path, harm: str) -> dict[str, Any] | Finding | None:
    """Return what a YAML file holds; see `read_json`. An empty one is an empty object."""
    return _read(check, path, harm, "YAML", lambda text: yaml.safe_load(text) or {})


def _read(check: str, path: Path, harm: str, kind: str, parse: Callable[[str], Any]) -> dict[str, Any] | Finding | None:
    about = About(check, str(path))
    try:
        with path.open("rb") as file:
            found = parse(file.read(_MOST).decode("utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        return about.warning(f"cannot be read ({error.strerror})", "ask as root")
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        place = _AT.search(str(error))
        return about.failure(
            f"is not {kind}{f' ({place[0]})' if place else ''}: {harm}",
            f"correct {place[0] if place else 'it'}: {_CURES[kind]}",
        )
    if isinstance(found, dict):
        return found
    return about.failure(f"holds no keys: {harm}", "write it anew: mirror client-config prints what goes there")


def table(tree: object, *keys: str) -> dict[str, Any]:
    """Return the table below `keys`, or an empty one where there is none, or something else stands there."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else {}


def texts(value: object) -> list[str]:
    """Return a list of texts as it is, and anything else as an empty one."""
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
