"""Building, caching and loading the library of kernels, with small sources and compilers."""

import ctypes
import fcntl
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from compiler_scripts import REAL, script
from ntm_rl.cores.ntm import Ntm
from ntm_rl.errors import InputError
from ntm_rl.kernels import loader

SOURCES = {  # one uses torch's library, and the linker must join the two
    "answer": 'int half();\nextern "C" __attribute__((visibility("default"))) int answer() { return 2 * half(); }\n',
    "half": 'extern "C" int aoti_torch_device_type_cpu();\nint half() { return 21 + aoti_torch_device_type_cpu(); }\n',
}

pytestmark = pytest.mark.skipif(REAL is None, reason="no compiler")


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """An empty cache folder, with sources that compile quickly."""
    for name, text in SOURCES.items():
        (tmp_path / f"{name}.cpp").write_text(text)
    monkeypatch.setattr(loader, "SOURCES", sorted(tmp_path.glob("*.cpp")))
    monkeypatch.setattr(loader, "HEADERS", [])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    loader.load_library.cache_clear()
    yield tmp_path
    loader.load_library.cache_clear()


def load() -> bool:
    loader.load_library.cache_clear()
    return loader.load_kernels()


def answer(library: Path) -> int:
    return ctypes.CDLL(str(library)).answer()


def failing() -> str:
    """Returns the one warning of a load that fails."""
    with pytest.warns(UserWarning, match="could not be built; the eager cores are used") as warned:
        assert not load()
        assert not loader.load_kernels()
    assert len(warned) == 1
    return str(warned[0].message)


@pytest.mark.parametrize("name", ["my drive", 'it\'s (a) "test" & $HOME; #1', "größe 大", "-Wl,-x"])
def test_a_compiler_on_path_and_folders_of_any_name_suffice(folder, monkeypatch, name):
    programs = folder / "programs"
    programs.mkdir()
    for program in ("c++", "as", "ld"):
        (programs / program).symlink_to(shutil.which(program))
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(folder / name / "cache"))
    (folder / name).mkdir()
    (folder / name / "torch").symlink_to(loader.TORCH)
    monkeypatch.setattr(loader, "TORCH", folder / name / "torch")
    for source in loader.SOURCES:
        shutil.move(source, folder / name)
    monkeypatch.setattr(loader, "SOURCES", sorted((folder / name).glob("*.cpp")))
    for module in ("ninja", "setuptools", "torch.utils.cpp_extension"):
        monkeypatch.setitem(sys.modules, module, None)
    assert load()
    assert loader._library().is_relative_to(folder / name)
    assert answer(loader._library()) == 42


def test_a_build_prints_one_line_and_leaves_only_the_library(folder, capfd):
    assert load()
    assert load()
    library = loader._library()
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"building the C++ kernels (once, 10 to 20 seconds) in {library.parent}\n"
    assert {path.name for path in library.parent.iterdir()} == {
        library.name, f"{library.stem}.sha256", "building"
    }  # fmt: skip


