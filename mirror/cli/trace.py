"""`mirror trace`: step by step what the mirror would do now for a pull, and why, without asking anybody."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from typing import TYPE_CHECKING, Annotated

import typer

from mirror import config as configuration
from mirror.cli.opening import caution, opened_by
from mirror.cli.options import ConfigOption, JsonOption  # noqa: TC001  # typer reads it at run time
from mirror.cli.tables import show_json
from mirror.errors import MirrorError
from mirror.oci.reference import ImageReference

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.cli.course import Course
    from mirror.config import Config
    from mirror.store.store import Store


def trace(
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="As nginx, nginx:1.25, quay.io/org/app:v1, NAME@DIGEST.")
    ],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Say what the mirror would do now for a pull of an image, and why. Nobody is asked, and nothing is changed."""
    settings = configuration.load(config, os.environ)
    try:
        reference = ImageReference.parse(image, settings.default_upstream)
    except MirrorError as error:
        raise typer.BadParameter(f"{image!r} names no image: {error}") from None
    with opened_by(settings, as_json=json) as store:
        course = asyncio.run(_follow(settings, store, image, reference))
        if not store.counted:
            caution(
                "a mirror is still to look through the disk, as after a crash; until then some of this may be wrong"
            )
    if json:
        show_json(**course.report())
    else:
        typer.echo("\n".join(course.told()))
    raise typer.Exit(1 if course.fails else 0)


async def _follow(
    settings: Config,
    store: Store,
    image: str,
    reference: ImageReference,
    clock: Callable[[], float] = time.time,
) -> Course:
    """Wire the mirror's own objects as a server does, but with upstreams that are not dialled, and follow the pull."""
    from mirror.cache.cache import Cache  # noqa: PLC0415  # a mistake in the configuration is told at once
    from mirror.cache.rehearsal import Rehearsal  # noqa: PLC0415  # the same
    from mirror.cli.following import Stage, follow  # noqa: PLC0415  # the same
    from mirror.upstream.registries import Registries  # noqa: PLC0415  # the same

    store.dealings, kept = store.dealings.copy(), store.dealings  # what would be noted of it is not noted
    registries = Registries(
        settings, instance=secrets.token_hex(8), request_id=lambda: None, book=store.dealings, clock=clock
    )
    rehearsal = Rehearsal(registries, store.dealings)
    cache = Cache(settings, store, registries if settings.server.offline else rehearsal, clock=clock)
    try:
        return await follow(Stage(settings, store, cache, registries, rehearsal, clock), image, reference)
    finally:
        await cache.close()
        store.dealings = kept
