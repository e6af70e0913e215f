"""`mirror bundle`: what it says of bundles that `mirror export` wrote, and of those that somebody changed since."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from mirror.cli.main import main
from mirror.oci.digest import Digest
from mirror.oci.name import Repository
from mirror.store.changes import Linked
from tests.fakes.library import OCI_CONFIG, OCI_MANIFEST, platform_of
from tests.parts.stock import Stock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]
    Edit = Callable[[str, bytes], bytes | None]

NGINX, REDIS, APP = ("docker.io", "library/nginx"), ("docker.io", "library/redis"), ("quay.io", "org/app")
REFERENCES = ("docker.io/library/nginx:1.25", "docker.io/library/redis:7", "quay.io/org/app:v1")


def image(
    stock: Stock, name: str, layers: Sequence[dict[str, Any]], *, platform: str = "linux/amd64", subject: str = ""
) -> dict[str, Any]:
    """Keep an image that can run, as far as its configuration goes."""
    diff_ids = [layer["digest"] for layer in layers]
    document = platform_of(platform) | {"rootfs": {"type": "layers", "diff_ids": diff_ids}}
    named = [stock._keep(json.dumps(document).encode(), OCI_CONFIG), *layers]
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": named[0], "layers": named[1:]}
    if subject:
        manifest["subject"] = {"mediaType": OCI_MANIFEST, "digest": subject, "size": 1}
    kept = stock._manifest(name, manifest, named, used=0.0, subject=subject or None)
    return {**kept, "platform": platform_of(platform)}


def filled(stock: Stock, nginx: bytes, redis: bytes, *names: str) -> None:
    with stock.opened():
        base = stock.layer(b"base" * 100_000)
        signed = image(stock, names[0], [base, stock.layer(nginx * 40_000)])
        tag = signed["digest"].replace(":", "-") + ".sig"
        image(stock, f"docker.io/library/nginx:{tag}", [stock.layer(b"signed")], subject=signed["digest"])
        image(stock, names[1], [stock.layer(redis * 50_000)])
        app = image(stock, "quay.io/org/app", [stock.layer(b"app" * 9_000)])
        stock.index(names[2], [app, image(stock, "quay.io/org/app", [base], platform="linux/arm64")])
        digests = [Digest.parse(digest) for digest in stock.files()]
        # As the mirror knows it: upstream gave all of it to whoever asked, for these repositories.
        for repository in (NGINX, REDIS, APP):
            stock.apply(*(Linked(Repository(*repository), digest, public=True) for digest in digests))


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as raised:
        main(list(map(str, arguments)))
    assert isinstance(raised.value.code, int)
    out, err = capsys.readouterr()
    return raised.value.code, out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *arguments: call(capsys, "bundle", *arguments)


def key_pair(directory: Path, name: str) -> Path:
    key = Ed25519PrivateKey.generate()
    private = directory / name
    private.touch(0o600)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    private.with_name(f"{name}.pub").write_bytes(public + f" {name}\n".encode())
    return private


def exported(stock: Stock, out: Path, *more: str | Path) -> Path:
    names = [*REFERENCES, *(["docker.io/library/nginx:1.26"] if "--allow-missing" in more else [])]
    with pytest.raises(SystemExit), redirect_stdout(io.StringIO()):
        main(["export", *names, "-o", str(out), "--config", str(stock.file), *map(str, more)])
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`june.tar` and `july.tar`, which continues it with one new image and one changed; signed by `ops`."""
    directory = tmp_path_factory.mktemp("bundles")
    ops = key_pair(directory, "ops")
    key_pair(directory, "mallory")
    (directory / "june").mkdir()
    june = Stock(directory / "june", max_size="1GiB")
    filled(june, b"one", b"data", *REFERENCES)
    signing = ("--sign", "--key", ops)
    exported(june, directory / "june.tar", *signing)
    (directory / "july").mkdir()
    july = Stock(directory / "july", max_size="1GiB")
    filled(july, b"two", b"DATA", "docker.io/library/nginx:1.26", *REFERENCES[1:])
    since = ("--since-bundle", directory / "june.tar.bundle.json")
    exported(july, directory / "july.tar", "--allow-missing", *since, *signing)
    return directory


