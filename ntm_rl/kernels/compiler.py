"""The machine's C++ compiler: which one it is, what it builds for, and why it fails.

It is called without a shell, so that paths may hold spaces and quotes, and without ninja or setuptools.
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

import torch

FLAGS = ["-std=c++20", "-fPIC", "-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"]
ABI = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
TORCH = Path(torch.__file__).parent
LONGEST_BUILD = 600.0  # seconds that compilers have, and that a process waits for another one's build


class BuildError(RuntimeError):
    """The library cannot be built: what the compiler said, in one line."""


def find_compiler() -> list[str]:
    """Returns the compiler's program and arguments: those of CXX, else the first of c++, g++ and clang++.

    Raises:
        BuildError: there is none.
    """
    named = os.environ.get("CXX", "").strip()
    for program, *arguments in _words_of(named) if named else [["c++"], ["g++"], ["clang++"]]:
        if found := shutil.which(program):
            return [found, *arguments]
    if named:
        raise BuildError(f"CXX = {named!r} names no program; unset it or name a C++ compiler")
    raise BuildError("there is no C++ compiler on PATH; install one (apt install g++) or name one in CXX")


def _words_of(command: str) -> Iterator[list[str]]:
    yield [command]  # a path may hold spaces
    with suppress(ValueError):  # an open quote
        yield shlex.split(command)


def target_of(compiler: list[str]) -> str:
    """Returns what the compiler predefines: its version and what -march=native means here; empty if it fails."""
    command = [*compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull]
    try:
        said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.decode(errors="replace")


def build_library(compiler: list[str], sources: list[Path], library: Path, log: Path) -> None:
    """Compiles all sources at the same time and links them; everything temporary lies in the library's folder.

    Raises:
        BuildError: with the compiler's reason and the path of `log`, which then holds all that it wrote.
    """
    folder = library.parent
    includes = [ABI, "-isystem", str(TORCH / "include")]
    objects = [str(folder / f"{source.stem}.o") for source in sources]
    compilations = [
        [*compiler, *FLAGS, *includes, "-c", str(source), "-o", compiled]
        for source, compiled in zip(sources, objects, strict=True)
    ]
    libraries = [f"-L{TORCH / 'lib'}", "-lc10", "-ltorch_cpu", "-ltorch"]
    _run(compilations, folder, log)
    _run([[*compiler, "-shared", *objects, *libraries, "-o", str(library)]], folder, log)


def _run(commands: list[list[str]], folder: Path, log: Path) -> None:
    """Runs all commands at the same time; the first that fails or does not end stops the others."""
    deadline = time.monotonic() + LONGEST_BUILD
    with _running(commands, folder) as processes:
        for index, process in enumerate(processes):
            try:
                if process.wait(max(deadline - time.monotonic(), 0)) == 0:
                    continue
            except subprocess.TimeoutExpired:
                command = shlex.join(commands[index])
                raise BuildError(f"the compiler does not end within {LONGEST_BUILD:.0f} s: {command}") from None
            output = _output(folder, index).read_text(errors="replace")
            log.write_text(f"{shlex.join(commands[index])}\n{output}", errors="replace")
            raise BuildError(f"{_reason(output, process.returncode)}; full log: {log}")


@contextmanager
def _running(commands: list[list[str]], folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    # Reasons are looked for in English, and what a killed compiler leaves is deleted with the folder.
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
                os.killpg(process.pid, signal.SIGKILL)  # and what it has started: the compiler behind its driver
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
        raise BuildError(f"{command[0]} does not run: {error.strerror}") from error


def _output(folder: Path, index: int) -> Path:
    return folder / f"{index}.log"


def _reason(output: str, returncode: int) -> str:
    """Returns the line of a compiler's or linker's output that says what is wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    error = re.compile(r"error:|undefined reference|\bld(\.\w+)?: (?!.*(warning|in function))", re.IGNORECASE)
    if found := next(filter(error.search, lines), None):
        return found
    if returncode < 0:
        return f"the compiler was killed by {signal.Signals(-returncode).name}"
    return lines[-1] if lines else f"the compiler ended with status {returncode} and said nothing"
