"""Bundles in parts: what `sha256sum` and `cat` make of them, and what is said when one is missing or damaged."""

from __future__ import annotations

import random
import shutil
import subprocess
from io import BufferedReader
from pathlib import Path

import pytest

from mirror.airgap.bundle import parts as parts_module
from mirror.airgap.bundle.parts import MOST, PartsWriter, is_part, joined
from mirror.airgap.bundle.source import open_source
from mirror.errors import BundleRefused, ConfigError, MirrorError

WHOLE = random.Random(3).randbytes(25_000)  # noqa: S311  # any bytes
SIZE = 7_000


def written(path: Path, data: bytes = WHOLE, size: int = SIZE, step: int = 3_000) -> list[Path]:
    with PartsWriter(path, size) as writer:
        for start in range(0, len(data), step):
            assert writer.write(memoryview(data)[start : start + step]) == len(data[start : start + step])
        return list(writer.finish())


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Four parts of `WHOLE`."""
    return written(tmp_path / "b.tar")[:-1]


def checksums(tmp_path: Path) -> Path:
    return tmp_path / "b.tar.sha256"


def test_the_usual_programs_check_the_parts_and_join_them(tmp_path: Path, parts: list[Path]) -> None:
    assert names(tmp_path) == ["b.tar.001", "b.tar.002", "b.tar.003", "b.tar.004", "b.tar.sha256"]
    subprocess.run(["sha256sum", "--strict", "-c", "b.tar.sha256"], cwd=tmp_path, check=True, capture_output=True)
    whole = subprocess.run(["sh", "-c", "cat b.tar.[0-9]*"], cwd=tmp_path, check=True, capture_output=True)
    assert whole.stdout == WHOLE
    assert [part.stat().st_size for part in parts] == [7000, 7000, 7000, 4000]


@pytest.mark.parametrize("step", [1, 6_999, 7_000, 7_001, 25_000])
@pytest.mark.parametrize("length", [0, 1, 6_999, 7_000, 7_001, 21_000])
def test_parts_do_not_depend_on_how_they_are_written(tmp_path: Path, length: int, step: int) -> None:
    paths = written(tmp_path / "b", WHOLE[:length], SIZE, step)
    assert len(paths) - 1 == max(1, -(-length // SIZE))
    assert joined(paths).read() == WHOLE[:length]


def test_parts_are_taken_in_any_order_from_anywhere(tmp_path: Path, parts: list[Path]) -> None:
    other = tmp_path / "other stick"
    other.mkdir()
    moved = parts[1].rename(other / parts[1].name)
    assert joined([parts[3], moved, parts[0], parts[2]]).read() == WHOLE
    assert joined([checksums(tmp_path), moved]).read() == WHOLE


def test_the_parts_that_lie_beside_need_not_be_named(tmp_path: Path, parts: list[Path]) -> None:
    assert joined([checksums(tmp_path)]).read() == WHOLE
    assert joined([parts[2]]).read() == WHOLE
    assert joined([parts[2], parts[2]]).read() == WHOLE
    checksums(tmp_path).unlink()
    assert joined([parts[0]]).read() == WHOLE


def test_missing_parts_are_named(tmp_path: Path, parts: list[Path]) -> None:
    parts[1].unlink()
    parts[3].unlink()
    with pytest.raises(BundleRefused, match=r"b\.tar\.002, b\.tar\.004"):
        joined([parts[0]])
    checksums(tmp_path).unlink()
    with pytest.raises(BundleRefused, match=r"missing: b\.tar\.002;"):
        joined([parts[0], parts[2]])


def test_a_part_from_two_places_is_named(tmp_path: Path, parts: list[Path]) -> None:
    (tmp_path / "copy").mkdir()
    copy = Path(shutil.copy(parts[1], tmp_path / "copy"))
    with pytest.raises(BundleRefused, match="part 2 is there twice"):
        joined([*parts, copy])
    linked = tmp_path / "copy" / "link"
    linked.mkdir()
    (linked / parts[1].name).symlink_to(parts[1])
    assert joined([*parts, linked / parts[1].name]).read() == WHOLE  # the same file


def test_a_damaged_part_is_named_when_it_was_read(tmp_path: Path, parts: list[Path]) -> None:
    body = bytearray(parts[2].read_bytes())
    body[100] ^= 1
    parts[2].write_bytes(body)
    stream = BufferedReader(joined(parts))
    assert stream.read(14_000) == WHOLE[:14_000]
    with pytest.raises(BundleRefused, match=r"b\.tar\.003 is damaged.*copy it again"):
        stream.read()
    piecemeal = BufferedReader(joined([tmp_path / "b.tar.sha256"]))
    with pytest.raises(BundleRefused, match="damaged"):
        list(iter(lambda: piecemeal.read(100), b""))


def test_parts_are_called_as_the_whole_and_it_is_known_how_much_there_is_to_read(tmp_path: Path) -> None:
    written(tmp_path / "b.tar")
    for given in (["b.tar"], ["b.tar.003", "b.tar.001"], ["b.tar.sha256"]):
        with open_source([str(tmp_path / name) for name in given]) as source:
            assert (source.label, source.size) == (str(tmp_path / "b.tar"), len(WHOLE))


def test_whoever_finds_something_wrong_within_a_part_can_have_it_named(tmp_path: Path, parts: list[Path]) -> None:
    body = bytearray(parts[1].read_bytes())
    body[100] ^= 1
    parts[1].write_bytes(body)
    stream = joined(parts)
    assert stream.read(7_000) == WHOLE[:7_000]
    stream.settle()  # between two parts there is nothing to settle
    assert len(stream.read(200)) == 200
    with pytest.raises(BundleRefused, match=r"b\.tar\.002 is damaged.*copy it again"):
        stream.settle()
    (tmp_path / "b.tar.sha256").unlink()
    unknown = joined(parts)
    assert len(unknown.read(200)) == 200
    unknown.settle()  # nobody knows its checksum


@pytest.mark.parametrize(("number", "size"), [(1, 6_999), (2, 6_000), (2, 7_100), (4, 7_001)])
def test_a_part_that_was_not_copied_whole_is_named_before_anything_is_read(
    parts: list[Path], number: int, size: int
) -> None:
    parts[number - 1].write_bytes(bytes(size))
    with pytest.raises(BundleRefused, match="not copied whole"):
        joined(parts)


def test_what_is_no_part_or_of_another_bundle_is_refused(tmp_path: Path, parts: list[Path]) -> None:
    other = written(tmp_path / "c.tar")
    with pytest.raises(BundleRefused, match="different bundles"):
        joined([*parts, other[0]])
    for name in ("b.tar", "b.tar.000", "b.tar.01", "b.tar.0001x"):
        with pytest.raises(BundleRefused, match="is no part"):
            joined([*parts, tmp_path / name])
    extra = tmp_path / "b.tar.005"
    extra.write_bytes(b"x")
    with pytest.raises(BundleRefused, match="which has 4"):
        joined([*parts, extra])
    assert joined(parts).read() == WHOLE


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense\n",
        b"0" * 64 + b"  ../b.tar.001\n",
        b"0" * 64 + b"  /etc/b.tar.001\n",
        b"0" * 64 + b"  c.tar.001\n",
        b"0" * 63 + b"  b.tar.001\n",
        b"0" * 64 + b"  b.tar.000\n",
        b"0" * 64 + b"  b.tar.001\n" + b"1" * 64 + b"  b.tar.001\n",
        b"x" * (2 << 20),
    ],
)
def test_a_list_of_checksums_that_is_none_is_refused(tmp_path: Path, parts: list[Path], body: bytes) -> None:
    checksums(tmp_path).write_bytes(body)
    with pytest.raises(BundleRefused, match=r"b\.tar\.sha256"):
        joined(parts)


def test_a_list_that_windows_or_another_program_wrote_is_read(tmp_path: Path, parts: list[Path]) -> None:
    text = checksums(tmp_path).read_text().replace("  ", " *").upper().replace("B.TAR", "b.tar")
    checksums(tmp_path).write_bytes(text.replace("\n", "\r\n").encode())
    assert joined(parts).read() == WHOLE


def test_two_lists_that_differ_are_refused(tmp_path: Path, parts: list[Path]) -> None:
    (tmp_path / "old").mkdir()
    old = written(tmp_path / "old" / "b.tar", WHOLE[::-1])
    with pytest.raises(BundleRefused, match="different bundles"):
        joined([checksums(tmp_path), old[-1], *parts])


def test_parts_that_are_not_finished_leave_nothing_behind(tmp_path: Path) -> None:
    with PartsWriter(tmp_path / "b.tar", SIZE) as writer:
        writer.write(WHOLE)
        assert names(tmp_path) == [f"b.tar.00{number}.part" for number in range(1, 5)]
    assert names(tmp_path) == []


def test_two_exports_do_not_write_the_same_parts(tmp_path: Path) -> None:
    with PartsWriter(tmp_path / "b.tar", SIZE) as writer:
        writer.write(WHOLE)
        with pytest.raises(MirrorError, match="another export"):
            PartsWriter(tmp_path / "b.tar", SIZE)
        paths = writer.finish()
    assert joined(paths).read() == WHOLE


def test_what_a_killed_export_left_is_replaced(tmp_path: Path) -> None:
    for number in range(1, 6):
        (tmp_path / f"b.tar.00{number}.part").write_bytes(bytes(50_000))
    assert joined(written(tmp_path / "b.tar")).read() == WHOLE
    assert not any(name.endswith(".part") for name in names(tmp_path))


def test_a_bundle_of_the_same_name_is_replaced_with_all_its_parts(tmp_path: Path, parts: list[Path]) -> None:
    kept = tmp_path / "b.tar.txt"
    kept.touch()
    written(tmp_path / "b.tar", WHOLE[:8_000])
    assert names(tmp_path) == ["b.tar.001", "b.tar.002", "b.tar.sha256", "b.tar.txt"]
    assert joined([parts[0]]).read() == WHOLE[:8_000]


def test_parts_whose_numbers_would_not_sort_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST == 999
    monkeypatch.setattr(parts_module, "MOST", 9)
    with PartsWriter(tmp_path / "b.tar", 1) as writer:
        writer.write(bytes(9))
        with pytest.raises(ConfigError, match="larger size"):
            writer.write(b"x")
    assert names(tmp_path) == []


def test_a_part_is_known_by_its_name() -> None:
    assert is_part(Path("b.tar.001"))
    assert is_part(Path("b.tar.zst.sha256"))
    assert not is_part(Path("b.tar"))
    assert not is_part(Path("b.tar.01"))
    assert not is_part(Path("b.tar.1000"))