def told(run: Run, *arguments: str | Path, code: int = 0) -> Any:
    found, out, err = run(*arguments, "--json")
    assert (found, err) == (code, "")
    return json.loads(out)


def changed(source: Path, target: Path, edit: Edit, *, more: dict[str, bytes] | None = None) -> Path:
    """Write the archive again; `edit` returns what an entry is to be, None to leave it out."""
    with tarfile.open(source) as old, tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as new:
        for member in old:
            file = old.extractfile(member)
            assert file is not None
            body = edit(member.name, file.read())
            if body is not None:
                member.size = len(body)
                new.addfile(member, io.BytesIO(body))
        for name, body in (more or {}).items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            new.addfile(member, io.BytesIO(body))
    return target


def problems(run: Run, bundle: Path, *more: str | Path) -> list[str]:
    reports = told(run, "verify", bundle, *more, code=1)["bundles"]
    assert len(reports) == 1
    return list(reports[0]["problems"])


def entry_of(size: int, bundle: Path) -> str:
    with tarfile.open(bundle) as archive:
        return next(member.name for member in archive if member.size == size)


# --- inspect ---------------------------------------------------------------------------------------------------------


def test_inspect_lists_images_with_what_each_takes_and_brings(made: Path, run: Run) -> None:
    code, out, err = run("inspect", made / "june.tar")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["IMAGE", "DIGEST", "SIZE", "CARRIED", "PLATFORMS"]
    assert [line.split()[0] for line in lines[1:4]] == list(REFERENCES)
    assert lines[3].endswith("linux/amd64, linux/arm64")
    assert "3 names, and 1 for what refers to them" in out
    assert "none: it needs no other bundle" in out
    assert ".sig" not in out
    assert ".sig" in run("inspect", made / "june.tar", "--all")[1]


def test_what_inspect_says_adds_up(made: Path, run: Run) -> None:
    report = told(run, "inspect", made / "june.tar")
    with tarfile.open(made / "june.tar") as archive:
        sizes = {member.name: member.size for member in archive if member.name.startswith("blobs/")}
    assert report["carried_bytes"] == report["content_bytes"] == sum(sizes.values())
    assert (report["carried"], report["contents"]) == (len(sizes), len(sizes))
    images = {image["reference"]: image for image in report["images"]}
    redis = json.loads(body_of(made / "june.tar", images[REFERENCES[1]]["digest"]))
    expected = sum(part["size"] for part in [redis["config"], *redis["layers"]])
    expected += len(body_of(made / "june.tar", images[REFERENCES[1]]["digest"]))
    assert images[REFERENCES[1]]["size_bytes"] == images[REFERENCES[1]]["carried_bytes"] == expected
    body = (made / "june.tar.bundle.json").read_bytes()
    assert report["identity"] == f"sha256:{hashlib.sha256(body).hexdigest()}"
    assert sum(image["subject"] is not None for image in report["images"]) == 1


def body_of(bundle: Path, digest: str) -> bytes:
    with tarfile.open(bundle) as archive:
        file = archive.extractfile(f"blobs/{digest.replace(':', '/')}")
        assert file is not None
        return file.read()


def test_inspect_tells_of_a_bundle_that_continues_another_what_it_brings(made: Path, run: Run) -> None:
    june, july = told(run, "inspect", made / "june.tar"), told(run, "inspect", made / "july.tar")
    assert july["parent"] == june["identity"]
    images = {image["reference"]: image for image in july["images"]}
    assert 320_000 < july["carried_bytes"] < 330_000 < july["content_bytes"]
    nginx = images["docker.io/library/nginx:1.26"]
    assert nginx["size_bytes"] - nginx["carried_bytes"] == 400_000  # a layer that June had
    assert images[REFERENCES[2]]["carried_bytes"] == 0
    assert images[REFERENCES[2]]["size_bytes"] is None  # its manifest is in the parent
    code, out, _ = run("inspect", made / "july.tar")
    assert code == 0
    assert f"{june['identity']}, which has to be taken in first" in out
    assert "came with its parents" in out


