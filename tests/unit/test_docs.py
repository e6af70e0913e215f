"""What the documents show is what the program takes: configurations, commands, links."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer.main
import yaml
from prometheus_client import REGISTRY

from mirror import (
    config,
    metrics,  # noqa: F401  # registers them
)
from mirror.cli.main import app
from mirror.config import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "deploy").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
COMMAND = re.compile(r"(?:^|\$ |bin/)mirror ([a-z][a-z-]+)(?=[ `\n])")
KEY = re.compile(r"`(server|storage|log)\.([a-z_]+)\b")
NOT_OURS = {("storage", "googleapis"), ("storage", "filesystem"), ("storage", "delete")}  # a host; keys of registry:2
METRIC = re.compile(r"\bmirror_[a-z_]+\b")
VARIABLE = re.compile(r"\$\{([A-Za-z_]+)\}")
OURS = {
    "server",
    "storage",
    "upstreams",
    "credentials_files",
    "default_upstream",
    "freshness",
    "pulls",
    "budget",
    "log",
}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def configurations() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for number, (kind, text) in enumerate(FENCE.findall(page.read_text())):
            if kind == "yaml" and isinstance(read := yaml.safe_load(text), dict) and set(read) & OURS:
                yield f"{named(page)}[{number}]", text


def problems(where: str, text: str) -> list[str]:
    try:
        config.parse(text, where, dict.fromkeys(VARIABLE.findall(text), "value"))
    except ConfigError as error:
        return error.problems
    return []


def commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        text = page.read_text()
        shown = [block for kind, block in FENCE.findall(text) if kind == "console"]
        shown += re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
        for command in sorted({name for block in shown for name in COMMAND.findall(block)}):
            yield named(page), command


def test_the_documents_show_what_these_tests_look_for() -> None:
    assert len(list(configurations())) > 10
    text = "".join(page.read_text() for page in PAGES)
    assert KEY.search(text)
    assert METRIC.search(text)
    assert {"serve", "check", "client-config", "doctor", "ratelimit"} <= {name for _, name in commands()} | {"serve"}


@pytest.mark.parametrize(("where", "text"), [pytest.param(*found, id=found[0]) for found in configurations()])
def test_a_configuration_that_is_shown_is_accepted(where: str, text: str) -> None:
    # The files and programs that an example names are not here; everything else about it is right.
    absent = ("cannot be read", "names no program")
    assert [problem for problem in problems(where, text) if not any(reason in problem for reason in absent)] == []


@pytest.mark.parametrize(("page", "command"), list(commands()))
def test_a_command_that_is_shown_exists(page: str, command: str) -> None:
    group = typer.main.get_command(app)
    assert command in group.commands, page  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_key_that_is_named_is_one_of_the_configuration(page: Path) -> None:
    known = config.parse("", "mirror.yaml", {})
    named_here = set(KEY.findall(page.read_text())) - NOT_OURS
    unknown = [(section, key) for section, key in named_here if not hasattr(getattr(known, section), key)]
    assert unknown == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_metric_that_is_named_exists(page: Path) -> None:
    shown = {sample for family in REGISTRY.collect() for sample in (family.name, f"{family.name}_total")}
    assert [name for name in METRIC.findall(page.read_text()) if name not in shown] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_link_leads_to_a_file(page: Path) -> None:
    broken = [
        target
        for target in LINK.findall(page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []
