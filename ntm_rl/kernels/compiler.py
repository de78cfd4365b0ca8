"""Finds and runs the C++ compiler, and explains its failures.

It runs without a shell, so that paths may contain spaces and quotes, and without ninja or setuptools. The build of
wheels runs this file by its path, where neither this package nor PyTorch can be imported.
"""

import hashlib
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SOURCES = sorted(Path(__file__).parent.glob("*.cpp"))
HEADERS = sorted(Path(__file__).parent.glob("*.h"))
FLAGS = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-O2", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"]
# Levels of x86-64 for which wheels hold libraries, the best first, and the flags of /proc/cpuinfo that they require.
_V3 = {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}
LEVELS = {"x86-64-v4": _V3 | {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}, "x86-64-v3": _V3}
BUILD_TIMEOUT = 600.0  # seconds, also for waiting on another process's build


class BuildError(RuntimeError):
    """The library cannot be built; the message is one line of the compiler's output."""


def find_compiler() -> list[str]:
    """Returns the compiler's program and arguments: those of CXX, else the first of c++, g++ and clang++.

    Raises:
        BuildError: no compiler.
    """
    named = os.environ.get("CXX", "").strip()
    for program, *arguments in _commands_of(named) if named else [["c++"], ["g++"], ["clang++"]]:
        if found := shutil.which(program):
            return [found, *arguments]
    if named:
        raise BuildError(f"CXX = {named!r}: no such program; unset it or set it to a C++ compiler")
    raise BuildError("no C++ compiler on PATH; install one (apt install g++) or set CXX")


def _commands_of(command: str) -> Iterator[list[str]]:
    yield [command]  # a path may contain spaces
    with suppress(ValueError):  # unbalanced quotes
        yield shlex.split(command)


def target_of(compiler: list[str]) -> str:
    """Returns the compiler's predefined macros, with its version and the target of -march=native; empty if it fails."""
    command = [*compiler, *FLAGS, "-march=native", "-dM", "-E", "-x", "c++", os.devnull]
    try:
        macros = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return macros.decode(errors="replace")


def build_library(
    compiler: list[str], sources: list[Path], library: Path, log: Path, linked: list[str], target: str = "native"
) -> None:
    """Compiles all sources in parallel and links them, with temporary files in the library's folder.

    Args:
        compiler: The compiler's program and arguments.
        sources: C++ files.
        library: Path of the result.
        log: Path to which the compiler's output is written if it fails.
        linked: The linker's arguments with other libraries.
        target: Value of `-march`.

    Raises:
        BuildError: with the compiler's reason and the path of `log`, to which its output is written.
    """
    folder = library.parent
    objects = [str(folder / f"{source.stem}.o") for source in sources]
    compilations = [
        [*compiler, *FLAGS, f"-march={target}", "-c", str(source), "-o", compiled]
        for source, compiled in zip(sources, objects, strict=True)
    ]
    _run(compilations, folder, log)
    _run([[*compiler, "-shared", *objects, *linked, "-o", str(library)]], folder, log)


def hash_of(*parts: str | bytes) -> str:
    """Returns the SHA-256 of several texts."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def record_of(library: Path) -> Path:
    """Returns the file with the SHA-256 of a library, which is written last."""
    return library.with_suffix(".sha256")


def write_record(library: Path) -> None:
    """Writes the SHA-256 of a library."""
    record_of(library).write_text(hashlib.sha256(library.read_bytes()).hexdigest())


def prebuilt_library(folder: Path, level: str) -> Path:
    """Returns the path of a wheel's library for a level of x86-64; its name depends on the sources and flags."""
    code = [file.read_bytes() for file in SOURCES + HEADERS]
    return folder / f"{level}_{hash_of(*code, *FLAGS)[:16]}.so"


def prebuild(folder: Path) -> None:
    """Builds the libraries of a wheel; where that is impossible, prints why and builds none."""
    try:
        if (sys.platform, platform.machine()) != ("linux", "x86_64"):
            raise BuildError("they are built for Linux on x86-64 only")
        _prebuild(find_compiler(), folder)
    except BuildError as error:
        shutil.rmtree(folder, ignore_errors=True)
        print(f"no C++ kernels in this wheel, they are built on first use: {error}", file=sys.stderr, flush=True)


def _prebuild(compiler: list[str], folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        # An empty stand-in for PyTorch's library, whose name is all that the linker needs.
        torch, log = Path(temporary) / "libtorch_cpu.so", Path(temporary) / "build.log"
        command = [*compiler, "-shared", "-Wl,-soname,libtorch_cpu.so", "-x", "c++", os.devnull, "-o", str(torch)]
        _run([command], torch.parent, log)
        linked = ["-s", "-Wl,--no-as-needed", f"-L{temporary}", "-ltorch_cpu"]
        for level in LEVELS:
            print(f"building the C++ kernels for {level}", file=sys.stderr, flush=True)
            built = Path(temporary) / prebuilt_library(folder, level).name
            build_library(compiler, SOURCES, built, log, linked, level)
            shutil.copy(built, folder)
            write_record(folder / built.name)


def _run(commands: list[list[str]], folder: Path, log: Path) -> None:
    """Runs all commands in parallel; the first one that fails or times out stops the others."""
    deadline = time.monotonic() + BUILD_TIMEOUT
    with _running(commands, folder) as processes:
        for index, process in enumerate(processes):
            try:
                if process.wait(max(deadline - time.monotonic(), 0)) == 0:
                    continue
            except subprocess.TimeoutExpired:
                command = shlex.join(commands[index])
                raise BuildError(f"the compiler did not finish within {BUILD_TIMEOUT:.0f} s: {command}") from None
            output = _output(folder, index).read_text(errors="replace")
            log.write_text(f"{shlex.join(commands[index])}\n{output}", errors="replace")
            raise BuildError(f"{_reason(output, process.returncode)}; full log: {log}")


@contextmanager
def _running(commands: list[list[str]], folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    # Errors are searched for in English; files of a killed compiler are deleted with the folder.
    environment = {**os.environ, "LC_ALL": "C", "TMPDIR": str(folder)}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for index, command in enumerate(commands):
            with _output(folder, index).open("wb") as output:
                processes.append(_start(command, output.fileno(), environment))
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with its children: the driver starts the compiler
                process.wait()


def _start(command: list[str], output: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            process_group=0,
        )
    except OSError as error:
        raise BuildError(f"cannot run {command[0]}: {error.strerror}") from error


def _output(folder: Path, index: int) -> Path:
    return folder / f"{index}.log"


def _reason(output: str, returncode: int) -> str:
    """Returns the line with the error in a compiler's or linker's output."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    error = re.compile(r"error:|undefined reference|\bld(\.\w+)?: (?!.*(warning|in function))", re.IGNORECASE)
    if found := next(filter(error.search, lines), None):
        return found
    if returncode < 0:
        return f"the compiler was killed by {signal.Signals(-returncode).name}"
    return lines[-1] if lines else f"the compiler exited with status {returncode} and without output"
