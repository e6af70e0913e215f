"""The dashboard and the rules ask only for metrics and labels that a running mirror shows."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from mirror import metrics  # noqa: F401  # registers them
from tests.deploy.kubernetes import CHART, DEPLOY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import StartMirror

RULES = DEPLOY / "prometheus" / "registry-mirror.rules.yml"
DASHBOARD = DEPLOY / "grafana" / "registry-mirror.json"
OF_PROMETHEUS = {"up"}  # Prometheus itself makes these
TARGET = {"job", "instance"}

_SERIES = re.compile(r"\b(mirror[a-z_:0-9]*|process_\w+|python_\w+|up)\b(?!\s*\()(?:\{([^}]*)\})?")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"(?:[^\"\\]|\\.)*\"")
_GROUPING = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")


def _rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def _panels() -> Iterator[dict[str, Any]]:
    yield from json.loads(DASHBOARD.read_text())["panels"]


def expressions() -> Iterator[tuple[str, str]]:
    """Give each expression, and where it stands."""
    for rule in _rules():
        yield rule.get("record") or rule["alert"], rule["expr"]
    for panel in _panels():
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            asked, _, label = variable["definition"].removeprefix("label_values(").removesuffix(")").rpartition(",")
            yield f"${variable['name']}", f"sum by ({label}) ({asked})"


EXPRESSIONS = sorted(set(expressions()))


async def test_a_running_mirror_shows_every_metric_that_is_asked_for(
    upstream: FakeRegistry, start: StartMirror
) -> None:
    mirror = await start(upstream)
    await mirror.get("/v2/library/none/manifests/latest")
    text = (await mirror.get("/metrics")).body.decode()
    shown = {name for family in text_string_to_metric_families(text) for name in _names(family.name, family.type)}

    recorded = {rule["record"] for rule in _rules() if "record" in rule}
    asked = {name for _, expression in EXPRESSIONS for name, _ in _SERIES.findall(expression)}
    assert asked - shown - recorded - OF_PROMETHEUS == set()
    assert len(asked) > 20  # the expressions were understood


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_an_expression_uses_only_labels_that_its_metrics_have(where: str, expression: str) -> None:
    labels = _labels()
    there: set[str] = set()
    for name, matchers in _SERIES.findall(expression):
        own = labels[name] | TARGET
        assert set(_MATCHER.findall(matchers or "")) <= own, (where, name)
        there |= own
    for grouping in _GROUPING.findall(expression):
        assert {label.strip() for label in grouping.split(",")} <= there, where


@pytest.mark.parametrize("name", ["kind", "cache", "outcome", "reason"])
def test_label_values_that_are_asked_for_exist(name: str) -> None:
    """What a selector names is written somewhere in the source as that very text."""
    source = "".join(path.read_text() for path in (DEPLOY.parent / "mirror").rglob("*.py"))
    for _, expression in EXPRESSIONS:
        for values in re.findall(rf'\b{name}(?:=~|!=|=)"([^"$]*)"', expression):
            for value in values.split("|"):
                assert f'"{value}"' in source, (expression, value)


def test_every_alert_says_what_happens_and_what_to_do() -> None:
    for rule in _rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in {"info", "warning", "critical"}
            assert set(rule["annotations"]) == {"summary", "description"}


def test_every_alert_is_tried() -> None:
    tried = yaml.safe_load((DEPLOY.parent / "tests/deploy/registry-mirror.rules.test.yml").read_text())["tests"]
    raised = {case["alertname"] for test in tried for case in test.get("alert_rule_test", ()) if case["exp_alerts"]}

    assert raised == {rule["alert"] for rule in _rules() if "alert" in rule}


@pytest.mark.parametrize("name", [RULES.name, DASHBOARD.name])
def test_the_chart_brings_the_same_file(name: str) -> None:
    [original] = [path for path in (RULES, DASHBOARD) if path.name == name]

    assert (CHART / "files" / name).read_bytes() == original.read_bytes()


def test_the_dashboard_has_no_two_panels_in_one_place() -> None:
    panels = list(_panels())

    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


@pytest.mark.needs("promtool")
def test_prometheus_accepts_the_rules_and_the_scrape_configuration() -> None:
    _promtool("check", "rules", RULES.name, cwd=RULES.parent)
    _promtool("check", "config", "scrape.yml", cwd=RULES.parent)


@pytest.mark.needs("promtool")
def test_alerts_are_raised_by_what_they_are_for() -> None:
    _promtool("test", "rules", "registry-mirror.rules.test.yml", cwd=DEPLOY.parent / "tests" / "deploy")


@pytest.mark.needs("promtool")
def test_prometheus_understands_what_the_dashboard_asks(tmp_path: Path) -> None:
    rules = [
        {"record": f"dashboard:{number}", "expr": re.sub(r"\$__\w+", "5m", expression)}
        for number, (_, expression) in enumerate(EXPRESSIONS)
    ]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))

    _promtool("check", "rules", "rules.yml", cwd=tmp_path)


def _promtool(*arguments: str, cwd: Path) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=cwd, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def _names(family: str, kind: str) -> list[str]:
    """Return the series of a family, as Prometheus names them."""
    match kind:
        case "counter":
            return [f"{family}_total"]
        case "histogram":
            return [f"{family}_{end}" for end in ("bucket", "sum", "count")]
    return [family]


def _labels() -> dict[str, set[str]]:
    """Return what labels each series has: of metrics as they are declared, of recording rules as they aggregate."""
    found: dict[str, set[str]] = {"up": set()}
    for collector in list(REGISTRY._collector_to_names):
        declared = set(getattr(collector, "_labelnames", ()))
        info = {"version", "python"} if getattr(collector, "_type", "") == "info" else set()
        for name in REGISTRY._collector_to_names[collector]:
            found[name] = declared | info | ({"le"} if name.endswith("_bucket") else set())
    for rule in _rules():
        if "record" in rule:
            [grouping] = {frozenset(re.split(r",\s*", each)) for each in _GROUPING.findall(rule["expr"])}
            found[rule["record"]] = set(grouping) - {"le"}
    return found
