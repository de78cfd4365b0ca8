"""Kernels that wheels hold: which CPUs use which library, what happens without one, and the wheel itself."""

import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from compiler_scripts import REAL
from ntm_rl.kernels import compiler, loader

ROOT = Path(__file__).parents[3]
SOURCE = 'extern "C" int aoti_torch_device_type_cpu();\nint zero() { return aoti_torch_device_type_cpu(); }\n'
BUILT = "built on this machine: "

pytestmark = pytest.mark.skipif(
    REAL is None or (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="no compiler for x86-64"
)


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """An installation with prebuilt libraries of a small source and an empty cache folder."""
    source = tmp_path / "zero.cpp"
    source.write_text(SOURCE)
    for module in (compiler, loader):
        monkeypatch.setattr(module, "SOURCES", [source])
        monkeypatch.setattr(module, "HEADERS", [])
    monkeypatch.setattr(loader, "PREBUILT", tmp_path / "prebuilt")
    monkeypatch.setattr(loader, "_cpu_flags", lambda: compiler.LEVELS["x86-64-v3"])
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    compiler.prebuild(tmp_path / "prebuilt")
    loader.load_library.cache_clear()
    yield tmp_path
    loader.load_library.cache_clear()


def test_a_prebuilt_library_needs_no_compiler_and_no_cache(folder, monkeypatch, capfd):
    monkeypatch.setenv("PATH", "")
    assert loader.load_kernels()
    assert loader.load_library() == (
        compiler.prebuilt_library(folder / "prebuilt", "x86-64-v3"),
        "prebuilt for x86-64-v3",
    )
    assert not (folder / "cache").exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (compiler.LEVELS["x86-64-v4"] | {"more"}, "prebuilt for x86-64-v4"),
        (compiler.LEVELS["x86-64-v4"] - {"avx512vl"}, "prebuilt for x86-64-v3"),
        (compiler.LEVELS["x86-64-v3"] - {"fma"}, f"{BUILT}the prebuilt kernels do not run on this CPU"),
        (set(), f"{BUILT}the prebuilt kernels do not run on this CPU"),
    ],
)
def test_the_library_is_the_best_for_the_cpu(folder, monkeypatch, flags, reason):
    monkeypatch.setattr(loader, "_cpu_flags", lambda: flags)
    level = reason.removeprefix("prebuilt for ")
    monkeypatch.setattr(loader.torch.ops, "load_library", lambda path: None)  # this CPU may lack instructions
    library = loader.load_library()
    assert library.reason == reason
    assert library.path.parent == folder / "prebuilt" or level == reason


def remove_all(prebuilt: Path) -> None:
    for path in prebuilt.iterdir():
        path.unlink()
    prebuilt.rmdir()


def cut(prebuilt: Path) -> None:
    for path in prebuilt.glob("*.so"):
        path.write_bytes(path.read_bytes()[:-1])


def replace(prebuilt: Path) -> None:
    for path in prebuilt.glob("*.so"):
        path.write_bytes(b"of another system")
        compiler.write_record(path)


def change_sources(prebuilt: Path) -> None:
    (prebuilt.parent / "zero.cpp").write_text(SOURCE + "int changed;\n")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (remove_all, "this installation has no prebuilt kernels"),
        (cut, "missing or damaged"),
        (replace, "the prebuilt kernels do not load: "),
        (change_sources, "missing or damaged"),
    ],
)
def test_without_a_usable_library_the_kernels_are_built(folder, spoil, reason):
    spoil(folder / "prebuilt")
    library = loader.load_library()
    assert library.path.is_relative_to(folder / "cache")
    assert library.reason.startswith(BUILT) and reason in library.reason


def no_compiler(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")


def failing_compiler(monkeypatch) -> None:
    monkeypatch.setenv("CXX", "false")


def other_machine(monkeypatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")


@pytest.mark.parametrize("spoil", [no_compiler, failing_compiler, other_machine])
def test_a_wheel_without_libraries_says_why(folder, monkeypatch, capfd, spoil):
    spoil(monkeypatch)
    capfd.readouterr()
    compiler.prebuild(folder / "prebuilt")
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("no C++ kernels in this wheel, they are built on first use: ")
    assert not (folder / "prebuilt").exists()


def test_the_declarations_of_pytorchs_functions_are_those_of_its_headers(tmp_path):
    headers = (
        "torch/csrc/inductor/aoti_torch/c/shim.h",
        "torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h",
        "torch/csrc/stable/c/shim.h",
    )
    source = tmp_path / "both.cpp"
    source.write_text("".join(f"#include <{header}>\n" for header in headers) + '#include "torch_abi.h"\n')
    kernels = ROOT / "ntm_rl" / "kernels"
    include = ["-isystem", str(loader.TORCH / "include"), "-I", str(kernels)]
    subprocess.run([REAL, *compiler.FLAGS, *include, "-fsyntax-only", str(source)], check=True)


COMPARE = """
import sys, torch
from ntm_rl.cores.registry import make_core
from ntm_rl.kernels import fused
torch.ops.load_library(sys.argv[1])
fused.load_kernels = lambda: True
for name in ("ntm_block", "ntm", "dnc", "lstm", "gru"):
    core, resets = make_core(name, 5, hidden_size=19), torch.rand(7, 3) < 0.2
    inputs, state = torch.randn(7, 3, 5), core.initial_state(3)
    found = core(inputs, state, resets)
    core.backend = "eager"
    torch.testing.assert_close(found, core(inputs, state, resets), rtol=0, atol=1e-5)
"""


@pytest.mark.slow
def test_the_wheel_trains_without_a_compiler_and_each_library_equals_the_eager_cores(tmp_path):
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("ntm_rl-*-py3-none-linux_x86_64.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    supported = [level for level, flags in compiler.LEVELS.items() if flags <= loader._cpu_flags()]
    prebuilt = site / "ntm_rl" / "kernels" / "prebuilt"
    assert {path.name.partition("_")[0] for path in prebuilt.glob("*.so")} == set(compiler.LEVELS)
    environment = {"HOME": str(tmp_path), "PATH": "/nowhere", "PYTHONPATH": os.pathsep.join([str(site), *sys.path])}
    options = {"cwd": tmp_path, "env": environment, "check": True, "text": True, "capture_output": True}
    for level in supported:
        (library,) = prebuilt.glob(f"{level}_*.so")
        subprocess.run([sys.executable, "-c", COMPARE, str(library)], **options)
    found = subprocess.run([sys.executable, "-m", "ntm_rl.kernels"], **options)
    assert found.stdout.endswith(f"(prebuilt for {supported[0]})\n") and found.stderr == ""
    train = [sys.executable, "-m", "ntm_rl", "train", "CartPole-v1", "total_timesteps=256", "ppo.n_steps=8"]
    trained = subprocess.run([*train, "wandb=disabled"], **options)
    assert "building the C++ kernels" not in trained.stderr and "could not be built" not in trained.stderr
