"""Finds and runs the C++ compiler, and explains its failures.

It runs without a shell, so that paths may contain spaces and quotes, and without ninja or setuptools.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FLAGS = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-O2", "-march=native"]
FLAGS += ["-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"]
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
    command = [*compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull]
    try:
        macros = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return macros.decode(errors="replace")


def build_library(compiler: list[str], sources: list[Path], linked: list[str], library: Path, log: Path) -> None:
    """Compiles all sources in parallel and links them, with temporary files in the library's folder.

    Raises:
        BuildError: with the compiler's reason and the path of `log`, to which its output is written.
    """
    folder = library.parent
    objects = [str(folder / f"{source.stem}.o") for source in sources]
    compilations = [
        [*compiler, *FLAGS, "-c", str(source), "-o", compiled]
        for source, compiled in zip(sources, objects, strict=True)
    ]
    _run(compilations, folder, log)
    _run([[*compiler, "-shared", *objects, *linked, "-o", str(library)]], folder, log)


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
