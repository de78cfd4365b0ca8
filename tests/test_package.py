"""The package as others get it: what is listed, what the wheel holds, what an import loads."""

import ast
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_LINES, MAX_BODY = 400, 60


def python(code: str, folder: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)


def test_the_listed_packages_are_the_folders_that_hold_modules():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = set()
    for top, prefix in (
        ("ntm_rl", "ntm_rl"),
        ("envs", "ntm_rl.envs"),
        ("agents", "ntm_rl.agents"),
        ("configs", "ntm_rl.configs"),
    ):
        for file in (ROOT / top).rglob("*.py"):
            found.add(".".join([prefix, *file.parent.relative_to(ROOT / top).parts]))
    # Walking ntm_rl/ does not follow the three symlinks; their folders are walked on their own.
    assert set(listed) == {name for name in found if "__pycache__" not in name}


def modules(*tops: str) -> Iterator[Path]:
    """All modules below the top-level folders; symbolic links are not followed."""
    for top in tops:
        yield from sorted((ROOT / top).rglob("*.py"))


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its signature and its docstring."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return function.end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("top", ["ntm_rl", "envs", "agents", "tests"])
def test_no_file_and_no_function_is_too_long(top):
    too_long = []
    for path in modules(top):
        text = path.read_text()
        if (count := len(text.splitlines())) > MAX_LINES:
            too_long.append(f"{path}: {count} lines, of at most {MAX_LINES}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and body_lines(node) > MAX_BODY:
                too_long.append(f"{path}:{node.lineno}: {node.name} has more than {MAX_BODY} lines")
    assert too_long == []


def test_the_folders_of_the_tests_are_those_of_the_code():
    tests = {path.parent.relative_to(ROOT / "tests") for path in modules("tests")}
    code = {path.parent.relative_to(ROOT) for path in modules("ntm_rl", "envs", "agents")}
    assert tests - code == {Path(), Path("devices"), Path("reliability"), Path("support")}


@pytest.mark.parametrize("name", ["envs", "agents"])
def test_the_folders_cannot_be_imported_under_a_second_name(name):
    result = python(f"import {name}")
    assert result.returncode != 0
    assert f"import this package as ntm_rl.{name}, not as {name}" in result.stderr


def test_importing_the_package_registers_ids_and_loads_nothing_heavy():
    code = (
        "import sys, ntm_rl, gymnasium; assert 'ntm_rl/CartPoleNoVelocity-v0' in gymnasium.registry; "
        "print([name for name in ('torch', 'stable_baselines3', 'wandb', 'popgym') if name in sys.modules])"
    )
    assert python(code).stdout.strip() == "[]"


def test_public_names_load_on_first_use():
    import ntm_rl

    assert all(getattr(ntm_rl, name) is not None for name in ntm_rl.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ntm_rl.nothing


def test_public_names_are_listed_before_they_load():
    code = "import ntm_rl, sys; print(set(ntm_rl.__all__) <= set(dir(ntm_rl)), 'torch' in sys.modules)"
    assert python(code).stdout.strip() == "True False"


def test_policies_are_registered_by_name_in_recurrent_ppo():
    code = (
        "import ntm_rl.agents; from sb3_contrib import RecurrentPPO; "
        "print(type(RecurrentPPO('MlpNtmPolicy', 'CartPole-v1').policy).__name__)"
    )
    assert python(code).stdout.strip() == "MlpNtmPolicy"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from the sdist; without libraries, which would take longer than all tests of it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "CXX": "no-compiler"})
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_from_the_sdist_has_one_top_level_name_and_all_files(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"ntm_rl"}
    expected = {f"ntm_rl/{file.relative_to(ROOT)}" for top in ("envs", "agents") for file in (ROOT / top).rglob("*.py")}
    expected |= {f"ntm_rl/{file.relative_to(ROOT)}" for file in (ROOT / "configs").rglob("*.yaml")}
    expected |= {f"ntm_rl/{file.relative_to(ROOT)}" for file in (ROOT / "agents").rglob("*.csv")}
    expected |= {str(file.relative_to(ROOT)) for file in (ROOT / "ntm_rl").rglob("*.cpp")}
    assert expected | {"ntm_rl/py.typed", "ntm_rl/cores/ntm.py"} <= set(names)


def test_the_installed_wheel_trains_from_another_folder(wheel, tmp_path):
    """A virtual environment that sees this one's third-party packages, but this project only as the wheel."""
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    third_party = Path(__import__("torch").__file__).parents[1]
    # Not a .pth in the folder itself: that would run the editable install's finder of this project too.
    runner = (
        f"import sys; sys.path.append({str(third_party)!r}); from ntm_rl.agents.cli.main import main; import ntm_rl; "
    )
    runner += f"assert ntm_rl.__file__.startswith({str(site)!r}); sys.exit(main(sys.argv[1:]))"
    arguments = ["train", "popgym/repeat_first_easy", "total_timesteps=512", "n_envs=4", "ppo.n_steps=64"]
    arguments += ["ppo.batch_size=64", "memory.ntm.hidden_size=8", "wandb=disabled", "--json"]
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    command = [str(environment / "bin" / "python"), "-I", "-c", runner, *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert '"timesteps": 512' in result.stdout
    assert [path.name for path in folder.iterdir()] == ["runs"]
