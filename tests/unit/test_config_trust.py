"""What may be pulled at all, and what is saved as a rate limit runs out: what the keys mean, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

from mirror.cli import banner
from mirror.cli.check import check
from mirror.cli.meaning import meaning
from mirror.config import BudgetRule, Config, ConfigError, PullRule, effective, parse
from mirror.config.values import BUDGET

if TYPE_CHECKING:
    from pathlib import Path


def read(text: str) -> Config:
    return parse(text, "mirror.yaml", {})


def test_rules_of_pulls_keep_their_order_and_end_in_nothing() -> None:
    config = read(
        """
        pulls:
          - {allow: "index.docker.io/library/**", min_age: 3d}
          - {allow: "ghcr.io/prod/app:1.*", require_digest: true}
          - {allow: "*/tools/**"}
          - {deny: "docker.io/**", reason: "only official images; ask platform@example"}
        """
    )
    assert config.pulls == (
        PullRule("docker.io/library/**", allow=True, min_age=3 * 86400.0),
        PullRule("ghcr.io/prod/app:1.*", allow=True, require_digest=True),
        PullRule("*/tools/**", allow=True),
        PullRule("docker.io/**", allow=False, reason="only official images; ask platform@example"),
    )
    assert config.pulls[3].written() == "deny: docker.io/**"
    assert read("").pulls == read("pulls: []").pulls == ()


def test_a_reason_may_be_folded() -> None:
    [rule] = read("pulls:\n  - deny: '**'\n    reason: >\n      ask\n      platform\n").pulls
    assert rule.reason == "ask platform"


def test_what_is_saved_comes_by_falling_share_and_goes_on_where_it_is_not_said() -> None:
    config = read(
        "budget: [{below: 5%, ttl: 6h, prefetch: true}, {below: 50%, ttl: 10m}, {below: 10%, read_ahead: false}, "
        "{below: 20%, prefetch: false}]"
    )
    assert config.budget == (
        BudgetRule(0.5, ttl=600.0),
        BudgetRule(0.2, ttl=600.0, prefetch=False),
        BudgetRule(0.1, ttl=600.0, prefetch=False, read_ahead=False),
        BudgetRule(0.05, ttl=21600.0, read_ahead=False),
    )
    assert read("").budget == read("budget:").budget == BUDGET
    assert read("budget: []").budget == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pulls: {deny: '**'}", "pulls: is a mapping, and should be a list of rules"),
        ("pulls: [~]", "pulls[0]: is empty; write a rule"),
        ("pulls: [docker.io/**]", "pulls[0]: is a single value, and should hold keys"),
        ("pulls: [{min_age: 3d}]", "pulls[0]: says neither allow nor deny"),
        ("pulls: [{allow: a.io/**, deny: b.io/**}]", "pulls[0].deny: stands beside allow; make two rules of them"),
        ("pulls: [{deny: '**', min_age: 3d}]", "pulls[0].min_age: stands beside deny"),
        ("pulls: [{deny: '**', require_digest: true}]", "pulls[0].require_digest: stands beside deny"),
        ("pulls: [{allow: '**', reason: no}]", "pulls[0].reason: stands beside allow"),
        ("pulls: [{denny: '**'}]", "pulls[0].denny: is not a key; did you mean deny?"),
        ("pulls: [{deny: library/**}]", "pulls[0].deny: 'library/**' matches nothing: it begins with no upstream"),
        ("pulls: [{allow: docker.io/nginx}]", "pulls[0].allow: 'docker.io/nginx' matches nothing: official images"),
        ("pulls: [{allow: 'docker.io/a@sha256:b'}]", "pulls[0].allow: 'docker.io/a@sha256:b' does not match"),
        ("pulls: [{deny: '**'}, {allow: docker.io/**}]", "pulls[1].allow: is never reached, because pulls[0] matches"),
        ("pulls: [{deny: quay.io/**}, {allow: 'quay.io/a/b:1'}]", "pulls[1].allow: is never reached"),
        ("pulls: [{allow: quay.io/a/b}, {deny: quay.io/a/b}]", "pulls[1].deny: is never reached"),
        ("pulls: [{allow: '**', min_age: 3}]", "pulls[0].min_age: '3' has no unit"),
        ("pulls: [{allow: '**', min_age: forever}]", "pulls[0].min_age: 'forever' is more than a year"),
        ('pulls: [{deny: "**", reason: "a\\nb"}]', "is not one line of 1 to 300 characters"),
        (f"pulls: [{{deny: '**', reason: {'x' * 301}}}]", "is not one line of 1 to 300 characters"),
        ("freshness: [{match: '**', deny: a}]", "freshness[0].deny: does not stand here; it belongs to pulls[]"),
        ("budget: {below: 5%}", "budget: is a mapping, and should be a list of rules"),
        ("budget: [~]", "budget[0]: is empty"),
        ("budget: [{ttl: 1h}]", "budget[0].below: is missing"),
        ("budget: [{below: 20}]", "budget[0].below: '20' is not a percentage of the upstream's limit"),
        ("budget: [{below: 0%}]", "budget[0].below: '0%' is never reached"),
        ("budget: [{below: 101%}]", "budget[0].below: '101%' is more than the whole"),
        ("budget: [{below: 5%}, {below: 5.0%}]", "budget[1].below: '5.0%' stands there twice"),
        ("budget: [{below: 5%, ttl: 1}]", "budget[0].ttl: '1' has no unit"),
        ("budget: [{below: 5%, readahead: no}]", "budget[0].readahead: is not a key; did you mean read_ahead?"),
        ("pull: []", "pull: is not a key; did you mean pulls?"),
    ],
)
def test_what_is_wrong_is_named_with_what_would_be_right(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(f"upstreams: {{a.io: {{}}, b.io: {{}}}}\n{text}")
    assert len(raised.value.problems) == 1, raised.value.problems
    assert problem in raised.value.problems[0]


def test_rules_that_can_all_be_reached_are_no_problem() -> None:
    globs = ("**:nightly", "quay.io/a/b:1.*", "quay.io/a/b", "quay.io/a/*", "quay.io/**", "**")
    assert len(read(f"pulls: [{', '.join(f'{{allow: {glob!r}}}' for glob in globs)}]").pulls) == len(globs)


def test_what_is_in_effect_reads_the_same_again() -> None:
    config = read(
        "pulls: [{allow: quay.io/a/**, min_age: 36h, require_digest: true}, {deny: '**', reason: ask me}]\n"
        "budget: [{below: 12.5%, ttl: forever, read_ahead: false}]"
    )
    shown = effective(config)
    assert shown["pulls"] == [
        {"allow": "quay.io/a/**", "require_digest": True, "min_age": "36h"},
        {"deny": "**", "reason": "ask me"},
    ]
    again = read(yaml.safe_dump(shown))
    assert (again.pulls, again.budget) == (config.pulls, config.budget)
    assert read(yaml.safe_dump(effective(read("budget: []")))).budget == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pulls: [{deny: quay.io/**}]", "gets round what pulls refuses"),
        ("server: {fallback: false}\npulls: [{deny: quay.io/**}]", None),
        ("pulls: [{allow: quay.io/**}]", "pulls refuses nothing"),
        ("upstreams: {a.io: {credentials: [{username: a, password: b, repositories: x}]}}", "is bound to repositories"),
        ("upstreams: {a.io: {credentials: [{anonymous: true}, {username: a, password: b, repositories: x}]}}", None),
        (
            "upstreams: {a.io: {endpoints: [{url: 'http://c', username: a, password: b}]}}",
            "the password for a.io at c travels without encryption",
        ),
        (
            "upstreams: {a.io: {url: 'http://c', credentials: [{username: a, password: b}]}}",
            "the password for a.io travels",
        ),
        ("upstreams: {a.io: {url: 'http://c', endpoints: ['http://d'], credentials: [{anonymous: true}]}}", None),
    ],
)
def test_what_its_owner_may_not_have_meant_is_said(text: str, said: str | None) -> None:
    sentences = banner.warnings(read(text))
    assert [bool(said and said in sentence) for sentence in sentences] == ([True] if said else [])
    assert all("; " in sentence for sentence in sentences)


def test_whoever_logs_in_to_an_endpoint_is_warned_that_strangers_read_what_it_has() -> None:
    endpoint = "{url: 'https://c', username: a, password: b}"
    text = f"server: {{listen: '0.0.0.0:5000'}}\nupstreams: {{a.io: {{endpoints: [{endpoint}]}}}}"
    assert "private images of a.io" in banner.warnings(read(text))[0]


def test_what_it_comes_to_is_told_in_sentences() -> None:
    lines = meaning(
        read(
            """
            upstreams:
              docker.io:
                endpoints: ["https://m.example", {url: "http://cache:5000", authoritative: true}]
                credentials: [{anonymous: true}, {name: team, username: a, password: canary, repositories: acme/**}]
                max_rate: 1MiB/s
            pulls: [{allow: "docker.io/library/**", min_age: 3d}, {deny: "**", reason: ask me}]
            budget: [{below: 20%, ttl: 1h, prefetch: false}]
            """
        )
    )
    asked, who, rate, first, second, rest, saved = lines
    assert asked == (
        "docker.io is asked at m.example, cache:5000 and registry (registry-1.docker.io), in this order; what a tag "
        "means, only at cache:5000 and registry"
    )
    assert who.startswith("docker.io is asked as team (for acme/** alone) and anonymous: first whose repository it is")
    assert rate == "docker.io sends layers at 1MiB/s at most, in all"
    assert first == "pulls 1. allow: docker.io/library/**: a tag's new digest only once it is known for 3d"
    assert (second, rest) == ("pulls 2. deny: **: ask me", "pulls: what none of these matches is allowed")
    assert saved.startswith("with less than 20% of a rate limit left, cached tags are good for at least 1h and nothing")


def test_check_tells_what_it_comes_to_beside_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mirror.yaml").write_text("pulls: [{deny: quay.io/**, reason: ask me}]\nbudget: []")
    check(tmp_path / "mirror.yaml")
    out, err = capsys.readouterr()
    assert "\n# pulls 1. deny: quay.io/**: ask me\n" in out
    assert "\n# nothing is saved as a rate limit runs out\n" in out
    assert yaml.safe_load(out)["pulls"] == [{"deny": "quay.io/**", "reason": "ask me"}]
    assert err.startswith("warning: a client that has another registry gets round what pulls refuses")
    check(tmp_path / "mirror.yaml", json=True)
    report = json.loads(capsys.readouterr().out)
    assert report["meaning"][0] == "pulls 1. deny: quay.io/**: ask me"
    assert report["config"]["budget"] == []
