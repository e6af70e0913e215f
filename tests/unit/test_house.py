"""How the house is kept: what no type checker and no import contract sees."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "mirror").rglob("*.py"))
TEXTS = {".py", ".md", ".yaml", ".toml", ".sh"}
NAMED = {"Makefile"}
MOST_LINES = 400
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
# In pieces: this file is looked through too. A word may end like one of them (artifacts); a path may not.
OUTSIDE = re.compile("|".join((r"(?<![\w.-])/" + "work/", "shared" + "/fac" + "ts", r"(?<!\w)" + "fac" + "ts/")))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def looks_at_environment(source: str) -> list[int]:
    """Return the lines on which a module touches the environment of its process."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr=attr) if attr in ENVIRONMENT:
                lines.append(node.lineno)
            case ast.ImportFrom(module="os", names=names) if ENVIRONMENT & {name.name for name in names}:
                lines.append(node.lineno)
            case ast.Import(names=names) if any(name.name == "os" and name.asname for name in names):
                lines.append(node.lineno)  # under another name it could not be told from anything else
    return lines


def tracked() -> Iterator[Path]:
    """Yield the files of the repository: those that git knows, or all where there is no git."""
    listed = None
    if shutil.which("git") is not None:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed is not None and listed.returncode == 0:
        names = listed.stdout.decode().split("\0")
        yield from (path for name in names if name and (path := ROOT / name).is_file())
        return
    for top in ROOT.iterdir():
        if top.is_file():
            yield top
        elif not top.name.startswith(".") and top.name not in ("data", "build", "dist"):
            yield from (path for path in top.rglob("*") if path.is_file() and "results" not in path.parts)


def texts() -> list[Path]:
    return [path for path in tracked() if path.suffix in TEXTS or path.name in NAMED or ".ci" in path.parts]


def test_there_is_something_to_look_at() -> None:
    assert len(MODULES) > 50
    found = {named(path) for path in texts()}
    assert {"Makefile", "README.md", "mirror.yaml", "pyproject.toml", "mirror/cache/fill.py"} <= found


def test_only_the_command_line_looks_at_the_environment() -> None:
    """All else is told by the configuration, so that what is in force can be printed, and set in a test."""
    found = {
        named(path): lines
        for path in MODULES
        if ROOT / "mirror" / "cli" not in path.parents and (lines := looks_at_environment(path.read_text()))
    }
    assert found == {}


@pytest.mark.parametrize(
    "source", ["import os\nos.environ", "from os import getenv", "import os as o", "import os\nos.getenv('A')"]
)
def test_every_way_to_the_environment_is_seen(source: str) -> None:
    assert looks_at_environment(source)


def test_no_module_is_too_long_to_be_read_in_one_go() -> None:
    lengths = {named(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_nothing_outside_the_repository_is_pointed_to() -> None:
    """Whoever reads it later has the repository and nothing else."""
    found = [
        f"{named(path)}:{number}: {line.strip()[:100]}"
        for path in texts()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if OUTSIDE.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("line", "outside"),
    [
        ("see /" + "work/main", True),
        ("`shared" + "/fac" + "ts/X.md`", True),
        ("(fac" + "ts/SPEC.md)", True),
        ("https://example.org/artifacts/one", False),
        ("deploy/frame" + "work/x", False),
    ],
)
def test_a_path_is_told_from_a_word_that_ends_alike(line: str, outside: bool) -> None:
    assert bool(OUTSIDE.search(line)) == outside
