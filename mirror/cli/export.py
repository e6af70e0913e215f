"""`mirror export`: images of the store as one bundle, for a site that has no uplink."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path  # noqa: TC003  # typer reads it at run time
from typing import TYPE_CHECKING, Annotated

import typer

from mirror import config as configuration
from mirror.cli.bundling import OutOption, SplitOption, ZstdOption, output
from mirror.cli.inputs import FromOption, ServedOption, ValueOption, read_inputs
from mirror.cli.naming import named
from mirror.cli.opening import PatternsArgument, caution_of, opened_by, parsed
from mirror.cli.options import ConfigOption, JsonOption  # noqa: TC001  # typer reads it at run time
from mirror.cli.passphrase import PassphraseFileOption, asking

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.airgap.bundle.gathering import Choice
    from mirror.airgap.bundle.manifest import BundleManifest
    from mirror.airgap.bundle.writer import Damaged
    from mirror.config import Config


def export(  # noqa: PLR0917  # typer passes them by name
    out: OutOption,
    images: PatternsArgument = None,
    files: FromOption = None,
    served: ServedOption = None,
    platform: Annotated[
        list[str] | None,
        typer.Option(
            "--platform",
            metavar="OS/ARCH",
            help="As linux/amd64; several by commas or repeated; host: this machine's; all: each that an index lists. "
            "Else those that are wholly here. docker load takes the first.",
        ),
    ] = None,
    referrers: Annotated[
        str | None,
        typer.Option(
            "--referrers",
            metavar="TYPES",
            help="Signatures, attestations and the like: all that are known, none, or artifact types by commas. "
            "Else all that are here.",
        ),
    ] = None,
    index: Annotated[
        str,
        typer.Option(
            "--index",
            metavar="keep|rewrite",
            help="keep leaves an index as it is, so that digests stay the same. rewrite makes it anew where not all of "
            "its platforms are carried, for k3s and other tools that insist on every one.",
        ),
    ] = "keep",
    since_bundle: Annotated[
        str | None,
        typer.Option(
            "--since-bundle",
            metavar="FILE",
            help="Leave out what this earlier bundle had: its .bundle.json is enough, or the bundle itself.",
        ),
    ] = None,
    split: SplitOption = None,
    zstd: ZstdOption = False,
    sign: Annotated[bool, typer.Option("--sign", help="Sign it with the key that --key names.")] = False,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="Sign it with this private SSH key, as ssh-keygen makes them."),
    ] = None,
    passphrase_file: PassphraseFileOption = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Write it without what is not wholly here, rather than not at all.")
    ] = False,
    values: ValueOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Write images into a bundle. mirror import takes it in, and so do docker load, podman and ctr."""
    from mirror.cli.exporting import Damaged, gathered, report, write  # noqa: PLC0415  # not needed to print help

    patterns = parsed(images)
    choice = _choice(platform, referrers, index)
    to = output(out, zstd=zstd, split=split)
    if sign and key is None:
        raise typer.BadParameter("--sign needs a key: --key FILE, as ssh-keygen -t ed25519 makes one")
    if not (patterns or files or served):
        raise typer.BadParameter("no image is named: name some, '*' for all, a list by --from, or --served-since 30d")
    settings = configuration.load(config, os.environ)
    inputs = None
    if files or served:
        inputs = read_inputs(None, files, served, default=settings.default_upstream, values=values)
    parent = _parent(since_bundle)
    with opened_by(settings, as_json=json) as store:
        caution_of(store)
        made = gathered(store, patterns, inputs, choice, parent, hidden=json)
    # What is written belongs to whoever called, and so the store's user is left behind; what is held stays held.
    with closing(made):
        if made.manifest.images and (made.whole or allow_missing):
            try:
                write(made, to, _signature(made.manifest, key, passphrase_file), hidden=json)
            except Damaged as error:
                _put_aside(settings, error, as_json=json)
                raise
    report(made, to, allowed=allow_missing, as_json=json)
    raise typer.Exit(0 if made.plan is not None else 1)


def _choice(platform: Sequence[str] | None, referrers: str | None, index: str) -> Choice:
    from mirror.airgap.bundle.gathering import Choice  # noqa: PLC0415  # not needed to print help
    from mirror.airgap.choice import Platforms, ReferrerTypes  # noqa: PLC0415  # the same

    if index not in ("keep", "rewrite"):
        raise typer.BadParameter(f"--index {index} is neither keep nor rewrite")
    try:
        platforms = Platforms.parse(platform) if platform else None
    except ValueError as error:
        raise typer.BadParameter(f"--platform: {error}") from None
    try:
        types = ReferrerTypes.parse(referrers) if referrers else None
    except ValueError as error:
        raise typer.BadParameter(f"--referrers: {error}") from None
    return Choice(platforms, types, rewrite=index == "rewrite")


def _parent(path: str | None) -> BundleManifest | None:
    from mirror.airgap.bundle.parent import manifest_of  # noqa: PLC0415  # not needed to print help

    if path is None:
        return None
    with named(path):
        return manifest_of(path)


def _signature(manifest: BundleManifest, key: Path | None, passphrase_file: Path | None) -> bytes | None:
    if key is None:
        return None
    from mirror.airgap.bundle.signature import sign  # noqa: PLC0415  # not needed to print help

    return sign(manifest.dump(), key, asking(key, passphrase_file))


def _put_aside(settings: Config, error: Damaged, *, as_json: bool) -> None:
    """Take damaged content out of the store, as everybody does who finds some: so that it is fetched again."""
    from mirror.store.inspection import Finding, Verdict  # noqa: PLC0415  # not needed to print help
    from mirror.store.rejection import reject  # noqa: PLC0415  # the same

    with opened_by(settings, as_json=as_json) as store:
        reject(store, Finding(error.digest, Verdict.WRONG, str(error), seen=error.seen))
