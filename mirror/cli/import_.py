"""`mirror import`: take in what was carried here, so that this mirror serves it."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mirror import config as configuration
from mirror.cli.naming import about
from mirror.cli.opening import DryRunOption, caution, opened_by
from mirror.cli.options import ConfigOption, JsonOption  # noqa: TC001  # typer reads it at run time
from mirror.cli.tables import Column, bytes_progress, counted, show, show_json, some_of
from mirror.config.units import show_bytes
from mirror.errors import BundleRefused, MirrorError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirror.airgap.bundle.intake import Intake
    from mirror.airgap.bundle.manifest import Content
    from mirror.airgap.bundle.outcome import Imported, ImportedImage, Terms
    from mirror.airgap.bundle.source import Source
    from mirror.config import Config
    from mirror.oci.reference import ImageReference

    Failures = list[tuple[str, MirrorError]]  # what is told of each, and what it was

_COLUMNS = (Column("IMAGE"), Column("DIGEST"), Column("PLATFORMS"), Column("SIZE", right=True), Column(""))
_DIGITS = 12  # of a digest in the table
_MOST = 5  # of what is missing that are named in text; JSON has all


def import_(  # noqa: PLR0917  # typer passes them by name
    bundles: Annotated[
        list[str],
        typer.Argument(
            metavar="BUNDLE",
            help="Bundles: files, parts of one in any order, directories, or - for standard input. OCI image layouts "
            "and what docker save wrote are taken, too, packed by zstd or gzip or not.",
        ),
    ],
    key: Annotated[
        Path | None,
        typer.Option(
            "--key",
            metavar="FILE",
            help="A public key, or an allowed_signers file (ssh-keygen(1)): refuse what none of these signed.",
        ),
    ] = None,
    repository: Annotated[
        str | None,
        typer.Option(
            "--repository",
            metavar="NAME",
            help="What images are called that bring no name, or only a tag: quay.io/org/app, or with a tag.",
        ),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Take what is whole where the bundle before was never imported.")
    ] = False,
    expire: Annotated[
        bool, typer.Option("--expire", help="Let tags grow old as those from upstream do, by the rules of freshness.")
    ] = False,
    no_pin: Annotated[bool, typer.Option("--no-pin", help="Let images go when their room is needed.")] = False,
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Take in bundles, layouts and archives of images. Nothing of one can be seen before all of it was checked.

    It can be interrupted, and run again to go on; a running mirror serves the images at once.
    """
    from mirror.airgap.bundle import signers  # noqa: PLC0415  # not needed to print help
    from mirror.airgap.bundle.outcome import Terms  # noqa: PLC0415  # the same
    from mirror.airgap.bundle.source import bundles as sorted_out  # noqa: PLC0415  # the same
    from mirror.store.store import Store  # noqa: PLC0415  # the same

    settings = configuration.load(config, os.environ)
    terms = Terms(key, _named(repository), partial=partial, expire=expire, pin=not no_pin, dry=dry_run)
    if key is not None:
        signers.read(key)  # before a store is made, or a large bundle opened
    done: list[Imported] = []
    failures: Failures = []
    with ExitStack() as stack:
        if dry_run and not (settings.storage.path / "VERSION").exists():
            caution(f"{settings.storage.path.absolute()} holds no store yet: nothing is here")
            empty = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            settings = dataclasses.replace(settings, storage=dataclasses.replace(settings.storage, path=empty))
            Store.open(settings.storage).close()
        for paths in sorted_out(bundles):
            try:
                done.append(_import(settings, paths, terms, as_json=json))
            except MirrorError as error:
                failures.append((about(paths, str(error)), error))
            except KeyboardInterrupt:
                left = MirrorError("interrupted; what has come stays, and running it again goes on from there")
                failures.append((str(left), left))
                break
    (_show_json if json else _show)(done, failures, terms)
    for namespace in _unserved(settings, done):
        caution(
            f"{namespace} is not among the upstreams of the configuration, so its images are here and nobody is served "
            f'them; write "{namespace}: true" under upstreams'
        )
    raise typer.Exit(1 if failures or any(imported.missing for imported in done) else 0)


def _show_json(done: list[Imported], failures: Failures, _: Terms) -> None:
    show_json(
        bundles=[_report(imported) for imported in done],
        failures=[
            {"problem": text, "missing": _missing(getattr(failure, "missing", ()))} for text, failure in failures
        ],
    )
    for text, _failure in failures:
        typer.echo(text, err=True)


def _show(done: list[Imported], failures: Failures, terms: Terms) -> None:
    for number, imported in enumerate(done):
        if number:
            typer.echo("")
        _tell(imported, terms)
    for text, failure in failures:
        typer.echo(text, err=True)
        _tell_missing(getattr(failure, "missing", ()))


def _unserved(settings: Config, done: list[Imported]) -> list[str]:
    """Return the namespaces that a mirror of this configuration does not answer for."""
    brought = {found.image.repository.namespace for imported in done for found in imported.images}
    admitted = {namespace for namespace in brought if settings.wildcard and namespace not in settings.refused}
    return sorted(brought - admitted - set(settings.upstreams))