def test_a_build_needs_no_standard_error(folder, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert load()


def cut(keep):
    return lambda good: good[:keep]


@pytest.mark.parametrize(
    "damage",
    [cut(0), cut(1), cut(4096), cut(-1), lambda good: good[:5000] + bytes(100) + good[5100:], lambda good: good * 2],
)
def test_a_damaged_library_is_rebuilt(folder, damage):
    assert load()
    library = loader._library()
    good = library.read_bytes()
    library.unlink()  # the process has it mapped
    library.write_bytes(damage(good))
    assert load()
    assert library.read_bytes() == good


@pytest.mark.parametrize("left", ["library", "record"])
def test_an_incomplete_build_is_not_loaded(folder, left):
    assert load()
    library = loader._library()
    (library if left == "record" else loader.record_of(library)).unlink()
    assert not loader._is_complete(library)
    assert load()
    assert loader._is_complete(library)


def test_a_complete_library_that_does_not_load_is_rebuilt_once(folder):
    library = loader._library()
    library.parent.mkdir(parents=True)
    library.write_bytes(b"of another system")
    loader.record_of(library).write_text(hashlib.sha256(b"of another system").hexdigest())
    assert load()
    assert answer(library) == 42


def test_a_new_library_that_does_not_load_is_one_warning(folder, monkeypatch):
    path = script(folder / "c++", f'case "$*" in *-shared*) for o; do :; done; echo x > "$o";; *) "{REAL}" "$@";; esac')
    monkeypatch.setenv("CXX", path)
    assert "the new library does not load: " in failing()


# Counts what it compiles and links; its linker makes the file at once, as ld does, and fills it when it is let.
SLOW = """case "$*" in
*-dM*) exec "{real}" "$@";;
*-shared*) echo link >> "{folder}/log"; for out; do :; done; : > "$out"
  until test -e "{folder}/release"; do sleep 0.05; done;;
*) echo compile >> "{folder}/log";;
esac
exec "{real}" "$@"
"""


@pytest.fixture
def slow_compiler(folder, monkeypatch):
    monkeypatch.setenv("CXX", script(folder / "slow" / "c++", SLOW.format(real=REAL, folder=folder)))
    yield
    (folder / "release").touch()


def start(folder: Path) -> "subprocess.Popen[str]":
    code = (
        "import ctypes, sys; from pathlib import Path; from ntm_rl.kernels import loader\n"
        "loader.SOURCES, loader.HEADERS = sorted(Path(sys.argv[1]).glob('*.cpp')), []\n"
        "print(loader.load_kernels(), ctypes.CDLL(str(loader._library())).answer())"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_link(folder: Path) -> None:
    deadline = time.monotonic() + 100
    while not (folder / "log").exists() or "link" not in (folder / "log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_processes_wait_while_another_one_links_the_library(folder, slow_compiler):
    processes = [start(folder)]
    wait_for_link(folder)
    processes += [start(folder) for _ in range(2)]
    for late in processes[1:]:
        assert late.stderr.readline() == "waiting for another process that is building the C++ kernels\n"
    (folder / "release").touch()
    assert {process.communicate(timeout=100)[0] for process in processes} == {"True 42\n"}
    assert sorted((folder / "log").read_text().split()) == ["compile", "compile", "link"]


def test_a_killed_build_blocks_no_other_and_leaves_no_files(folder, slow_compiler):
    process = start(folder)
    wait_for_link(folder)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    library = loader._library()
    assert list(library.parent.glob("build-*")) and not library.exists()
    (folder / "release").touch()
    process.communicate()
    assert load()
    assert answer(library) == 42
    assert not list(library.parent.glob("build-*"))


def test_waiting_for_another_build_times_out(folder, monkeypatch, capfd):
    monkeypatch.setattr(loader, "BUILD_TIMEOUT", 0.3)
    library = loader._library()
    library.parent.mkdir(parents=True)
    with (library.parent / "building").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert load()
    assert capfd.readouterr().err.startswith("waiting for another process that is building the C++ kernels\n")


def test_a_file_system_without_locks_works(folder, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert load()


def unwritable(folder: Path, monkeypatch) -> None:
    (folder / "file").touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(folder / "file" / "cache"))


def nowhere(folder: Path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "/proc/nothing")


def homeless(folder: Path, monkeypatch) -> None:
    for name in ("TORCH_EXTENSIONS_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(_):
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)


def noexec(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_NOEXEC if (folder / "cache") in path.parents else 0)
    )


@pytest.mark.parametrize("spoil", [unwritable, nowhere, homeless, noexec])
def test_without_a_cache_folder_the_library_goes_to_a_private_temporary_folder(folder, monkeypatch, capfd, spoil):
    monkeypatch.chdir(folder)
    spoil(folder, monkeypatch)
    assert load()
    private = folder / f"ntm_rl_{os.getuid()}"
    library = loader._library(private)
    assert answer(library) == 42 and private.stat().st_mode & 0o777 == 0o700
    assert "go to a temporary folder (set TORCH_EXTENSIONS_DIR to a permanent one): " in capfd.readouterr().err
    assert not (folder / "~").exists()
    built = library.stat().st_mtime_ns
    assert load()
    assert library.stat().st_mtime_ns == built


def test_a_temporary_folder_that_others_can_write_to_is_not_used(folder, monkeypatch):
    unwritable(folder, monkeypatch)
    (folder / f"ntm_rl_{os.getuid()}").mkdir()
    (folder / f"ntm_rl_{os.getuid()}").chmod(0o777)
    assert f"others can write to {folder}" in failing()


def test_a_tilde_in_the_cache_folder_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "~/cache")
    assert loader._library().is_relative_to(folder / "home" / "cache")
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert loader._library().is_relative_to(folder / "home" / ".cache" / "torch_extensions")


X86 = "processor\t: 0\nvendor_id\t: A\ncpu family\t: 6\nmodel\t\t: 1\nflags\t\t: sse avx2 avx512f\ncpu MHz\t: 2000.1\n"
ARM = "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd\nCPU part\t: 0xd0c\n"


def library_on(monkeypatch, cpuinfo: str | None) -> Path:
    read = Path.read_text

    def read_text(self, *args, **options):
        if str(self) != "/proc/cpuinfo":
            return read(self, *args, **options)
        if cpuinfo is None:
            raise FileNotFoundError(self)
        return cpuinfo

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", read_text)
        return loader._library()


def test_different_cpus_have_different_libraries(folder, monkeypatch):
    machines = [
        X86, X86.replace(" avx512f", ""), X86.replace("family\t: 6", "family\t: 7"),
        ARM, ARM.replace("asimd", "asimd sve"), ARM.replace("0xd0c", "0xd40"), None,
    ]  # fmt: skip
    assert len({library_on(monkeypatch, machine) for machine in machines}) == len(machines)


def test_cpu_information_that_varies_does_not_change_the_librarys_name(folder, monkeypatch):
    second = X86.replace("processor\t: 0", "processor\t: 1").replace("2000.1", "3411.7")
    assert library_on(monkeypatch, X86) == library_on(monkeypatch, X86 + second)


def test_the_librarys_name_depends_on_the_compilers_version_and_target_not_its_path(folder, monkeypatch):
    def with_compiler(name: str, macros: str) -> Path:
        monkeypatch.setenv("CXX", script(folder / name, f"echo '{macros}'"))
        return loader._library()

    first = with_compiler("a", "#define __VERSION__ 12")
    assert with_compiler("b", "#define __VERSION__ 12") == first
    assert with_compiler("b", "#define __VERSION__ 13") != first
    assert with_compiler("b", "#define __VERSION__ 12\n#define __AVX512F__ 1") != first


def test_the_librarys_name_depends_on_the_code_not_on_the_version_of_torch(folder, monkeypatch):
    first = loader._library()
    monkeypatch.setattr(torch, "__version__", "2.10.0")
    assert loader._library() == first
    loader.SOURCES[0].write_text("int changed;")
    assert loader._library() != first


def test_an_existing_library_needs_no_compiler(folder, monkeypatch):
    assert load()
    built = loader._library()
    monkeypatch.setenv("PATH", "")
    assert load()
    assert loader._library() == built


def test_without_a_compiler_one_warning_has_the_fix_and_cores_are_eager(folder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    core, strict = Ntm(3), Ntm(3, backend="fused")
    with pytest.warns(UserWarning, match=r"up to six times slower: no C\+\+ compiler on PATH; install one"):
        core(torch.zeros(1, 1, 3), core.initial_state(1))
    core(torch.zeros(1, 1, 3), core.initial_state(1))  # no second warning, which pytest would raise
    with pytest.raises(InputError, match="backend = 'fused': the kernel could not be built"):
        strict(torch.zeros(1, 1, 3), strict.initial_state(1))


def test_a_compiler_that_fails_is_quoted_in_one_warning(folder, monkeypatch):
    monkeypatch.setenv("CXX", script(folder / "c++", "echo a.cpp:9:2: error: why; exit 1"))
    log = loader._library().parent / "build.log"
    assert failing().endswith(f"up to six times slower: a.cpp:9:2: error: why; full log: {log}")
    assert "error: why" in log.read_text()