def test_the_manifest_beside_a_bundle_says_the_same(made: Path, run: Run) -> None:
    whole = told(run, "inspect", made / "july.tar", "--key", made / "ops.pub")
    alone = told(run, "inspect", made / "july.tar.bundle.json", "--key", made / "ops.pub")
    unknown = {"size_bytes": None, "carried_bytes": None}
    assert alone == whole | {"images": [image | unknown for image in whole["images"]]}
    out = run("inspect", made / "july.tar.bundle.json")[1]
    assert "it is the manifest alone" in out
    assert "SIZE" not in out


def test_the_state_of_a_signature_is_told(made: Path, run: Run, tmp_path: Path) -> None:
    state = told(run, "inspect", made / "june.tar")["signature"]
    assert state["state"] == "unchecked"
    assert told(run, "inspect", made / "june.tar", "--key", made / "ops.pub")["signature"] == {
        "state": "right",
        "signer": f"ops ({state['signer']})",
    }
    code, _, err = run("inspect", made / "june.tar", "--key", made / "mallory.pub")
    assert code == 1
    assert state["signer"] in err
    unsigned = changed(made / "june.tar", tmp_path / "b.tar", lambda name, body: body if "sig" not in name else None)
    assert told(run, "inspect", unsigned)["signature"] == {"state": "none", "signer": None}
    code, _, err = run("inspect", unsigned, "--key", made / "ops.pub")
    assert code == 1
    assert "is not signed" in err
    assert run("inspect", unsigned, "--key", tmp_path / "absent.pub")[0] == 1
    assert run("inspect", made / "june.tar", "--key", tmp_path / "absent.pub")[0] == 2


def test_what_is_no_bundle_is_refused_with_what_would_be_right(made: Path, run: Run, tmp_path: Path) -> None:
    other = changed(made / "june.tar", tmp_path / "b.tar", lambda name, body: body if "bundle" not in name else None)
    for command in ("inspect", "verify"):
        code, out, err = run(command, other)
        assert (code, out) == (1, "")
        assert "does not begin with bundle.json" in err
        assert "import --dry-run" in err
        assert run(command, tmp_path / "absent.tar")[0] == 1
    (tmp_path / "c.json").write_text("{}")
    assert run("inspect", tmp_path / "c.json")[0] == 1
    (tmp_path / "list.txt").write_text("nginx\n")
    for command in (("inspect",), ("diff", made / "june.tar"), ("verify",)):
        code, _, err = run(*command, tmp_path / "list.txt")
        assert code == 1
        assert err == f"{tmp_path / 'list.txt'}: this is no tar archive, or it is cut off at its beginning\n"


def test_inspect_does_not_go_by_a_manifest_that_is_damaged(made: Path, run: Run, tmp_path: Path) -> None:
    images = told(run, "inspect", made / "june.tar")["images"]
    name = f"blobs/{images[-1]['digest'].replace(':', '/')}"
    edit = changed(made / "june.tar", tmp_path / "b.tar", lambda at, body: body + b" " if at == name else body)
    code, out, err = run("inspect", edit)
    assert (code, out) == (1, "")
    assert f"{name} is damaged" in err


# --- verify ----------------------------------------------------------------------------------------------------------


def test_verify_reads_all_of_it_in_every_form(made: Path, run: Run, tmp_path: Path) -> None:
    june = Stock(made / "june", max_size="1GiB")
    report = told(run, "inspect", made / "june.tar")
    forms = [made / "june.tar", made / "july.tar"]
    forms.append(exported(june, tmp_path / "b.tar.zst"))
    (tmp_path / "unpacked").mkdir()
    with tarfile.open(made / "june.tar") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    forms.append(tmp_path / "unpacked")
    for form in forms:
        code, out, err = run("verify", form)
        assert (code, err) == (0, "")
        assert out.startswith(f"{form}: all right: ")
    found = told(run, "verify", *forms)["bundles"]
    assert [one["problems"] for one in found] == [[]] * 4
    assert found[0]["bytes"] == found[2]["bytes"] == found[3]["bytes"] == report["carried_bytes"]
    assert "with its parents" in run("verify", made / "july.tar")[1]


