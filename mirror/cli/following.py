"""Following a pull through the mirror's own rooms, without asking anybody: what `mirror trace` tells of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.cache.completeness import Completeness
from mirror.cache.freshness import Freshness
from mirror.cache.memory import Memory
from mirror.cli.course import Cached, Course
from mirror.config.units import show_duration
from mirror.errors import MirrorError, PullRefused, UpstreamLimited
from mirror.oci.digest import Digest
from mirror.oci.namespaces import DOCKER_HUB, looks_like_host
from mirror.server.policy import Policy
from mirror.store.changes import SETTLED
from mirror.upstream.standing import credentials_of, endpoints_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirror.cache.cache import Cache
    from mirror.cache.rehearsal import Rehearsal
    from mirror.config import Config
    from mirror.config.values import BudgetRule
    from mirror.oci.name import Repository, Tag
    from mirror.oci.reference import ImageReference
    from mirror.store.store import Store
    from mirror.upstream.registries import Registries


_UNHEARD_OF = Digest.of(b"what no tag means")


@dataclass(frozen=True, slots=True)
class Stage:
    """The mirror's own objects. `cache` asks `rehearsal`, or nobody if the mirror is offline."""

    settings: Config
    store: Store
    cache: Cache
    registries: Registries
    rehearsal: Rehearsal
    clock: Callable[[], float]  # seconds since the epoch


async def follow(stage: Stage, image: str, reference: ImageReference) -> Course:
    """Find out what a pull of `image`, which was read as `reference`, would come to."""
    settings, store, cache = stage.settings, stage.store, stage.cache
    policy = Policy.of(settings)
    course = Course(image, reference, list(_read(image, reference)), fallback=policy.fallback, now=stage.clock())
    try:
        repository = policy.namespaces.resolve(None, reference.repository.name, reference.repository.namespace)
        upstream = cache.upstream(repository.namespace)
    except MirrorError as error:
        course.refusal = error
        return course
    asked = reference.reference
    number, rule = cache.admission.number(repository, asked), cache.admission.rule(repository, asked)
    if number is not None and rule is not None:
        course.pull = number + 1, rule
    if not isinstance(asked, Digest):
        course.held = cache.quarantine.held(repository, asked)
        course.freshness = Freshness(settings.freshness).rule(repository, asked.name)
        course.trouble = store.dealings.get("tag", f"{repository}:{asked}")
    course.share = upstream.accounts.share(repository.name)
    course.budget = cache.thrift.rule(repository)
    course.cached = await _look(stage, repository, reference, course.budget)
    real = stage.registries.of(repository.namespace)
    configured = settings.upstreams.get(repository.namespace)
    course.endpoints = endpoints_of(real, configured, store.dealings)
    course.by_health = configured is not None and configured.endpoint_order == "health"
    states = {state.credential: state for state in upstream.accounts.states()}
    course.accounts = [states[name] for name in await credentials_of(real, repository.name) if name in states]
    course.rehearsed = await stage.rehearsal.pull(cache, repository, asked)
    if not isinstance(asked, Digest):
        course.waits = _unheard_of(stage, repository, asked, course)
    if course.cached is not None and course.cached.here:
        try:
            cache.thrift.check(repository, 1 + len(course.cached.platforms), "what it means then")
        except UpstreamLimited as error:
            course.moved = str(error)
    return course


def _unheard_of(stage: Stage, repository: Repository, tag: Tag, course: Course) -> str | None:
    """Return what becomes of a digest that a tag newly means; None: it is fetched. What is noted by that is a copy."""
    new = course.held.digest if course.held is not None else _UNHEARD_OF
    wait = f"a digest that is new waits {show_duration(stage.cache.admission.min_age(repository, tag))}"
    try:
        served = stage.cache.quarantine.judge(repository, tag, course.cached.digest if course.cached else None, new)
    except PullRefused:
        return f"{wait}, and a pull gets 403 until then"
    return None if served == new else f"{wait}, and what the tag meant before is served until then"


async def _look(
    stage: Stage, repository: Repository, reference: ImageReference, budget: BudgetRule | None
) -> Cached | None:
    store = stage.store
    digest, at, age, until = reference.digest, None, None, None
    if digest is None:
        tag = str(reference.tag)
        known = store.index.tag(repository, tag)
        if known is None:
            return None
        digest, at = known.digest, known.at
        freshness = Freshness(stage.settings.freshness)
        rule = freshness.rule(repository, tag)
        age = freshness.age(repository, tag, known.at, stage.clock())
        if at < SETTLED and not rule.immutable:
            ttl = max(rule.ttl, budget.ttl if budget is not None else 0.0)
            until = at + ttl if math.isfinite(ttl) else None
    memory = Memory(store.blobs)
    here = store.blobs.size(digest) is not None
    if not here and at is None:
        return None
    media_type = store.index.standing(repository, digest).media_type
    platforms: tuple[str, ...] = ()
    if here and media_type is not None:
        found = await Completeness(store.blobs, store.index, memory).platforms(repository, digest, media_type)
        platforms = tuple(str(platform) if platform is not None else "any platform" for platform in found)
    pinned = store.index.pinned(repository, digest, None if reference.digest else str(reference.tag))
    return Cached(digest, at, age, until, here, platforms, pinned)


def _read(image: str, reference: ImageReference) -> Iterator[str]:
    """Yield how a name was understood, where more was understood than was written."""
    repository = reference.repository
    written = image.partition("@")[0].rpartition("/")[0]
    first = image.partition("/")[0]
    why = []
    if not looks_like_host(first) or "/" not in image:
        why.append(f"without a registry it is {repository.namespace}")
        if repository.namespace == DOCKER_HUB and not written:
            why.append("a name of one part is library/ there")
    elif first != repository.namespace:
        why.append(f"{first} is {repository.namespace}")
    if reference.tag is not None and reference.digest is None and not image.endswith(f":{reference.tag}"):
        why.append("without a tag it is latest")
    yield f"{reference}{': ' if why else ''}{', '.join(why)}"
