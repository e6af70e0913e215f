"""What commands read as images and lists: once each, in order, whatever of them is a file, a name or standard input."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

import pytest
import typer

from mirror.cli.inputs import Inputs, read_inputs
from mirror.errors import ListMalformed

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", None)


def inputs(*images: str, files: tuple[str, ...] = (), **more: Any) -> Inputs:
    told: dict[str, Any] = {"served": None, "default": "docker.io", "values": None, **more}
    return read_inputs(images, files, told["served"], default=told["default"], values=told["values"])


def wanted(found: Inputs) -> list[str]:
    return [str(one) for one in found.wanted]


def test_what_is_named_twice_is_wanted_once_where_it_stood_first(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("b:1\na:1\n")
    (tmp_path / "b.txt").write_text("docker.io/library/a:1\nc:1\n")
    found = inputs("a:1", files=("a.txt", "b.txt"))
    assert wanted(found) == [f"docker.io/library/{name}:1" for name in "abc"]
    assert [str(source) for source in found.sources] == ["a.txt: text list, 2 images", "b.txt: text list, 2 images"]


def test_an_image_of_two_platforms_is_wanted_for_both(tmp_path: Path) -> None:
    services = "".join(
        f"  s{n}: {{image: 'a:1', platform: linux/{arch}}}\n" for n, arch in enumerate(("amd64", "arm64"))
    )
    (tmp_path / "compose.yaml").write_text(f"services:\n{services}")
    found = inputs(files=("compose.yaml",))
    assert [[str(platform) for platform in one.platforms] for one in found.wanted] == [["linux/amd64"], ["linux/arm64"]]


def test_a_name_without_a_host_is_of_the_default_upstream() -> None:
    assert wanted(inputs("org/app:v1", default="quay.io")) == ["quay.io/org/app:v1"]


def test_a_value_that_is_given_stands_for_its_name(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("ARG VERSION\nFROM nginx:${VERSION}\n")
    assert wanted(inputs(files=("Dockerfile",), values=["VERSION=1.27"])) == ["docker.io/library/nginx:1.27"]
    assert len(inputs(files=("Dockerfile",)).unread) == 1


def test_standard_input_comes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pipe(io.RawIOBase):
        left = b"nginx:1.26\nnginx:1.27\n"

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            piece, self.left = self.left[: min(size, 5)], self.left[min(size, 5) :]
            return piece

    class Stdin:
        buffer = Pipe()
        closed = False

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr(sys, "stdin", Stdin())
    assert wanted(inputs()) == ["docker.io/library/nginx:1.26", "docker.io/library/nginx:1.27"]


def test_a_terminal_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    with pytest.raises(typer.BadParameter, match="no image is named"):
        inputs()


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text("colour: red\n")
    with pytest.raises(ListMalformed) as refused:
        inputs("a", files=("odd.yaml", "absent.txt", "."))
    assert [line.split(" ")[0] for line in str(refused.value).splitlines()] == ["odd.yaml", "absent.txt", "."]
    with pytest.raises(typer.BadParameter) as wrong:
        inputs("UPPER", "b:c:d", "odd.yaml")
    assert len(str(wrong.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("holds", "said"),
    [
        ("Chart.yaml", "helm template some | mirror prefetch -"),
        ("kustomization.yaml", "kustomize build some | mirror prefetch -"),
        ("images.txt", "name a file in it"),
    ],
)
def test_a_directory_is_no_list_and_what_makes_one_of_it_is_said(holds: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / holds).touch()
    with pytest.raises(ListMalformed, match="some is a directory") as refused:
        inputs(files=("some",))
    assert said in str(refused.value)


def test_history_needs_no_other_input() -> None:
    assert inputs(served="30d").since is not None
    assert inputs(served="forever").since == 0.0
    with pytest.raises(typer.BadParameter, match="no unit"):
        inputs(served="30")
