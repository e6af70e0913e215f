"""The rules of `pulls`: which one decides, and what it tells the person whom it refuses."""

from __future__ import annotations

import pytest

from mirror.cache.admission import Admission
from mirror.config.values import PullRule
from mirror.errors import PullRefused
from mirror.oci.digest import Digest
from mirror.oci.name import Repository, Tag, parse_reference

DIGEST = Digest.of(b"an image")
SIGNATURE = f"sha256-{DIGEST.hex}.sig"
OFFICIAL, ACME, PROD = (
    Repository("docker.io", "library/nginx"),
    Repository("docker.io", "acme/tool"),
    Repository("ghcr.io", "prod/app"),
)
RULES = (
    PullRule("docker.io/library/**", allow=True, min_age=3 * 86400.0),
    PullRule("docker.io/acme/tool:1.*", allow=True),
    PullRule("ghcr.io/prod/**", allow=True, require_digest=True),
    PullRule("docker.io/**", allow=False, reason="only official images; ask platform@example"),
    PullRule("quay.io/**:latest", allow=False),
)


@pytest.mark.parametrize(
    ("repository", "reference", "match"),
    [
        (OFFICIAL, "1.25", "docker.io/library/**"),
        (OFFICIAL, str(DIGEST), "docker.io/library/**"),
        (ACME, "1.2", "docker.io/acme/tool:1.*"),
        (ACME, "2.0", "docker.io/**"),
        (Repository("docker.io", "acme/other"), "1.2", "docker.io/**"),
        (Repository("quay.io", "org/app"), "latest", "quay.io/**:latest"),
        (Repository("quay.io", "org/app"), "v1", None),
        (Repository("quay.io", "org/app"), str(DIGEST), None),  # a denied tag does not deny all of its repository
        (Repository("registry.example:5000", "app"), "v1", None),
    ],
)
def test_the_first_rule_that_matches_decides(repository: Repository, reference: str, match: str | None) -> None:
    rule = Admission(RULES).rule(repository, parse_reference(reference))
    assert (rule.match if rule else None) == match


def test_the_image_of_an_allowed_tag_can_be_pulled_to_its_end() -> None:
    """All but its first step is asked for by digest, and its signature by a tag of another name."""
    admission = Admission(RULES)
    for reference in (Tag("1.2"), DIGEST, Tag(SIGNATURE), None):
        admission.check(ACME, reference)
    with pytest.raises(PullRefused):
        admission.check(Repository("docker.io", "acme/other"), DIGEST)


def test_a_denial_says_the_rule_as_written_and_its_reason() -> None:
    with pytest.raises(PullRefused) as refused:
        Admission(RULES).check(ACME, Tag("2.0"))
    assert str(refused.value) == (
        'docker.io/acme/tool:2.0 is refused by this mirror\'s rule "deny: docker.io/**": '
        "only official images; ask platform@example"
    )


def test_a_denial_without_a_reason_says_what_to_do() -> None:
    refusal = Admission(RULES).refusal(Repository("quay.io", "org/app"), Tag("latest"))
    assert "ask whoever runs the mirror" in str(refusal)


def test_a_tag_is_refused_where_a_digest_is_required_and_nothing_else_is() -> None:
    admission = Admission(RULES)
    with pytest.raises(PullRefused, match=r"ghcr\.io/prod/app:v1 is refused .*require_digest: true.*@sha256:…"):
        admission.check(PROD, Tag("v1"))
    for reference in (DIGEST, Tag(SIGNATURE), None):
        admission.check(PROD, reference)


def test_signature_tags_have_no_age() -> None:
    admission = Admission(RULES)
    assert admission.min_age(OFFICIAL, Tag("1.25")) == 3 * 86400
    assert admission.min_age(OFFICIAL, Tag(SIGNATURE)) == 0
    assert admission.min_age(ACME, Tag("1.2")) == 0


def test_without_rules_everything_is_allowed_and_other_rules_count_at_once() -> None:
    admission = Admission(())
    admission.check(ACME, Tag("2.0"))
    admission.reconfigure(RULES)
    with pytest.raises(PullRefused):
        admission.check(ACME, Tag("2.0"))
    admission.reconfigure(())
    admission.check(ACME, Tag("2.0"))


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "is held back by"), (1, "a rule that is no longer"), (2, "name it by its digest"), (9, "that is no longer")],
)
def test_a_refusal_whose_text_is_lost_is_told_by_its_rule_as_far_as_that_still_refuses(number: int, said: str) -> None:
    """A reload may have put another rule in its place, which refuses nothing."""
    assert said in str(Admission(RULES).of_number(number, ACME))
