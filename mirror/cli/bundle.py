"""`mirror bundle`: look into bundles, check them and compare them, without a store and without the other side."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mirror.cli.naming import named
from mirror.cli.options import JsonOption  # noqa: TC001  # typer reads it at run time
from mirror.cli.tables import Column, bytes_progress, counted, show, show_json
from mirror.config.units import show_bytes
from mirror.errors import BundleRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.airgap.bundle.comparison import Change, Comparison
    from mirror.airgap.bundle.inspection import Inspection
    from mirror.airgap.bundle.manifest import BundledImage, BundleManifest

BUNDLE = "A bundle: a file, its parts (or the .sha256 file of them), a directory, or - for standard input."
KeyOption = Annotated[
    Path | None,
    typer.Option(
        "--key",
        metavar="FILE",
        help="Who has to have signed it: a public SSH key (.pub), or a file of allowed signers as of ssh-keygen.",
    ),
]
AllOption = Annotated[bool, typer.Option("--all", help="List signatures and other referrers, too.")]
_MOST = 20  # problems that are told in text; JSON has all
_DIGITS = 12  # of a digest that a table shows
_INSPECTED = (
    Column("IMAGE"),
    Column("DIGEST"),
    Column("SIZE", right=True),
    Column("CARRIED", right=True),
    Column("PLATFORMS"),
)
_COMPARED = (Column("IMAGE"), Column("CHANGE"), Column("BEFORE"), Column("AFTER"), Column("PLATFORMS"))

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look into bundles, check and compare them.")


@app.command("inspect")
def inspect(
    bundle: Annotated[
        list[str], typer.Argument(metavar="BUNDLE", help=f"{BUNDLE} The .bundle.json beside one is enough, too.")
    ],
    all_: AllOption = False,
    key: KeyOption = None,
    json: JsonOption = False,
) -> None:
    """Say what is in a bundle. Only its beginning is read; mirror bundle verify reads all of it."""
    from mirror.airgap.bundle import inspection  # noqa: PLC0415  # not needed to print help

    with named(*bundle):
        found = inspection.inspect(bundle)
    signature = _signature(found.body, found.signature, key)
    if json:
        show_json(
            **_described(found.manifest, signature), images=[_image(found, image) for image in found.manifest.images]
        )
        return
    rows = [_row(found, image) for image in found.manifest.images if all_ or not image.subject]
    if rows and found.alone:  # which contents are whose is in manifests, which are not with it
        show((*_INSPECTED[:2], _INSPECTED[-1]), [(*row[:2], row[-1]) for row in rows])
    elif rows:
        show(_INSPECTED, rows)
    if rows:
        typer.echo("")
    for title, text in _summary(found, signature):
        typer.echo(f"{title:<9}  {text}")


@app.command("verify")
def verify(
    bundle: Annotated[list[str], typer.Argument(metavar="BUNDLE", help=f"{BUNDLE} Several bundles are fine.")],
    key: KeyOption = None,
    json: JsonOption = False,
) -> None:
    """Read all of a bundle, and say what is wrong with it. With --key the signature is checked first."""
    from mirror.airgap.bundle.source import bundles  # noqa: PLC0415  # not needed to print help

    reports = [_verified(paths, key, hidden=json) for paths in bundles(bundle)]
    if json:
        show_json(bundles=reports)
    raise typer.Exit(1 if any(report["problems"] for report in reports) else 0)


@app.command("diff")
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A bundle, or the .bundle.json that lies beside one.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The same.")],
    all_: AllOption = False,
    json: JsonOption = False,
) -> None:
    """Say what one bundle has beyond another. It ends with 0 whether they differ or not."""
    from mirror.airgap.bundle.comparison import compare  # noqa: PLC0415  # not needed to print help
    from mirror.airgap.bundle.parent import manifest_of  # noqa: PLC0415  # the same

    with named(first):
        before = manifest_of(first)
    with named(second):
        found = compare(before, manifest_of(second))
    if json:
        show_json(**(asdict(found) | {"changes": [_changed(change) for change in found.changes]}))
        return
    rows = [_change_row(change) for change in found.changes if all_ or not change.image.subject]
    if rows:
        show(_COMPARED, rows)
        typer.echo("")
    for line in _compared(found):
        typer.echo(line)


def _signature(body: bytes, signature: bytes | None, key: Path | None) -> dict[str, Any]:
    """Return the state of a signature; raise `BundleRefused` where a key is required, and did not sign."""
    from mirror.airgap.bundle.signature import signer_of, verify  # noqa: PLC0415  # not needed to print help

    if signature is None:
        if key is not None:
            raise BundleRefused(f"the bundle is not signed, and --key {key} asks for a signature")
        return {"state": "none", "signer": None}
    if key is None:
        return {"state": "unchecked", "signer": signer_of(signature)}
    return {"state": "right", "signer": verify(body, signature, key)}


def _described(manifest: BundleManifest, signature: dict[str, Any]) -> dict[str, Any]:
    carried = manifest.carried
    return {
        "identity": manifest.identity,
        "parent": manifest.parent,
        "rewritten": manifest.rewritten,
        "signature": signature,
        "contents": len(manifest.contents),
        "content_bytes": sum(content.size for content in manifest.contents),
        "carried": len(carried),
        "carried_bytes": sum(content.size for content in carried),
    }


# --- inspect -------------------------------------------------------------------------------------------------------


def _image(found: Inspection, image: BundledImage) -> dict[str, Any]:
    sizes = found.sizes.get(image.reference)
    return asdict(image) | {
        "platforms": list(image.platforms),
        "subject": image.subject or None,
        "size_bytes": sizes.size if sizes else None,
        "carried_bytes": sizes.carried if sizes else None,
    }


def _row(found: Inspection, image: BundledImage) -> tuple[str, ...]:
    sizes = found.sizes.get(image.reference)
    size = show_bytes(sizes.size) if sizes and sizes.size is not None else ""
    what = f"refers to {_short(image.subject)}" if image.subject else ", ".join(image.platforms)
    return _name(image.reference), _short(image.digest), size, show_bytes(sizes.carried) if sizes else "", what


def _summary(found: Inspection, signature: dict[str, Any]) -> Iterator[tuple[str, str]]:
    manifest = found.manifest
    facts = _described(manifest, signature)
    referring = sum(bool(image.subject) for image in manifest.images)
    names = counted(len(manifest.images) - referring, "name")
    more = f", and {referring} for what refers to them, as signatures do" if referring else ""
    yield "bundle", facts["identity"]
    if manifest.parent is None:
        yield "parent", "none: it needs no other bundle"
    else:
        yield "parent", f"{manifest.parent}, which has to be taken in first"
    yield "holds", f"{names}{more}: {counted(facts['contents'], 'content')} of {show_bytes(facts['content_bytes'])}"
    left = facts["contents"] - facts["carried"]
    beside = f"; {counted(left, 'content')} came with its parents" if left else ""
    alone = " (not with this file: it is the manifest alone)" if found.alone else ""
    yield "carries", f"{counted(facts['carried'], 'content')} of {show_bytes(facts['carried_bytes'])}{alone}{beside}"
    if manifest.rewritten:
        yield "indexes", "are made anew for the platforms that are here: their digests are not upstream's"
    yield "signature", _told(signature)


def _told(signature: dict[str, Any]) -> str:
    if signature["state"] == "none":
        return "none"
    if signature["state"] == "unchecked":
        return f"by the key {signature['signer']}, not checked: --key FILE names whom you trust"
    return f"right, by {signature['signer']}"


# --- verify --------------------------------------------------------------------------------------------------------


def _verified(paths: list[str], key: Path | None, *, hidden: bool) -> dict[str, Any]:
    """Verify one bundle, tell of it unless it is `hidden`, and return the report."""
    from mirror.airgap.bundle.source import open_source  # noqa: PLC0415  # not needed to print help
    from mirror.airgap.bundle.verification import Verification  # noqa: PLC0415  # the same

    label = paths[0]
    report: dict[str, Any] = {"bundle": label, "problems": []}
    try:
        with open_source(paths) as source:
            report["bundle"] = label = source.label
            reading = Verification(source)
            report["identity"] = reading.manifest.identity
            report["signature"] = signature = _signature(reading.body, reading.signature, key)
            total = sum(content.size for content in reading.manifest.carried)
            try:
                with bytes_progress(total, hidden=hidden) as advance:
                    reading.run(advance)
            finally:
                report |= {"files": reading.files, "bytes": reading.size, "problems": reading.problems}
    except BundleRefused as error:
        report["problems"] = [*report["problems"], str(error)]
    if hidden:
        return report
    for problem in report["problems"][:_MOST]:
        typer.echo(problem if problem.startswith(label) else f"{label}: {problem}", err=True)
    if (more := len(report["problems"]) - _MOST) > 0:
        typer.echo(f"{label}: and {counted(more, 'more problem')}; --json names all", err=True)
    if not report["problems"]:
        left = sum(not content.carried for content in reading.manifest.contents)
        beside = f"; {counted(left, 'content')} more came with its parents" if left else ""
        typer.echo(
            f"{label}: all right: {counted(reading.files, 'content')} read, {show_bytes(reading.size)}{beside}; "
            f"signature: {_told(signature)}"
        )
    return report


# --- diff ----------------------------------------------------------------------------------------------------------


def _changed(change: Change) -> dict[str, Any]:
    def part(image: BundledImage | None) -> dict[str, Any] | None:
        return None if image is None else {"digest": image.digest, "platforms": list(image.platforms)}

    return {
        "reference": change.image.reference,
        "change": change.kind,
        "before": part(change.before),
        "after": part(change.after),
    }


def _change_row(change: Change) -> tuple[str, ...]:
    before, after = change.before, change.after
    return (
        _name(change.image.reference),
        change.kind,
        _short(before.digest) if before else "",
        _short(after.digest) if after else "",
        ", ".join(change.image.platforms),
    )


def _compared(found: Comparison) -> Iterator[str]:
    kinds = Counter(change.kind for change in found.changes)
    counts = ", ".join(f"{kinds[kind]} {kind}" for kind in ("added", "removed", "changed"))
    referring = sum(bool(change.image.subject) for change in found.changes)
    more = f"; {referring} of them signatures and the like, which --all lists" if referring else ""
    yield f"names: {counts}, {found.unchanged} as before{more}"
    yield f"new content: {show_bytes(found.new)}; no longer needed: {show_bytes(found.gone)}"
    again = f", {show_bytes(found.again)} of it carried by A as well" if found.again else ""
    yield f"B carries {show_bytes(found.carried)}{again}"
    if found.continues:
        yield "A is the parent of B: B can be taken in where A was"
    elif found.absent:
        lacking = counted(found.absent, "content")
        yield f"B lacks {lacking} that A does not carry either: another bundle has to come first"


def _short(digest: str) -> str:
    algorithm, _, rest = digest.partition(":")
    return f"{algorithm}:{rest[:_DIGITS]}"


def _name(reference: str) -> str:
    """Return a reference with a digest cut short: the column beside it has it."""
    name, at, digest = reference.partition("@")
    return f"{name}@{_short(digest)}" if at else name
