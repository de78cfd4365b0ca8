"""The folders and modules in CONTRIBUTING.md's table import only from those before them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Entry points import everything, lazily.
FACES = {"ntm_rl/__init__.py", "ntm_rl/__main__.py", "envs/__init__.py", "agents/__init__.py", "agents/__main__.py"}


def order():
    """The table's folders, and modules without their suffix, from top to bottom and from left to right."""
    lines = (ROOT / "CONTRIBUTING.md").read_text().splitlines()
    start = lines.index("| folder | what is in it |")
    end = lines.index("", start)
    return [name for line in lines[start + 2 : end] for name in re.findall(r"`([^`]+)`", line.split("|")[1])]


PLACES = {name: place for place, name in enumerate(order())}


def home(module):
    """The folder or module of the table in which a dotted name lies."""
    parts = module.split(".")
    parts = parts[1:] if parts[1:2] in (["envs"], ["agents"]) else parts
    return "/".join(parts[:2])


def modules() -> Iterator[Path]:
    for top in ("ntm_rl", "envs", "agents"):
        for path in sorted((ROOT / top).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if name not in FACES and not name.startswith(("ntm_rl/envs/", "ntm_rl/agents/", "ntm_rl/configs/")):
                yield path


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ntm_rl"):
            for alias in node.names:
                yield home(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.Import):
            yield from (home(alias.name) for alias in node.names if alias.name.startswith("ntm_rl."))


@pytest.mark.parametrize("path", [str(path.relative_to(ROOT)) for path in modules()])
def test_imports_go_one_way(path):
    mine = "/".join(Path(path).with_suffix("").parts[:2])
    assert mine in PLACES, "not in the table"
    for other in imported(ROOT / path):
        assert other in PLACES, f"imports {other}, which is not in the table"
        assert PLACES[other] < PLACES[mine] or other == mine, f"imports {other}, which does not come before it"


@pytest.mark.parametrize("name", sorted(PLACES))
def test_the_table_has_what_there_is(name):
    assert (ROOT / name).is_dir() or (ROOT / f"{name}.py").is_file()