def test_parts_are_verified_however_the_shell_names_them(made: Path, run: Run, tmp_path: Path) -> None:
    june = Stock(made / "june", max_size="1GiB")
    filled(june, b"one", b"data", *REFERENCES)
    with june.opened():
        image(june, "docker.io/library/redis:7", [june.layer(bytes(range(256)) * 8192), june.layer(b"x" * 900_000)])
        for digest in june.files():
            june.apply(Linked(Repository(*REDIS), Digest.parse(digest), public=True))
    exported(june, tmp_path / "b.tar", "--split", "1MiB")
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == [
        "b.tar.001",
        "b.tar.002",
        "b.tar.003",
        "b.tar.004",
        "b.tar.bundle.json",
        "b.tar.sha256",
    ]
    assert len(told(run, "verify", *paths)["bundles"]) == 1
    assert told(run, "verify", *reversed(paths[:4]))["bundles"][0]["problems"] == []
    assert told(run, "verify", tmp_path / "b.tar")["bundles"][0]["problems"] == []
    assert told(run, "inspect", paths[-1])["contents"]
    damaged = bytearray(paths[2].read_bytes())
    damaged[1000] ^= 1
    paths[2].write_bytes(damaged)
    assert any("b.tar.003 is damaged" in problem for problem in problems(run, tmp_path / "b.tar"))
    paths[1].unlink()
    assert "b.tar.002" in problems(run, paths[-1])[0]


