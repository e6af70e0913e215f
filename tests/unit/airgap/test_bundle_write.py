"""`mirror export`, in process: what a bundle holds, what it looks like, and when there is none."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from mirror.airgap.bundle.manifest import BundleManifest
from mirror.cli.main import main
from tests.unit.airgap.shelf import COSIGN, Shelf, digests, signature_tag, whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NGINX, APP = "docker.io/library/nginx", "quay.io/org/app"


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    with Shelf(tmp_path) as shelf:
        yield shelf


class Run:
    def __init__(self, shelf: Shelf, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.shelf = shelf
        self.out = directory / "bundle.tar"
        self._capsys = capsys

    def __call__(self, *arguments: str | Path, out: Path | None = None) -> tuple[int, str, str]:
        words = ["export", *map(str, arguments), "--config", str(self.shelf.file)]
        with pytest.raises(SystemExit) as raised:
            main([*words, *([] if "-o" in words else ["-o", str(out or self.out)])])
        assert isinstance(raised.value.code, int)
        told = self._capsys.readouterr()
        return raised.value.code, told.out, told.err

    def well(self, *arguments: str | Path, out: Path | None = None) -> Bundle:
        code, _, err = self(*arguments, out=out)
        assert code == 0, err
        return Bundle((out or self.out).read_bytes())


class Bundle:
    """A tar archive as others read it."""

    def __init__(self, body: bytes) -> None:
        with tarfile.open(fileobj=io.BytesIO(body)) as tar:
            self.members = tar.getmembers()
            self.files = {member.name: tar.extractfile(member).read() for member in self.members}  # type: ignore[union-attr]
        self.manifest = BundleManifest.load(self.files["bundle.json"])
        for name, content in self.files.items():
            if name.startswith("blobs/"):
                assert hashlib.sha256(content).hexdigest() == name.rpartition("/")[2]

    @property
    def contents(self) -> set[str]:
        return {f"sha256:{name[13:]}" for name in self.files if name.startswith("blobs/sha256/")}

    @property
    def names(self) -> list[str]:
        return [image.reference for image in self.manifest.images]

    def json(self, name: str) -> Any:
        return json.loads(self.files[name])


@pytest.fixture
def run(shelf: Shelf, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(shelf, tmp_path, capsys)


# --- what it holds ---------------------------------------------------------------------------------------------------


def test_a_bundle_holds_all_that_its_images_need_once_each(shelf: Shelf, run: Run) -> None:
    one = shelf.image(NGINX, "1", b"base", b"one")
    two = shelf.image(APP, "v2", b"base", b"two")
    bundle = run.well("*")
    assert bundle.names == [f"{NGINX}:1", f"{APP}:v2"]
    assert bundle.contents == whole(shelf, one, two) == {content.digest for content in bundle.manifest.contents}
    assert [content.size for content in bundle.manifest.contents] == [
        shelf.file_of(content.digest).stat().st_size for content in bundle.manifest.contents
    ]


def test_only_what_is_named_goes_in(shelf: Shelf, run: Run) -> None:
    wanted = shelf.image(NGINX, "1", b"one")
    shelf.image(NGINX, "2", b"two")
    shelf.image(APP, "1", b"app")
    assert run.well("nginx:1").contents == whole(shelf, wanted)


def test_the_same_content_is_the_same_bytes_from_any_store(
    shelf: Shelf, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill(shelf: Shelf, *, backwards: bool) -> None:
        steps = [
            lambda: shelf.image(NGINX, "1", b"base", b"one"),
            lambda: shelf.image(APP, "v2", b"base", b"two"),
            lambda: shelf.artifact(APP, "chart", "application/vnd.cncf.helm.chart.content.v1.tar+gzip", b"chart"),
        ]
        for step in steps[::-1] if backwards else steps:
            step()

    fill(shelf, backwards=False)
    run.well("*")
    first = run.out.read_bytes()
    run.well("*")
    assert run.out.read_bytes() == first
    (tmp_path / "other").mkdir()
    with Shelf(tmp_path / "other") as other:
        fill(other, backwards=True)
        other.image(APP, "unasked", b"more")
        again = Run(other, tmp_path / "other", capsys)
        again.well("nginx", f"{APP}:v2", f"{APP}:chart")
        assert again.out.read_bytes() == first


def test_an_archive_has_no_times_no_owners_and_its_files_in_order(shelf: Shelf, run: Run) -> None:
    shelf.image(NGINX, "1", b"base", b"one")
    shelf.image(APP, "1", b"app")
    bundle = run.well("*")
    for member in bundle.members:
        assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
        assert member.isreg()
        assert member.mode == 0o644
    names = [member.name for member in bundle.members]
    assert names[:4] == ["bundle.json", "oci-layout", "index.json", "manifest.json"]
    kinds = {content.digest: bool(content.media_type) for content in bundle.manifest.contents}
    order = [f"sha256:{name[13:]}" for name in names[4:]]
    assert order == sorted(order, key=lambda digest: (not kinds[digest], digest))
    assert len(run.out.read_bytes()) % tarfile.RECORDSIZE == 0


def test_a_platform_that_is_here_is_taken_and_the_index_stays_as_it_is(shelf: Shelf, run: Run) -> None:
    amd = shelf.image(APP, None, b"amd")
    arm = shelf.image(APP, None, b"arm", platform="linux/arm64/v8", here=False)
    index = shelf.index(APP, "v1", amd, arm)
    bundle = run.well(APP)
    [image] = bundle.manifest.images
    assert (image.digest, image.platforms) == (index["digest"], ("linux/amd64",))
    assert bundle.contents == digests(index) | whole(shelf, amd)


def test_a_platform_that_is_asked_for_and_absent_is_named_and_nothing_is_written(shelf: Shelf, run: Run) -> None:
    amd = shelf.image(APP, None, b"amd")
    arm = shelf.image(APP, None, b"arm", platform="linux/arm64", here=False)
    shelf.index(APP, "v1", amd, arm)
    code, out, err = run(APP, "--platform", "linux/arm64,linux/amd64")
    assert (code, out) == (1, "")
    assert f"{APP}:v1: linux/arm64: its manifest {arm['digest']} is not here" in err
    assert list(run.out.parent.glob("bundle*")) == []
    assert run(APP, "--platform", "linux/s390x")[2].startswith(
        f"{APP}:v1: there is no image of it for linux/s390x, but for linux/amd64, linux/arm64"
    )


def test_a_platform_that_upstream_does_not_offer_beside_one_that_is_here_is_a_note(shelf: Shelf, run: Run) -> None:
    shelf.index(APP, "v1", shelf.image(APP, None, b"amd"))
    code, _, err = run(APP, "--platform", "linux/arm64,linux/amd64")
    assert code == 0
    assert "there is no image of it for linux/arm64" in err


def test_only_the_platforms_that_are_asked_for_are_carried(shelf: Shelf, run: Run) -> None:
    amd = shelf.image(APP, None, b"amd")
    arm = shelf.image(APP, None, b"arm", platform="linux/arm64/v8")
    index = shelf.index(APP, "v1", amd, arm)
    bundle = run.well(APP, "--platform", "linux/arm64")
    assert bundle.contents == digests(index) | whole(shelf, arm)
    assert bundle.manifest.images[0].platforms == ("linux/arm64/v8",)


def test_an_attestation_goes_with_its_image_and_not_without(shelf: Shelf, run: Run) -> None:
    def attestation(of: dict[str, Any]) -> dict[str, Any]:
        manifest = shelf.image(APP, None, b"about " + of["digest"].encode(), platform="unknown/unknown")
        annotations = {"vnd.docker.reference.digest": of["digest"], "vnd.docker.reference.type": "attestation-manifest"}
        return {**manifest, "annotations": annotations}

    amd, arm = shelf.image(APP, None, b"amd"), shelf.image(APP, None, b"arm", platform="linux/arm64")
    of_amd, of_arm = attestation(amd), attestation(arm)
    index = shelf.index(APP, "v1", amd, arm, of_amd, of_arm)
    bundle = run.well(APP, "--platform", "linux/amd64")
    assert bundle.contents == digests(index) | whole(shelf, amd, of_amd)
    assert bundle.manifest.images[0].platforms == ("linux/amd64",)


def test_a_rewritten_index_lists_what_is_carried_and_nothing_else(shelf: Shelf, run: Run) -> None:
    amd = shelf.image(APP, None, b"amd")
    arm = shelf.image(APP, None, b"arm", platform="linux/arm64", here=False)
    index = shelf.index(APP, "v1", amd, arm)
    shelf.artifact(APP, signature_tag(index), COSIGN, b"signs the old index", subject=index)
    bundle = run.well(APP, "--index", "rewrite")
    [image] = bundle.manifest.images
    assert bundle.manifest.rewritten
    assert image.digest != index["digest"]
    assert [child["digest"] for child in bundle.json(f"blobs/sha256/{image.digest[7:]}")["manifests"]] == [
        amd["digest"]
    ]
    assert bundle.contents == {image.digest} | whole(shelf, amd)


def test_an_index_of_which_all_is_carried_is_not_rewritten(shelf: Shelf, run: Run) -> None:
    index = shelf.index(APP, "v1", shelf.image(APP, None, b"amd"))
    bundle = run.well(APP, "--index", "rewrite")
    assert (bundle.manifest.images[0].digest, bundle.manifest.rewritten) == (index["digest"], False)


def test_an_index_that_lists_itself_thousands_of_times_over_is_followed_once(shelf: Shelf, run: Run) -> None:
    level = shelf.image(APP, None, b"amd")
    for _ in range(4):
        level = shelf.index(APP, None, *[{key: level[key] for key in ("mediaType", "digest", "size")}] * 300)
    shelf.index(APP, "deep", level)
    assert len(run.well(f"{APP}:deep").contents) == 8
    shelf.index(APP, "deeper", shelf.index(APP, None, level))
    assert "none of its platforms is wholly here" in run(f"{APP}:deeper")[2]


# --- what refers to an image -----------------------------------------------------------------------------------------


def test_signatures_and_what_is_listed_as_referring_go_along(shelf: Shelf, run: Run) -> None:
    amd = shelf.image(APP, None, b"amd")
    index = shelf.index(APP, "v1", amd)
    by_tag = shelf.artifact(APP, signature_tag(index), COSIGN, b"cosign")
    of_child = shelf.artifact(APP, signature_tag(amd, "att"), COSIGN, b"of the child")
    by_subject = shelf.artifact(APP, None, "application/spdx+json", b"sbom", subject=index)
    of_that = shelf.artifact(APP, None, "application/vnd.example", b"of the sbom", subject=by_subject)
    shelf.listing(APP, index, by_subject)
    bundle = run.well(f"{APP}:v1")
    subjects = {image.reference: image.subject for image in bundle.manifest.images}
    assert subjects == {
        f"{APP}:v1": "",
        f"{APP}:{signature_tag(index)}": index["digest"],
        f"{APP}:{signature_tag(amd, 'att')}": amd["digest"],
        f"{APP}@{by_subject['digest']}": index["digest"],
        f"{APP}@{of_that['digest']}": by_subject["digest"],
    }
    assert bundle.contents == whole(shelf, index, amd, by_tag, of_child, by_subject, of_that)


def test_referrers_can_be_left_at_home_or_chosen_by_their_type(shelf: Shelf, run: Run) -> None:
    image = shelf.image(APP, "v1", b"amd")
    shelf.artifact(APP, signature_tag(image), COSIGN, b"cosign")
    shelf.artifact(APP, None, "application/spdx+json", b"sbom", subject=image)
    assert run.well(f"{APP}:v1", "--referrers", "none").contents == whole(shelf, image)
    chosen = run.well(f"{APP}:v1", "--referrers", "application/spdx+json").manifest.images
    assert [one.subject for one in chosen] == ["", image["digest"]] or [one.subject for one in chosen] == [
        image["digest"],
        "",
    ]
    assert len(run.well(f"{APP}:v1", "--referrers", "all").names) == 3


def test_a_referrer_that_is_listed_and_absent_is_a_note_unless_all_were_asked_for(shelf: Shelf, run: Run) -> None:
    image = shelf.image(APP, "v1", b"amd")
    absent = shelf.image(APP, None, b"absent", here=False)
    shelf.listing(APP, image, {**absent, "artifactType": COSIGN})
    code, _, err = run(APP)
    assert code == 0
    assert absent["digest"] in err
    code, _, err = run(APP, "--referrers", "all")
    assert code == 1
    assert f"{APP}@{absent['digest']}: it refers to {image['digest']}" in err
    assert run(APP, "--referrers", "application/spdx+json")[0] == 0


def test_a_signature_in_another_repository_stays_there(shelf: Shelf, run: Run) -> None:
    image = shelf.image(APP, "v1", b"amd")
    shelf.image(NGINX, "v1", b"amd")
    shelf.artifact(NGINX, signature_tag(image), COSIGN, b"of another")
    assert run.well(APP).names == [f"{APP}:v1"]


def test_what_another_registry_holds_is_not_given_out_because_it_is_named(shelf: Shelf, run: Run) -> None:
    secret = shelf.blob("private.example/team/app", b"secret")
    image = shelf.image("evil.example/x", "v1", b"x")
    document = json.loads(shelf.file_of(image).read_bytes())
    shelf.manifest("evil.example/x", "v2", {**document, "layers": [secret]})
    code, _, err = run("evil.example/x:v2")
    assert code == 1
    assert "1 of its 2 blobs are not here" in err


def test_a_manifest_of_another_repository_is_not_given_out_for_its_digest(
    shelf: Shelf, run: Run, tmp_path: Path
) -> None:
    secret = shelf.image("private.example/team/app", "v1", b"secret")
    (tmp_path / "list.txt").write_text(f"evil.example/x@{secret['digest']}\n")
    code, _, err = run("--from", tmp_path / "list.txt")
    assert (code, f"its manifest {secret['digest']} is not here" in err) == (1, True)


# --- layouts for others ----------------------------------------------------------------------------------------------


def test_an_index_has_an_entry_for_each_name_with_both_annotations(shelf: Shelf, run: Run) -> None:
    shelf.image(NGINX, "1", b"one")
    shelf.image(NGINX, "latest", b"one")
    entries = run.well("nginx").json("index.json")["manifests"]
    assert len({entry["digest"] for entry in entries}) == 1
    for entry, tag in zip(entries, ("1", "latest"), strict=True):
        assert entry["annotations"] == {
            "io.containerd.image.name": f"{NGINX}:{tag}",
            "org.opencontainers.image.ref.name": f"{NGINX}:{tag}",
        }


def test_docker_gets_each_image_once_with_all_its_names(shelf: Shelf, run: Run) -> None:
    image = shelf.image(NGINX, "1", b"base", b"one")
    shelf.image(NGINX, "latest", b"base", b"one")
    document = json.loads(shelf.file_of(image).read_bytes())
    [entry] = run.well("nginx").json("manifest.json")
    assert entry == {
        "Config": f"blobs/sha256/{document['config']['digest'][7:]}",
        "RepoTags": [f"{NGINX}:1", f"{NGINX}:latest"],
        "Layers": [f"blobs/sha256/{layer['digest'][7:]}" for layer in document["layers"]],
    }


def test_docker_gets_the_platform_that_was_named_first(shelf: Shelf, run: Run) -> None:
    arm = shelf.image(APP, None, b"arm", platform="linux/arm64/v8")
    amd = shelf.image(APP, None, b"amd")
    shelf.index(APP, "v1", arm, amd)

    def loaded(*arguments: str) -> str:
        [entry] = run.well(APP, *arguments).json("manifest.json")
        return entry["Config"].rpartition("/")[2]

    configs = {
        one: json.loads(shelf.file_of(of).read_bytes())["config"]["digest"][7:]
        for one, of in (("arm", arm), ("amd", amd))
    }
    assert loaded() == configs["amd"]
    assert loaded("--platform", "linux/arm64,linux/amd64") == configs["arm"]
    assert loaded("--platform", "linux/amd64,linux/arm64") == configs["amd"]


def test_what_is_no_container_image_is_neither_named_nor_loaded_beside_some(shelf: Shelf, run: Run) -> None:
    image = shelf.image(APP, "v1", b"amd")
    shelf.artifact(APP, "chart", "application/vnd.cncf.helm.chart.content.v1.tar+gzip", b"chart")
    shelf.artifact(APP, signature_tag(image), COSIGN, b"cosign")
    bundle = run.well(APP)
    entries = bundle.json("index.json")["manifests"]
    assert len(entries) == len(bundle.names) == 3
    assert [entry["digest"] for entry in entries if "annotations" in entry] == [image["digest"]]
    assert len(bundle.json("manifest.json")) == 1
    alone = run.well(f"{APP}:chart")
    assert "manifest.json" not in alone.files
    assert alone.json("index.json")["manifests"][0]["annotations"]["io.containerd.image.name"] == f"{APP}:chart"


def test_an_image_without_a_tag_is_named_by_its_digest(shelf: Shelf, run: Run) -> None:
    image = shelf.image(APP, None, b"amd")
    bundle = run.well(APP)
    assert bundle.names == [f"{APP}@{image['digest']}"]
    assert bundle.json("manifest.json")[0]["RepoTags"] is None
    assert run.well(f"{APP}@{image['digest']}").manifest == bundle.manifest


def test_part_of_a_larger_image_is_found_by_its_digest(shelf: Shelf, run: Run) -> None:
    amd, arm = shelf.image(APP, None, b"amd"), shelf.image(APP, None, b"arm", platform="linux/arm64")
    shelf.index(APP, "v1", amd, arm)
    assert run.well(f"{APP}@{arm['digest']}").contents == whole(shelf, arm)


def test_a_signature_is_found_by_its_tag(shelf: Shelf, run: Run) -> None:
    image = shelf.image(APP, "v1", b"amd")
    signature = shelf.artifact(APP, signature_tag(image), COSIGN, b"cosign")
    assert run.well(f"{APP}:{signature_tag(image)}").contents == whole(shelf, signature)


# --- lists -----------------------------------------------------------------------------------------------------------


def test_a_list_is_exported_and_what_it_misses_is_named_with_its_place(shelf: Shelf, run: Run, tmp_path: Path) -> None:
    one = shelf.image(NGINX, "1.2.3", b"one")
    shelf.image(NGINX, "2.0.0", b"two")
    shelf.index(NGINX, "half", shelf.image(NGINX, None, b"arm", here=False))
    (tmp_path / "list.txt").write_text("nginx:>=1.2 <2\nredis:7\nnginx:half\n")
    code, out, err = run("--from", tmp_path / "list.txt")
    assert (code, out) == (1, "")
    assert "list.txt:2: docker.io/library/redis:7: it is not here" in err
    assert f"list.txt:3: {NGINX}:half: none of its platforms is wholly here" in err
    assert not run.out.exists()
    bundle = run.well("--from", tmp_path / "list.txt", "--allow-missing")
    assert bundle.contents == whole(shelf, one)


def test_a_name_that_is_asked_for_as_two_things_is_refused(shelf: Shelf, run: Run, tmp_path: Path) -> None:
    old = shelf.image(NGINX, "1", b"old")
    shelf.image(NGINX, "1", b"new")
    (tmp_path / "list.txt").write_text(f"nginx:1@{old['digest']}\nnginx:1\n")
    code, _, err = run("--from", tmp_path / "list.txt")
    assert code == 1
    assert "it is asked for twice" in err


# --- increments ------------------------------------------------------------------------------------------------------


def test_an_increment_carries_what_is_new_and_lists_everything(shelf: Shelf, run: Run, tmp_path: Path) -> None:
    first = shelf.image(NGINX, "1", b"base" * 1000, b"one")
    june = run.well("nginx", out=tmp_path / "june.tar")
    second = shelf.image(NGINX, "2", b"base" * 1000, b"two")
    for parent in ("june.tar.bundle.json", "june.tar"):
        july = run.well("nginx", "--since-bundle", tmp_path / parent, out=tmp_path / "july.tar")
        assert july.manifest.parent == june.manifest.identity
        assert july.contents == whole(shelf, second) - whole(shelf, first)
        assert {one.digest for one in july.manifest.contents} == whole(shelf, first, second)
    # What june's parent had, august's has no need of either.
    august = run.well("nginx", "--since-bundle", tmp_path / "july.tar", out=tmp_path / "august.tar")
    assert august.contents == set()


def test_docker_is_not_told_of_an_image_of_which_a_layer_is_not_carried(shelf: Shelf, run: Run, tmp_path: Path) -> None:
    shelf.image(NGINX, "1", b"base")
    run.well("nginx", out=tmp_path / "june.tar")
    shelf.image(NGINX, "2", b"base", b"two")
    shelf.image(NGINX, "3", b"three", platform="linux/arm64")
    july = run.well("nginx", "--since-bundle", tmp_path / "june.tar", out=tmp_path / "july.tar")
    assert [entry["RepoTags"] for entry in july.json("manifest.json")] == [[f"{NGINX}:3"]]


def test_what_is_no_bundle_has_no_increment(shelf: Shelf, run: Run, tmp_path: Path) -> None:
    shelf.image(NGINX, "1", b"base")
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("etc"))
    code, _, err = run("nginx", "--since-bundle", tmp_path / "other.tar")
    assert code == 1
    assert "neither a bundle that a mirror wrote nor the .bundle.json file" in err
    assert run("nginx", "--since-bundle", tmp_path / "none.tar")[0] == 1


def test_what_was_imported_is_exported_again_byte_for_byte(
    shelf: Shelf, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    amd = shelf.image(APP, None, b"amd")
    index = shelf.index(APP, "v1", amd, shelf.image(APP, None, b"arm", platform="linux/arm64", here=False))
    shelf.artifact(APP, signature_tag(index), COSIGN, b"cosign")
    sbom = shelf.artifact(APP, None, "application/spdx+json", b"sbom", subject=amd)
    shelf.artifact(APP, None, COSIGN, b"signed sbom", subject=sbom)
    shelf.image(NGINX, None, b"untagged")
    shelf.artifact("ghcr.io/charts/x", "1.0.0", "application/vnd.cncf.helm.chart.content.v1.tar+gzip", b"chart")
    first = run.well("*")
    assert len(first.names) == 6
    (tmp_path / "other").mkdir()
    other = Shelf(tmp_path / "other")
    with pytest.raises(SystemExit) as raised:
        main(["import", str(run.out), "--config", str(other.file)])
    assert raised.value.code == 0
    with other:
        Run(other, tmp_path / "other", capsys).well("*")
    assert (tmp_path / "other/bundle.tar").read_bytes() == run.out.read_bytes()


# --- where to --------------------------------------------------------------------------------------------------------


def test_every_way_out_holds_the_same(shelf: Shelf, run: Run, tmp_path: Path) -> None:
    shelf.image(NGINX, "1", os.urandom(3_000_000))
    run.well("nginx")
    plain = run.out.read_bytes()
    files = Bundle(plain).files
    run("nginx", out=tmp_path / "b.tar.zst")
    assert zstandard.ZstdDecompressor().stream_reader((tmp_path / "b.tar.zst").read_bytes()).read() == plain
    run("nginx", "--split", "1MiB", out=tmp_path / "parts.tar")
    parts = sorted(tmp_path.glob("parts.tar.???"))
    assert len(parts) == 3
    assert b"".join(part.read_bytes() for part in parts) == plain
    subprocess.run(["sha256sum", "--check", "--quiet", "parts.tar.sha256"], cwd=tmp_path, check=True)
    run("nginx", "-o", f"{tmp_path}/tree/")
    tree = tmp_path / "tree"
    assert {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()} == files
    assert {path.name for path in tmp_path.glob("*.bundle.json")} == {
        f"{name}.bundle.json" for name in ("bundle.tar", "b.tar.zst", "parts.tar", "tree")
    }


def test_on_standard_output_there_is_the_bundle_alone(
    shelf: Shelf, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    shelf.image(NGINX, "1", b"one")
    for out in (str(tmp_path / "bundle.tar"), "-"):
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as raised:
            main(["export", "nginx", "-o", out, "--config", str(shelf.file)])
        assert raised.value.code == 0
    told, err = capfdbinary.readouterr()
    assert told == (tmp_path / "bundle.tar").read_bytes()
    assert b"identity sha256:" in err


def test_a_bundle_in_a_directory_is_replaced_by_the_next_and_nothing_else_is(
    shelf: Shelf, run: Run, tmp_path: Path
) -> None:
    shelf.image(NGINX, "1", b"one")
    run("nginx", "-o", f"{tmp_path}/tree/")
    shelf.image(NGINX, "2", b"two")
    (tmp_path / "tree.part").mkdir()
    (tmp_path / "tree.part/left behind").touch()
    assert run("nginx:2", "-o", str(tmp_path / "tree"))[0] == 0
    assert "1 of" not in (tmp_path / "tree/bundle.json").read_text()
    assert [image["reference"] for image in json.loads((tmp_path / "tree/bundle.json").read_bytes())["images"]] == [
        f"{NGINX}:2"
    ]
    assert not list(tmp_path.glob("*.part"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/precious").touch()
    code, _, err = run("nginx", "-o", str(tmp_path / "mine"))
    assert code == 2
    assert "holds precious, which is no part of a bundle" in err
    assert (tmp_path / "mine/precious").exists()


def test_a_device_is_written_to_and_not_replaced(shelf: Shelf, run: Run, tmp_path: Path) -> None:
    shelf.image(NGINX, "1", b"one")
    run.well("nginx")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        assert run("nginx", out=pipe)[0] == 0
        # The writing end is open until the process ends; what came so far is the whole.
        assert reader.stdout is not None
        assert reader.stdout.read(run.out.stat().st_size) == run.out.read_bytes()
        reader.kill()
    assert pipe.is_fifo()


def test_a_link_stays_a_link(shelf: Shelf, run: Run, tmp_path: Path) -> None:
    shelf.image(NGINX, "1", b"one")
    (tmp_path / "stick").mkdir()
    run.out.symlink_to(tmp_path / "stick/june.tar")
    run.well("nginx")
    assert run.out.is_symlink()
    assert (tmp_path / "stick/june.tar").is_file()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nginx", "-o", "{}/none/x.tar"), "is no directory; make it first"),
        (("nginx", "-o", "{}/x.tar.gz"), "name it x.tar.zst"),
        (("nginx", "-o", "{}/tree/", "--split", "1GiB"), "neither compressed nor split"),
        (("nginx", "-o", "-", "--split", "1GiB"), "--split makes files"),
        (("nginx", "-o", "{}/x.tar", "--split", "4G"), "could mean two sizes"),
        (("nginx", "-o", "{}/x.tar", "--split", "10KiB"), "is too little for a part"),
        (("nginx", "-o", "{}/x.tar", "--index", "drop"), "neither keep nor rewrite"),
        (("nginx", "-o", "{}/x.tar", "--platform", "arm"), "'arm' is not a platform"),
        (("nginx", "-o", "{}/x.tar", "--sign"), "--sign needs a key"),
        (("-o", "{}/x.tar"), "no image is named"),
    ],
)
def test_what_is_asked_wrongly_is_refused_with_what_would_be_right(
    arguments: tuple[str, ...], told: str, run: Run, tmp_path: Path
) -> None:
    code, _, err = run(*(one.format(tmp_path) for one in arguments))
    assert (code, told in err) == (2, True), err


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_damaged_content_ends_the_export_and_is_put_aside(shelf: Shelf, run: Run, tmp_path: Path) -> None:
    layer = shelf.blob(NGINX, b"layer" * 1000)
    shelf.image(NGINX, "1", b"layer" * 1000)
    shelf.damage(layer)
    code, _, err = run("nginx")
    assert code == 1
    assert f"{layer['digest']} was damaged on disk and is put aside; mirror verify --repair" in err
    assert not list(tmp_path.glob("bundle*"))
    assert not shelf.file_of(layer).exists()
    code, _, err = run("nginx")
    assert (code, "1 of its 2 blobs are not here" in err) == (1, True)


def test_a_damaged_manifest_is_missing_and_put_aside(shelf: Shelf, run: Run) -> None:
    image = shelf.image(NGINX, "1", b"one")
    shelf.damage(image)
    code, _, err = run("nginx")
    assert code == 1
    assert "was damaged on disk" in err
    assert not shelf.file_of(image).exists()


def test_a_truncated_blob_ends_the_export(shelf: Shelf, run: Run, tmp_path: Path) -> None:
    layer = shelf.blob(NGINX, b"layer" * 1000)
    shelf.image(NGINX, "1", b"layer" * 1000)
    path = shelf.file_of(layer)
    path.chmod(0o600)
    os.truncate(path, 100)
    assert run("nginx")[0] == 1
    assert not list(tmp_path.glob("bundle*"))


def test_what_a_killed_export_left_is_replaced(shelf: Shelf, run: Run, tmp_path: Path) -> None:
    shelf.image(NGINX, "1", b"one")
    run.well("nginx")
    (tmp_path / "bundle.tar.part").write_bytes(b"x" * 1_000_000)
    first = run.out.read_bytes()
    run.well("nginx")
    assert run.out.read_bytes() == first
    assert not list(tmp_path.glob("*.part"))


def test_two_exports_do_not_write_one_file(shelf: Shelf, run: Run, tmp_path: Path) -> None:
    shelf.image(NGINX, "1", b"one")
    part = tmp_path / "bundle.tar.part"
    part.write_bytes(b"of the other")
    with subprocess.Popen(["flock", part, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdin.write(b"x")
        other.stdin.flush()
        other.stdout.read(1)  # it has the lock
        code, _, err = run("nginx")
        other.stdin.close()
    assert (code, "is being written by another export" in err) == (1, True)
    assert part.read_bytes() == b"of the other"


def test_a_report_in_json_has_everything(shelf: Shelf, run: Run) -> None:
    image = shelf.image(NGINX, "1", b"one")
    code, out, err = run("nginx", "--json")
    told = json.loads(out)
    assert (code, err) == (0, "")
    assert told["files"] == [str(run.out), f"{run.out}.bundle.json"]
    assert told["identity"] == Bundle(run.out.read_bytes()).manifest.identity
    assert told["images"][0]["digest"] == image["digest"]
    assert told["carried_bytes"] == told["contents_bytes"] > 0
    code, out, _ = run("redis", "--json")
    told = json.loads(out)
    assert (code, told["written"], told["missing"][0]["reference"]) == (1, False, "redis")
