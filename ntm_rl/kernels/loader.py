"""Loads the C++ kernels: those of the wheel for this CPU, else those that are built on first use.

They are built once per machine for all processes.
"""

import hashlib
import os
import platform
import shutil
import stat
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from ntm_rl.kernels.compiler import (
    BUILD_TIMEOUT,
    FLAGS,
    HEADERS,
    LEVELS,
    SOURCES,
    BuildError,
    build_library,
    find_compiler,
    hash_of,
    prebuilt_library,
    record_of,
    target_of,
    write_record,
)

PREBUILT = Path(__file__).parent / "prebuilt"
TORCH = Path(torch.__file__).parent
# Lines of /proc/cpuinfo that identify a CPU model on x86, ARM, POWER and RISC-V; others differ between its cores.
CPU_LINES = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "Features", "cpu", "isa")


class Library(NamedTuple):
    """A library that is loaded: its path, and why it is used."""

    path: Path
    reason: str


def load_kernels() -> bool:
    """Loads `torch.ops.ntm_rl`; returns whether it succeeded, with a warning if not."""
    return load_library() is not None


@cache
def load_library() -> Library | None:
    """Loads the library of `torch.ops.ntm_rl`; returns None, with a warning, where there is none."""
    try:
        library, reason = _load_prebuilt()
        if library is None:
            library, reason = _load_built(), f"built on this machine: {reason}"
        return Library(library, reason)
    except Exception as error:  # the eager cores work without kernels
        cause = str(error).strip() or type(error).__name__
        consequence = "the eager cores are used, which are up to six times slower"
        warnings.warn(f"the C++ kernels could not be built; {consequence}: {cause}", stacklevel=3)
        return None


def _load_prebuilt() -> tuple[Path | None, str]:
    """Loads the wheel's library for this CPU; returns its path, or None, and the reason."""
    if not PREBUILT.is_dir():
        return None, "this installation has no prebuilt kernels"
    flags = _cpu_flags()
    level = next((level for level, required in LEVELS.items() if required <= flags), None)
    if level is None or platform.machine() != "x86_64":
        return None, "the prebuilt kernels do not run on this CPU"
    library = prebuilt_library(PREBUILT, level)
    if not _is_complete(library):
        return None, f"the prebuilt kernels {library} are missing or damaged"
    try:
        torch.ops.load_library(str(library))
    except OSError as error:  # built with a newer system library
        return None, f"the prebuilt kernels do not load: {error}"
    return library, f"prebuilt for {level}"


def _load_built() -> Path:
    try:
        return _load(_cache_folder())
    except OSError as error:
        _print(f"the C++ kernels go to a temporary folder (set TORCH_EXTENSIONS_DIR to a permanent one): {error}")
        return _load(_temporary_folder())


def _load(folder: Path) -> Path:
    library = _build_once(_library(folder))
    try:
        torch.ops.load_library(str(library))
    except OSError:  # built for other system libraries
        record_of(library).unlink(missing_ok=True)
        _load_new(_build_once(library))
    return library


def _load_new(library: Path) -> None:
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        raise BuildError(f"the new library does not load: {error}") from error


def _cache_folder() -> Path:
    """Returns torch's folder of extensions.

    Raises:
        OSError: no home folder.
    """
    named, cache_home = os.environ.get("TORCH_EXTENSIONS_DIR"), os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(named) if named else Path(cache_home or "~/.cache") / "torch_extensions"
        return folder.expanduser().absolute()
    except RuntimeError as error:
        raise FileNotFoundError(f"no home folder for {folder}") from error


def _temporary_folder() -> Path:
    """Returns a temporary folder that only the user can write to, since its contents are executed.

    Raises:
        OSError: it cannot be created, or others can write to it.
    """
    folder = Path(tempfile.gettempdir()) / f"ntm_rl_{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f"others can write to {folder}")
    return folder


def _library(folder: Path | None = None) -> Path:
    """Returns the library's path in `folder` (default: torch's); its name has a hash of all that it depends on."""
    folder = folder or _cache_folder()
    code = [file.read_bytes() for file in SOURCES + HEADERS]
    name = f"ntm_rl_{hash_of(*code, *FLAGS, _cpu())[:16]}"
    try:
        compiler = find_compiler()
        target = target_of(compiler)
    except BuildError:
        target = ""
    if not target:  # an existing library needs no compiler
        libraries = (path / f"{path.name}.so" for path in sorted(folder.glob(f"{name}_*")))
        return next(filter(_is_complete, libraries), folder / name / f"{name}.so")
    name += f"_{hash_of(*compiler[1:], target)[:8]}"
    return folder / name / f"{name}.so"


def _cpu() -> str:
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        return "\n".join(sorted({line for line in lines if line.split(":")[0].strip() in CPU_LINES}))
    return f"{platform.machine()} {platform.processor()}"


def _cpu_flags() -> set[str]:
    """Returns the features of an x86 CPU, empty elsewhere."""
    lines = (line.partition(":") for line in _cpu().splitlines())
    return {flag for name, _, values in lines if name.strip() == "flags" for flag in values.split()}


def _is_complete(library: Path) -> bool:
    """Whether the library is complete: loading a truncated one can crash the process."""
    with suppress(OSError, UnicodeDecodeError):
        return record_of(library).read_text() == hashlib.sha256(library.read_bytes()).hexdigest()
    return False


def _build_once(library: Path) -> Path:
    """Builds the library unless it exists; waits if another process is building it.

    Raises:
        BuildError: the compiler fails.
        OSError: its folder is not writable, or libraries in it cannot be loaded.
    """
    if _is_complete(library):
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    if os.statvfs(library.parent).f_flag & getattr(os, "ST_NOEXEC", 0):
        raise PermissionError(f"{library.parent} is mounted noexec")
    with _build_lock(library.parent / "building"):
        if not _is_complete(library):
            _build(library)
    return library


def _build(library: Path) -> None:
    """Builds in a temporary folder and moves the library, so that no process loads an incomplete one."""
    compiler, log = find_compiler(), library.parent / "build.log"
    with tempfile.TemporaryDirectory(prefix="build-", dir=library.parent, ignore_cleanup_errors=True) as folder:
        built = Path(folder) / library.name
        _print(f"building the C++ kernels (once, 10 to 20 seconds) in {library.parent}")
        build_library(compiler, SOURCES, built, log, [f"-L{TORCH / 'lib'}", "-ltorch_cpu"])
        write_record(built)
        record_of(built).replace(record_of(library))
        built.replace(library)
        log.unlink(missing_ok=True)


@contextmanager
def _build_lock(lock: Path) -> Iterator[None]:
    """Waits for the lock, with a timeout; the system releases it when its process ends."""
    import fcntl

    with lock.open("w") as file:
        deadline, waits = time.monotonic() + BUILD_TIMEOUT, False
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waits:
                    _print("waiting for another process that is building the C++ kernels")
                waits = True
                time.sleep(0.1)
            except OSError:  # a file system without locks: concurrent builds are harmless
                break
            else:
                for folder in lock.parent.glob("build-*"):  # of killed builds
                    shutil.rmtree(folder, ignore_errors=True)
                break
        yield


def _print(line: str) -> None:
    with suppress(OSError, ValueError):  # stderr may be closed
        if sys.stderr:
            print(line, file=sys.stderr, flush=True)