def test_a_changed_byte_is_found_wherever_it_is(made: Path, run: Run, tmp_path: Path) -> None:
    """In what is read: headers and padding of the archive are the reader's matter."""
    with tarfile.open(made / "june.tar") as archive:
        members = [(member.name, member.offset_data, member.size) for member in archive]
    whole = (made / "june.tar").read_bytes()
    for name, offset, size in members:
        for at in {offset, offset + size // 2, offset + size - 1}:
            path = tmp_path / "b.tar"
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            code, out, _ = run("verify", path, "--key", made / "ops.pub")
            assert code == 1, (name, at - offset, size, out)


def test_what_is_wrong_is_named_and_the_rest_is_read(made: Path, run: Run, tmp_path: Path) -> None:
    large, small = entry_of(400_000, made / "june.tar"), entry_of(200_000, made / "june.tar")

    def edit(name: str, body: bytes) -> bytes | None:
        if name == large:
            return body[:-1] + b"!"
        return None if name == small else body

    bundle = changed(made / "june.tar", tmp_path / "b.tar", edit, more={"blobs/sha256/" + "0" * 64: b"x", "extra": b""})
    code, out, err = run("verify", bundle)
    assert (code, out) == (1, "")
    digest = large.removeprefix("blobs/sha256/")
    assert f"sha256:{digest} is damaged" in err
    assert f"sha256:{small.removeprefix('blobs/sha256/')} is not there" in err
    assert "0000 does not belong to the bundle" in err
    assert "extra does not belong to the bundle" in err
    assert len(err.splitlines()) == 4
    # What bundle.json leaves to the parent has no place in it either, right as it is.
    base = {large: b"base" * 100_000}
    twice = changed(made / "july.tar", tmp_path / "d.tar", lambda _, body: body, more=base)
    assert f"{large} does not belong to the bundle" in problems(run, twice)[0]
    shorter = changed(made / "june.tar", tmp_path / "c.tar", lambda name, body: body[1:] if name == large else body)
    assert "has 399999 bytes, and bundle.json says 400000" in problems(run, shorter)[0]


def test_the_signature_is_checked_before_anything_else_is_read(made: Path, run: Run, tmp_path: Path) -> None:
    whole = (made / "june.tar").read_bytes()
    cut = tmp_path / "b.tar"
    cut.write_bytes(whole[: len(whole) // 2])
    assert "does not list" in problems(run, cut, "--key", made / "mallory.pub")[0]
    assert "cut off" in problems(run, cut, "--key", made / "ops.pub")[0]
    mixed = changed(
        made / "june.tar",
        tmp_path / "c.tar",
        lambda name, body: (made / "july.tar.bundle.json").read_bytes() if name == "bundle.json" else body,
    )
    assert "was changed" in problems(run, mixed, "--key", made / "ops.pub")[0]


@pytest.mark.needs("ssh-keygen")
def test_openssh_signs_a_bundle_in_a_directory(made: Path, run: Run, tmp_path: Path) -> None:
    """As for a key on hardware, which the program cannot use."""
    with tarfile.open(made / "june.tar") as archive:
        archive.extractall(tmp_path / "june", filter="data")
    (tmp_path / "june" / "bundle.json.sig").unlink()
    assert "is not signed" in problems(run, tmp_path / "june", "--key", made / "mallory.pub")[0]
    command = ["ssh-keygen", "-Y", "sign", "-f", made / "mallory", "-n", "registry-mirror-bundle"]
    subprocess.run([*command, tmp_path / "june" / "bundle.json"], check=True, capture_output=True)
    assert told(run, "verify", tmp_path / "june", "--key", made / "mallory.pub")["bundles"][0]["problems"] == []
    assert problems(run, tmp_path / "june", "--key", made / "ops.pub")


def swapped(name: str, body: bytes) -> bytes:
    """Give the name of one image to another, which the signature does not cover."""
    if name == "index.json":
        document = json.loads(body)
        named = [entry for entry in document["manifests"] if "annotations" in entry]
        named[0]["annotations"], named[1]["annotations"] = named[1]["annotations"], named[0]["annotations"]
        return json.dumps(document).encode()
    if name == "manifest.json":
        images = json.loads(body)
        images[0]["RepoTags"], images[1]["RepoTags"] = images[1]["RepoTags"], images[0]["RepoTags"]
        return json.dumps(images).encode()
    return body


def edited(name: str, change: Callable[[Any], object]) -> Edit:
    def edit(found: str, body: bytes) -> bytes:
        if found != name:
            return body
        document = json.loads(body)
        change(document)
        return json.dumps(document).encode()

    return edit


def test_names_that_other_tools_would_read_otherwise_are_found(made: Path, run: Run, tmp_path: Path) -> None:
    found = problems(run, changed(made / "june.tar", tmp_path / "b.tar", swapped), "--key", made / "ops.pub")
    assert sum("index.json says that" in problem for problem in found) == 2
    assert sum("something else than its manifest" in problem for problem in found) == 2
    assert len(found) == 4


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda name, body: None if name == "oci-layout" else body, "oci-layout does not say"),
        (edited("oci-layout", lambda layout: layout.update(imageLayoutVersion="2")), "oci-layout does not say"),
        (lambda name, body: None if name == "index.json" else body, "index.json does not list"),
        (lambda name, body: b"[" * 9999 if name == "index.json" else body, "index.json does not list"),
        (lambda name, body: b"[" * 999_999 if name == "index.json" else body, "more than 327680 cannot be right"),
        (edited("index.json", lambda index: index["manifests"].pop(0)), "index.json does not list"),
        (edited("index.json", lambda index: index["manifests"][0].update(size=3)), "or not like this"),
        (edited("index.json", lambda index: index["manifests"][0].update(digest=["x"])), "or not like this"),
        (edited("index.json", lambda index: index["manifests"].append({"digest": "sha256:0"})), "not in bundle.json"),
        (edited("index.json", lambda index: index["manifests"].append("sha256:0")), "not in bundle.json"),
        (edited("index.json", lambda index: index.update(schemaVersion=1)), "is no index"),
        (edited("index.json", lambda index: index["manifests"][0].update(urls=["http://x"])), "or not like this"),
        (edited("index.json", lambda index: index["manifests"][0].update(annotations={"x": "y"})), "no mirror writes"),
        (
            edited(
                "index.json",
                lambda index: index["manifests"][0]["annotations"].update(
                    {"io.containerd.image.name": "docker.io/x:1"}
                ),
            ),
            "index.json names 'docker.io/x:1'",
        ),
        (edited("manifest.json", lambda images: images[0]["RepoTags"].append("x:1")), "manifest.json names 'x:1'"),
        (edited("manifest.json", lambda images: images[0].update(Parent="x")), "keys that no mirror writes"),
        (edited("manifest.json", lambda images: images[0]["Layers"].reverse()), "something else than its manifest"),
        (edited("manifest.json", lambda images: images[0].update(Config=None)), "something else than its manifest"),
        (
            edited("manifest.json", lambda images: images[0]["Layers"].append("../etc/passwd")),
            "something else than its manifest",
        ),
    ],
)
def test_lists_for_other_tools_that_say_something_else_are_found(
    made: Path, run: Run, tmp_path: Path, edit: Edit, problem: str
) -> None:
    found = problems(run, changed(made / "june.tar", tmp_path / "b.tar", edit))
    assert any(problem in one for one in found), found


