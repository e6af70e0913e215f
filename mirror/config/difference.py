"""What differs between two configurations, key by key, for a person; no secret shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from mirror.config.effective import effective
from mirror.config.values import UpstreamConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.config.values import Config

_LONGEST = 200  # characters of a value that is repeated
_WRITTEN = {"wildcard": "upstreams.*", "named_in_files": "credentials_files", "proxies": "environment"}
_SHOWN = frozenset({"refused"})  # `effective` shows each of them, as `upstreams.NAME: False`


def difference(old: Config, new: Config) -> list[str]:
    """Return a line for each key that has another value: `server.offline: False, now True`.

    Values are told as `mirror check` shows them, which masks what is secret; of those that it does not show, or shows
    alike, only that they differ.
    """
    before, after = dict(_flat(effective(old))), dict(_flat(effective(new)))
    told = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    lines = [f"{key}: {_shown(before, key)}, now {_shown(after, key)}" for key in told]
    lines += [
        f"{path}: another value"
        for path in _differing(old, new)
        if not any(key == path or key.startswith(f"{path}.") or path.startswith(f"{key}.") for key in told)
    ]
    return lines


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of plain data by their paths. A list is a leaf."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _differing(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of the values that differ, as far down as both sides have the same shape."""
    if old == new:
        return
    if isinstance(old, UpstreamConfig) and isinstance(new, UpstreamConfig):
        old, new = _alone(old), _alone(new)
    if is_dataclass(old) and type(old) is type(new):
        pairs = {field.name: (getattr(old, field.name), getattr(new, field.name)) for field in fields(old)}
        pairs = {_WRITTEN.get(name, name): pair for name, pair in pairs.items() if name not in _SHOWN}
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        pairs = {str(key): (old.get(key), new.get(key)) for key in {**old, **new}}
    else:
        yield path
        return
    for name, (one, other) in pairs.items():
        yield from _differing(one, other, f"{path}.{name}" if path else name)


def _alone(upstream: UpstreamConfig) -> UpstreamConfig:
    """Return it with nothing in its endpoints that they have from itself, which would be told twice."""
    bare = UpstreamConfig(name="", url="")
    shared = {
        name: getattr(bare, name)
        for name in ("read_ahead", "max_connections", "max_rate", "stall_timeout", "stall_rate")
    }
    endpoints = tuple(
        replace(endpoint, label="", at=bare if endpoint.itself else replace(endpoint.at, **shared))
        for endpoint in upstream.endpoints
    )
    return replace(upstream, endpoints=endpoints)


def _shown(values: Mapping[str, Any], key: str) -> str:
    return str(values[key])[:_LONGEST] if key in values else "not set"