def _named(text: str | None) -> ImageReference | None:
    if text is None:
        return None
    from mirror.oci.reference import ImageReference  # noqa: PLC0415  # not needed to print help

    try:
        named = ImageReference.parse(text)
    except MirrorError as error:
        raise typer.BadParameter(str(error)) from None
    if named.digest is not None:
        raise typer.BadParameter("--repository takes a name, or a name and a tag: a digest is what the image is anyway")
    if ":" not in text.rpartition("/")[2]:
        return dataclasses.replace(named, tag=None)
    return named


def _import(settings: Config, paths: list[str], terms: Terms, *, as_json: bool) -> Imported:
    from mirror.airgap.bundle.intake import Intake  # noqa: PLC0415  # not needed to print help
    from mirror.airgap.bundle.source import open_source  # noqa: PLC0415  # the same

    under_way: list[Intake] = []
    with (
        # Before a store is made, and as whoever called.
        open_source(paths, lambda: any(intake.stopped() for intake in under_way)) as source,
        opened_by(settings, as_json=as_json, make=True) as store,
        bytes_progress(source.size or 0, hidden=as_json or not source.size) as advance,
    ):
        intake = Intake(store, settings.storage, terms)
        under_way.append(intake)
        try:
            return asyncio.run(_run(intake, source, advance))
        except BundleRefused:
            source.settle()
            raise


async def _run(intake: Intake, source: Source, advance: Callable[[int], None]) -> Imported:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  # this is one
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):  # asyncio's own way would tear the second Ctrl-C out of it
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        return await intake.run(source, advance, caution)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _tell(imported: Imported, terms: Terms) -> None:
    # Signatures and the like go with their images, and would be as many lines again.
    rows = [_row(found) for found in imported.images if found.image.subject is None]
    if rows:
        show(_COLUMNS, rows)
        typer.echo("")
    for line in _summary(imported, terms):
        typer.echo(line)
    if imported.missing:
        words = f"{counted(len(imported.missing), 'content')} of the bundle {imported.parent or 'before'}"
        typer.echo(f"missing: {words}; import that one, then this one again", err=True)
    _tell_missing(imported.missing)


def _row(found: ImportedImage) -> tuple[str, ...]:
    from mirror.airgap.bundle.outcome import LEFT_OUT  # noqa: PLC0415  # not needed to print help

    image = found.image
    name = str(image) if image.tag is not None else f"{image.repository}@{image.digest.hex[:_DIGITS]}"
    size = show_bytes(found.size) if found.size and found.state != LEFT_OUT else ""
    return (name, image.digest.hex[:_DIGITS], some_of(found.platforms), size, found.state)


def _tell_missing(missing: Sequence[Content]) -> None:
    for content in missing[:_MOST]:
        typer.echo(f"  {content.digest}  {show_bytes(content.size)}", err=True)
    if len(missing) > _MOST:
        typer.echo(f"  and {len(missing) - _MOST} more; --json has all", err=True)


def _summary(imported: Imported, terms: Terms) -> list[str]:
    would = "would be " if terms.dry else ""
    referring = sum(found.image.subject is not None for found in imported.images)
    beside = f", and {referring} for what refers to them, as signatures do" if referring else ""
    lines = [
        (
            f"{imported.label} ({imported.form}): {counted(len(imported.images) - referring, 'name')}{beside}; "
            f"{counted(imported.brought, 'content')} {would}brought ({show_bytes(imported.brought_size)}), "
            f"{imported.here} here before ({show_bytes(imported.here_size)})"
        )
    ]
    if terms.dry and imported.missing:
        lines.append("what is not whole would be left out; only reading all of it tells which images that are")
    if imported.signer is not None:
        lines.append(f"signed by {imported.signer}")
    elif imported.signed:
        lines.append("signed, not checked: --key FILE names whom you trust")
    if imported.room is not None:
        lines.append(f"the store has room for {show_bytes(imported.room)} without letting anything go")
    return lines


def _report(imported: Imported) -> dict[str, Any]:
    return {
        "bundle": imported.label,
        "form": imported.form,
        "identity": imported.identity,
        "parent": imported.parent,
        "signed": imported.signed,
        "signer": imported.signer,
        "images": [_image(found) for found in imported.images],
        "brought": imported.brought,
        "brought_bytes": imported.brought_size,
        "here": imported.here,
        "here_bytes": imported.here_size,
        "room_bytes": imported.room,
        "missing": _missing(imported.missing),
    }


def _image(found: ImportedImage) -> dict[str, Any]:
    return {
        "reference": str(found.image),
        "digest": str(found.image.digest),
        "media_type": found.image.media_type,
        "platforms": list(found.platforms),
        "size_bytes": found.size,
        "state": found.state,
    }


def _missing(contents: Any) -> list[dict[str, Any]]:
    return [{"digest": content.digest, "size_bytes": content.size} for content in contents]