def test_images_that_need_what_the_bundle_does_not_list_are_named(made: Path, run: Run, tmp_path: Path) -> None:
    """Somebody who writes `bundle.json` too: without a signature it is only checked whether it makes sense."""
    large = entry_of(400_000, made / "june.tar")
    digest = large.removeprefix("blobs/").replace("/", ":")

    def edit(name: str, body: bytes) -> bytes | None:
        if name == large:
            return None
        if name == "bundle.json":
            document = json.loads(body)
            document["contents"] = [content for content in document["contents"] if content["digest"] != digest]
            return json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"
        return body

    found = problems(run, changed(made / "june.tar", tmp_path / "b.tar", edit))
    assert any(REFERENCES[0] in problem and digest in problem for problem in found), found
    assert not any(REFERENCES[1] in problem for problem in found)


# --- diff ------------------------------------------------------------------------------------------------------------


def test_diff_says_what_came_what_went_and_what_is_carried(made: Path, run: Run) -> None:
    code, out, err = run("diff", made / "june.tar", made / "july.tar")
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line.split()[1] for line in out.splitlines()[1:] if line.startswith("docker.io")}
    assert lines["docker.io/library/nginx:1.25"] == "removed"
    assert lines["docker.io/library/nginx:1.26"] == "added"
    assert lines["docker.io/library/redis:7"] == "changed"
    assert "A is the parent of B" in out
    assert "names: 2 added, 2 removed, 1 changed, 1 as before; 2 of them signatures" in out
    assert ".sig" not in out
    assert ".sig" in run("diff", made / "june.tar", made / "july.tar", "--all")[1]
    assert told(run, "diff", made / "june.tar.bundle.json", made / "july.tar.bundle.json") == told(
        run, "diff", made / "june.tar", made / "july.tar"
    )


def test_diff_counts_bytes_by_content(made: Path, run: Run) -> None:
    found = told(run, "diff", made / "june.tar", made / "july.tar")
    with tarfile.open(made / "july.tar") as archive:
        carried = sum(member.size for member in archive if member.name.startswith("blobs/"))
    assert found["carried"] == found["new"] == carried
    assert (found["again"], found["absent"]) == (0, 0)
    back = told(run, "diff", made / "july.tar", made / "june.tar")
    assert back["gone"] == found["new"]
    assert back["again"] == 0
    assert not back["continues"]
    same = told(run, "diff", made / "june.tar", made / "june.tar")
    assert (same["changes"], same["new"], same["gone"]) == ([], 0, 0)
    assert same["again"] == same["carried"] > 0


def test_diff_says_when_another_bundle_has_to_come_first(made: Path, run: Run, tmp_path: Path) -> None:
    july = Stock(made / "july", max_size="1GiB")
    since = ("--since-bundle", made / "july.tar.bundle.json")
    shutil.copytree(made / "july", tmp_path / "august")
    august = Stock(tmp_path / "august", max_size="1GiB")
    filled(august, b"three", b"DATA", "docker.io/library/nginx:1.26", *REFERENCES[1:])
    assert july.files() < august.files()
    exported(august, tmp_path / "august.tar", "--allow-missing", *since)
    code, out, _ = run("diff", made / "july.tar", tmp_path / "august.tar")
    assert code == 0
    assert "A is the parent of B" in out
    out = run("diff", made / "june.tar", tmp_path / "august.tar")[1]
    assert "another bundle has to come first" in out
