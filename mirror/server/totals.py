"""The metrics of several processes as those of one mirror: what is counted adds up, and never falls.

Each process sends a report of its own metrics, the supervisor adds them up. What a process that ended had reported last
stays in the sums. Gauges go by a rule each, since what they say differs: a sum of delays would be nonsense.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, cast

from prometheus_client import REGISTRY, generate_latest
from prometheus_client.core import Metric

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.registry import CollectorRegistry

_Series = tuple[str, tuple[tuple[str, str], ...]]  # a sample's name, and its labels, sorted
_Values = dict[_Series, float]

_COUNTED = frozenset({"counter", "histogram", "summary"})
# How gauges of several processes become one. `latest` is the one that changed last: the store is one for all, and so is
# what upstream says of its limits, whoever hears it.
RULES = {
    "mirror_connections": "sum",
    "mirror_fills_running": "sum",
    "mirror_workers": "sum",
    "mirror_offline": "max",
    "mirror_ready": "max",  # one that takes requests is enough
    "mirror_loop_lag_seconds": "max",
    "mirror_upstream_away": "max",
    "mirror_upstream_ratelimit_limit": "latest",
    "mirror_upstream_ratelimit_remaining": "latest",
    "mirror_upstream_rests_until_timestamp_seconds": "latest",
    "mirror_upstream_credential_set_aside": "latest",
    "mirror_upstream_circuit_open": "latest",
    "mirror_upstream_connections": "sum",
    "mirror_config_last_reload_timestamp_seconds": "latest",
    "mirror_certificate_expires_timestamp_seconds": "latest",
    "process_virtual_memory_bytes": "sum",
    "process_resident_memory_bytes": "sum",  # memory that they share counts for each of them
    "process_start_time_seconds": "min",
    "process_open_fds": "max",  # each process has a limit of its own
    "process_max_fds": "min",
    "python_info": "max",
}
STORE = "mirror_store_"  # the gauges of the store begin so; each is `latest`
_COMBINE: dict[str, Callable[[float, float], float]] = {"sum": lambda one, other: one + other, "max": max, "min": min}


def rule(name: str) -> str:
    """Return how a gauge of several processes becomes one: `sum`, `max`, `min` or `latest`."""
    return RULES.get(name) or ("latest" if name.startswith(STORE) else "max")


class Reports:
    """Makes the reports of this process."""

    def __init__(self, *, forked: bool) -> None:
        """A process that was `forked` has what its parent had counted; that is not its own, so it begins here."""
        counted = _collected() if forked else []
        self.took = 0.0  # seconds of a processor, for the last one
        self._before = {name: counts for name, kind, _, counts in counted if kind in _COUNTED}

    def make(self) -> bytes:
        """Return a report. Takes milliseconds; more where there are thousands of series."""
        began = time.thread_time()
        families = []
        for name, kind, help_text, values in _collected():
            before = self._before.get(name, {})
            samples = [[*series, value - before.get(series, 0.0)] for series, value in values.items()]
            families.append([name, kind, help_text, samples])
        report = json.dumps(families).encode()
        self.took = time.thread_time() - began
        return report


class Totals:
    """Adds up reports."""

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[str, str]] = {}  # of a family: its kind and its text
        self._reports: dict[int, dict[str, _Values]] = {}  # the last one of each process
        self._past: dict[str, _Values] = {}  # what processes had counted that ended
        self._latest: _Values = {}

    def report(self, process: int, report: bytes) -> None:
        """Take a process's report in place of the one before."""
        began = process not in self._reports
        before = self._reports.get(process, {})
        now: dict[str, _Values] = {}
        for name, kind, help_text, samples in json.loads(report):
            self._kinds.setdefault(name, (kind, help_text))
            now[name] = {(sample, tuple(map(tuple, labels))): value for sample, labels, value in samples}
            if kind not in _COUNTED and rule(name) == "latest":
                self._see(before.get(name, {}), now[name], began=began)
        self._reports[process] = now

    def bury(self, process: int) -> None:
        """Take a process as ended: what it counted stays."""
        for name, values in self._reports.pop(process, {}).items():
            if self._kinds[name][0] in _COUNTED:
                past = self._past.setdefault(name, {})
                for series, value in values.items():
                    past[series] = past.get(series, 0.0) + value

    def text(self) -> bytes:
        """Return everything as Prometheus reads it."""
        return generate_latest(cast("CollectorRegistry", _Families(self._families())))

    def _see(self, before: _Values, now: _Values, *, began: bool) -> None:
        for series, value in now.items():
            # A process that begins has 0 everywhere, and knows nothing by that. Later a 0 that is new was heard.
            if value != before.get(series, 0.0 if began else None) or series not in self._latest:
                self._latest[series] = value

    def _families(self) -> list[Metric]:
        families = []
        for name, (kind, help_text) in self._kinds.items():
            values: _Values = {}
            how = "sum" if kind in _COUNTED else rule(name)
            parts = [report.get(name, {}) for report in self._reports.values()]
            if kind in _COUNTED:
                parts.insert(0, self._past.get(name, {}))
            for part in parts:
                for series, value in part.items():
                    if how == "latest":
                        values[series] = self._latest[series]
                    else:
                        values[series] = _COMBINE[how](values[series], value) if series in values else value
            family = Metric(name, help_text, kind)
            for (sample, labels), value in values.items():
                family.add_sample(sample, dict(labels), value)
            families.append(family)
        return families


class _Families:
    """As much of a registry as `generate_latest` asks for."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _collected() -> list[tuple[str, str, str, dict[Any, float]]]:
    """Return name, kind, text and values of each family of this process."""
    return [
        (
            family.name,
            family.type,
            family.documentation,
            {(sample.name, tuple(sorted(sample.labels.items()))): float(sample.value) for sample in family.samples},
        )
        for family in REGISTRY.collect()
    ]
