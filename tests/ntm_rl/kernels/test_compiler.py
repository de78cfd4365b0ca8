"""The choice of the compiler, its command line and its error messages, with scripts as compilers."""

import ctypes
import os
import time
from pathlib import Path

import pytest

from compiler_scripts import REAL, script
from ntm_rl.kernels import compiler
from ntm_rl.kernels.compiler import BuildError, build_library, find_compiler, target_of

pytestmark = pytest.mark.skipif(REAL is None, reason="no compiler")


def build(folder: Path) -> Path:
    """Builds two sources that need each other with the compiler that is found."""
    (folder / "answer.cpp").write_text(
        'int half();\nextern "C" __attribute__((visibility("default"))) int answer() { return 2 * half(); }\n'
    )
    (folder / "half.cpp").write_text("int half() { return 21; }\n")
    library = folder / "answer.so"
    build_library(find_compiler(), [folder / "answer.cpp", folder / "half.cpp"], library, folder / "build.log", [])
    return library


def reason(folder: Path) -> str:
    """Returns why a build fails."""
    with pytest.raises(BuildError) as raised:
        build(folder)
    return str(raised.value)


@pytest.mark.parametrize("command", ["c++ -DA=1", "env c++", "'{path}' -DA='b c'", "{path}", " c++ "])
def test_cxx_may_have_arguments_and_spaces(monkeypatch, tmp_path, command):
    path = script(tmp_path / "my tools" / "c++", f'exec "{REAL}" "$@"')
    monkeypatch.setenv("CXX", command.format(path=path))
    assert "#define __VERSION__" in target_of(find_compiler())
    assert ctypes.CDLL(str(build(tmp_path))).answer() == 42


@pytest.mark.parametrize("present", ["c++", "g++", "clang++"])
def test_a_compiler_is_found_under_each_usual_name(monkeypatch, tmp_path, present):
    monkeypatch.delenv("CXX", raising=False)
    path = script(tmp_path / present, f'PATH="{os.environ["PATH"]}" exec "{REAL}" "$@"')
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_compiler() == [path]
    assert ctypes.CDLL(str(build(tmp_path))).answer() == 42


@pytest.mark.parametrize("command", ["no-such-compiler", "no-such-compiler -m64", "'c++", "/tmp"])
def test_a_missing_compiler_in_cxx_is_named(monkeypatch, command):
    monkeypatch.setenv("CXX", command)
    with pytest.raises(BuildError, match=f"CXX = .*{command}.*: no such program"):
        find_compiler()


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (["In file included from a.cpp:1:", "b.h:7:10: fatal error: x.h: No such file", "compilation terminated."], 1),
        (["[1/4] c++ -c a.cpp", "a.cpp:3:1: warning: unused", "a.cpp:9:2: error: 'x' was not declared"], 2),
        (["/usr/bin/ld: cannot find -ltorch: No such file or directory", "collect2: error: ld returned 1"], 0),
        (
            [
                "/usr/bin/ld: a.o: in function `f':",
                "a.cpp:(.text+0x5): undefined reference to `g()'",
                "collect2: error:",
            ],
            1,
        ),
        (["/usr/bin/ld: warning: x.o: missing .note", "/usr/bin/ld: final link failed: No space left on device"], 1),
        (["ld.lld: error: undefined symbol: g()", "clang: error: linker command failed"], 0),
        (["/tmp/cc1.s: Assembler messages:", "/tmp/cc1.s:3: Error: no such instruction"], 1),
        (["c++: fatal error: Killed signal terminated program cc1plus", "compilation terminated."], 0),
        (["no licence", "", "the wrapper ends"], 2),
    ],
)
def test_the_reason_is_the_line_with_the_error(monkeypatch, tmp_path, output, line):
    (tmp_path / "output").write_text("\n".join(output))
    monkeypatch.setenv("CXX", script(tmp_path / "c++", f"cat '{tmp_path}/output'; exit 1"))
    log = tmp_path / "build.log"
    assert reason(tmp_path) == f"{output[line]}; full log: {log}"
    assert log.read_text().endswith("\n".join(output))


@pytest.mark.parametrize(
    ("text", "message"),
    [("exit 3", "exited with status 3 and without output"), ("kill -9 $$", "the compiler was killed by SIGKILL")],
)
def test_a_failure_without_output_is_described(monkeypatch, tmp_path, text, message):
    monkeypatch.setenv("CXX", script(tmp_path / "c++", text))
    assert message in reason(tmp_path)


def test_a_program_that_cannot_run_is_named(monkeypatch, tmp_path):
    path = tmp_path / "c++"
    path.write_bytes(b"\x7fELF of another machine")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    assert reason(tmp_path) == f"cannot run {path}: Exec format error"


def test_a_failing_source_stops_the_others_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", script(tmp_path / "c++", 'case "$*" in *half.cpp*) exec sleep 60;; esac; exit 1'))
    started = time.monotonic()
    reason(tmp_path)
    assert time.monotonic() - started < 30


def test_a_compiler_that_times_out_is_killed_with_its_children(monkeypatch, tmp_path):
    monkeypatch.setattr(compiler, "BUILD_TIMEOUT", 2.0)
    path = script(tmp_path / "c++", f"sleep 600 & echo $! >> '{tmp_path}/started'; wait")
    monkeypatch.setenv("CXX", path)
    assert reason(tmp_path).startswith(f"the compiler did not finish within 2 s: {path} ")
    started = (tmp_path / "started").read_text().split()
    assert len(started) == 2
    deadline = time.monotonic() + 30
    while any(_is_running(Path("/proc") / process) for process in started):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_running(process: Path) -> bool:
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_temporary_files_of_the_compiler_are_in_the_librarys_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", script(tmp_path / "tools" / "c++", 'echo "error: $TMPDIR"; exit 1'))
    assert reason(tmp_path).startswith(f"error: {tmp_path};")
