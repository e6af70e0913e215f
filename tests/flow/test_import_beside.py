"""An import and what goes on beside it: other files of the bundle, another import, somebody who loses patience."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from mirror.airgap.bundle.intake import Intake
from mirror.airgap.bundle.outcome import Terms
from mirror.airgap.bundle.signature import sign
from mirror.airgap.bundle.source import bundles, open_source
from mirror.errors import BundleRefused, NoSpace
from tests.parts.bundles import small, tar
from tests.unit.airgap.importing import site

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.airgap.importing import Site


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "june.tar"
    path.write_bytes(tar(small().entries()))
    return path


def key(directory: Path) -> tuple[Path, Path]:
    private = Ed25519PrivateKey.generate()
    paths = directory / "key", directory / "key.pub"
    paths[0].write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    paths[1].write_bytes(private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b" us\n")
    return paths


def test_what_lies_beside_a_bundle_is_not_taken_for_one(bundle: Path) -> None:
    beside = [f"{bundle}.bundle.json", f"{bundle}.bundle.json.sig"]
    assert bundles([str(bundle), *beside]) == [[str(bundle)]]
    parts = [f"{bundle}.001", f"{bundle}.002", f"{bundle}.sha256"]
    assert bundles([*beside, *parts]) == [parts]
    (bundle.parent / "june.tar.bundle.json").write_bytes(b"{}")
    with pytest.raises(BundleRefused, match="name that one"):
        open_source(beside[:1])


def test_a_signature_beside_a_bundle_is_as_good_as_one_within(bundle: Path, tmp_path: Path) -> None:
    private, public = key(tmp_path)
    signature = sign(small().entries()[0][1], private, None)
    with site(tmp_path / "store") as here:
        (tmp_path / "june.tar.bundle.json.sig").write_bytes(sign(b"another one", private, None))
        with pytest.raises(BundleRefused, match="sign"):
            here.take(bundle, key=public)
        (tmp_path / "june.tar.bundle.json.sig").write_bytes(signature)
        assert here.take(bundle, key=public).signer is not None


def test_a_dry_run_tells_that_there_is_no_room(bundle: Path, tmp_path: Path) -> None:
    with site(tmp_path / "store", "100KiB") as here:
        with pytest.raises(NoSpace, match="not so much can be had"):
            here.take(bundle, dry=True)
        with pytest.raises(NoSpace):
            here.take(bundle)


async def test_an_import_that_waits_for_another_one_says_so(bundle: Path, tmp_path: Path) -> None:
    heard = asyncio.Event()
    with site(tmp_path / "store") as here, site(tmp_path / "store") as other, open_source([str(bundle)]) as source:
        intake = Intake(here.store, here.settings.storage, Terms())
        async with other.store.turns.take("import"):
            running = asyncio.create_task(intake.run(source, waiting=lambda _: heard.set()))
            await asyncio.wait_for(heard.wait(), 10)
        assert (await running).brought == 14


async def test_somebody_who_interrupts_it_twice_at_its_end_finds_all_of_it_or_nothing(
    bundle: Path, tmp_path: Path
) -> None:
    with site(tmp_path / "store") as here, open_source([str(bundle)]) as source:
        await here.store.count()
        with closing(sqlite3.connect(tmp_path / "store" / "index.sqlite", isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")  # the index cannot be told yet
            running = asyncio.create_task(Intake(here.store, here.settings.storage, Terms()).run(source))
            await asyncio.wait_for(named(here, 14), 8)
            for _ in range(2):
                running.cancel()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            assert not running.done()
            db.execute("ROLLBACK")
        assert len((await running).images) == 3
        assert len(here.state()["content"]) == len([path for path, _ in here.state()["files"]])


async def named(here: Site, count: int) -> None:
    """Return when so many files have got their names."""
    while sum(path.is_file() for path in (here.root / "blobs.v1").rglob("*")) < count:  # noqa: ASYNC110  # a thread brings it about
        await asyncio.sleep(0.01)
