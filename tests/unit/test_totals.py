"""The metrics of several processes as those of one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prometheus_client import REGISTRY, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from mirror import metrics
from mirror.server.totals import RULES, STORE, Reports, Totals, rule

AWAY = (("namespace", "docker.io"),)


def report(**families: Any) -> bytes:
    """Make a report of gauges and counters: `name=value`; a counter's name ends in `_total`."""
    told = []
    for name, value in families.items():
        family, kind = (name.removesuffix("_total"), "counter") if name.endswith("_total") else (name, "gauge")
        labels = AWAY if name.startswith("mirror_upstream") else ()
        told.append([family, kind, "Text.", [[name, labels, value]]])
    return json.dumps(told).encode()


def values(totals: Totals) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(totals.text().decode())
        for sample in family.samples
    }


def test_counters_add_up_and_those_of_a_dead_process_stay() -> None:
    totals = Totals()
    totals.report(1, report(mirror_fills_total=3))
    totals.report(2, report(mirror_fills_total=4))
    assert values(totals)["mirror_fills_total"] == 7
    totals.bury(1)
    totals.report(1, report(mirror_fills_total=1))
    totals.report(2, report(mirror_fills_total=5))
    assert values(totals)["mirror_fills_total"] == 9


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("mirror_connections", 5),
        ("mirror_loop_lag_seconds", 3),
        ("process_start_time_seconds", 2),
        ("mirror_ready", 3),
    ],
)
def test_a_gauge_goes_by_its_rule(name: str, whole: float) -> None:
    totals = Totals()
    totals.report(1, report(**{name: 2}))
    totals.report(2, report(**{name: 3}))
    assert values(totals)[name] == whole
    totals.bury(2)
    assert values(totals)[name] == 2


def test_of_what_upstream_or_the_store_says_the_last_word_counts() -> None:
    totals = Totals()
    left, stored = "mirror_upstream_ratelimit_remaining", "mirror_store_bytes"
    totals.report(1, report(**{left: 10, stored: 700}))
    totals.report(2, report(**{left: 100, stored: 0}))
    totals.report(1, report(**{left: 10, stored: 700}))
    assert values(totals) == {left: 100, stored: 700}
    totals.report(1, report(**{left: 9, stored: 800}))
    assert values(totals) == {left: 9, stored: 800}
    totals.bury(1)
    assert values(totals) == {left: 9, stored: 800}


def test_a_worker_that_first_hears_of_an_upstream_that_nothing_is_left_is_believed() -> None:
    totals, left = Totals(), "mirror_upstream_ratelimit_remaining"
    totals.report(1, report(**{left: 3}))
    totals.report(2, report())
    totals.report(2, report(**{left: 0}))
    assert values(totals) == {left: 0}


def test_every_gauge_has_a_rule() -> None:
    """Who adds one must say how those of several processes become one."""
    names = [one._name for one in vars(metrics).values() if isinstance(one, Gauge)]
    assert len(names) > 5
    assert [name for name in names if name not in RULES and not name.startswith(STORE)] == []
    assert rule("mirror_store_bytes") == "latest"


def test_what_a_parent_has_counted_is_not_a_childs() -> None:
    metrics.RELOADS.labels("done").inc()
    totals, forked = Totals(), Reports(forked=True)
    metrics.RELOADS.labels("done").inc(2)
    totals.report(1, forked.make())
    found = {
        sample.labels["outcome"]: sample.value
        for family in text_string_to_metric_families(totals.text().decode())
        for sample in family.samples
        if sample.name == "mirror_reloads_total"
    }
    assert found["done"] == 2


def test_the_text_has_all_that_one_process_would_tell() -> None:
    totals = Totals()
    totals.report(1, Reports(forked=False).make())
    told = {family.name for family in text_string_to_metric_families(totals.text().decode())}
    assert told == {family.name for family in text_string_to_metric_families(generate_latest(REGISTRY).decode())}
