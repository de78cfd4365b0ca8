"""Builds the C++ kernels on first use, once a machine, however many processes ask for it."""

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

import torch

from ntm_rl.kernels.compiler import ABI, FLAGS, LONGEST_BUILD, BuildError, build_library, find_compiler, target_of

SOURCES = sorted(Path(__file__).parent.glob("*.cpp"))
HEADERS = sorted(Path(__file__).parent.glob("*.h"))
# What tells kinds of CPU apart in /proc/cpuinfo, on x86, ARM, POWER and RISC-V; other lines change from core to core.
CPU_LINES = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "Features", "cpu", "isa")


@cache
def load_kernels() -> bool:
    """Makes `torch.ops.ntm_rl` available; returns whether that worked, after one warning if it did not."""
    try:
        try:
            _load(_cache_folder())
        except OSError as error:
            _say(f"the C++ kernels are kept in a temporary folder (set TORCH_EXTENSIONS_DIR to a better one): {error}")
            _load(_temporary_folder())
    except Exception as error:  # whatever a user's compiler says, the eager path remains
        reason = str(error).strip() or type(error).__name__
        consequence = "the eager cores are used, which are up to six times slower"
        warnings.warn(f"the C++ kernels could not be built; {consequence}: {reason}", stacklevel=2)
        return False
    return True


def _load(folder: Path) -> None:
    library = _build_once(_library(folder))
    try:
        torch.ops.load_library(str(library))
    except OSError:  # it was built for other system libraries
        _record(library).unlink(missing_ok=True)
        _load_new(_build_once(library))


def _load_new(library: Path) -> None:
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        raise BuildError(f"a new library does not load: {error}") from error


def _cache_folder() -> Path:
    """Returns where torch keeps extensions.

    Raises:
        OSError: there is no home folder.
    """
    named, cache_home = os.environ.get("TORCH_EXTENSIONS_DIR"), os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(named) if named else Path(cache_home or "~/.cache") / "torch_extensions"
        return folder.expanduser().absolute()
    except RuntimeError as error:
        raise FileNotFoundError(f"no home folder for {folder}") from error


def _temporary_folder() -> Path:
    """Returns a folder in the system's temporary one that nobody else can write to: what it holds is run.

    Raises:
        OSError: there is none, or others can write to it.
    """
    folder = Path(tempfile.gettempdir()) / f"ntm_rl_{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f"others can write to {folder}")
    return folder


def _library(folder: Path | None = None) -> Path:
    """Returns the library's path in `folder`, by default torch's own; its name holds all that it depends on."""
    folder = folder or _cache_folder()
    code = [file.read_bytes() for file in SOURCES + HEADERS]
    name = f"ntm_rl_{_digest(*code, torch.__version__, str(torch.version.git_version), ABI, *FLAGS, _cpu())[:16]}"
    try:
        compiler = find_compiler()
        target = target_of(compiler)
    except BuildError:
        target = ""
    if not target:  # what is already built needs no compiler
        built = (path / f"{path.name}.so" for path in sorted(folder.glob(f"{name}_*")))
        return next(filter(_is_whole, built), folder / name / f"{name}.so")
    name += f"_{_digest(*compiler[1:], target)[:8]}"
    return folder / name / f"{name}.so"


def _cpu() -> str:
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        return "\n".join(sorted({line for line in lines if line.split(":")[0].strip() in CPU_LINES}))
    return f"{platform.machine()} {platform.processor()}"


def _digest(*parts: str | bytes) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _record(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _is_whole(library: Path) -> bool:
    """Whether the library is what was linked: loading one that was cut off can kill the process."""
    with suppress(OSError, UnicodeDecodeError):
        return _record(library).read_text() == hashlib.sha256(library.read_bytes()).hexdigest()
    return False


def _build_once(library: Path) -> Path:
    """Builds the library unless it is there or another process is building it, which is waited for.

    Raises:
        BuildError: the compiler fails.
        OSError: its folder cannot be written, or nothing in it can be loaded.
    """
    if _is_whole(library):
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    if os.statvfs(library.parent).f_flag & getattr(os, "ST_NOEXEC", 0):
        raise PermissionError(f"{library.parent} is mounted noexec")
    with _only_builder(library.parent / "building"):
        if not _is_whole(library):
            _build(library)
    return library


def _build(library: Path) -> None:
    """Builds beside and moves: no process sees an unfinished library, and one that is in use stays as it is."""
    compiler, log = find_compiler(), library.parent / "build.log"
    with tempfile.TemporaryDirectory(prefix="build-", dir=library.parent, ignore_cleanup_errors=True) as folder:
        built = Path(folder) / library.name
        _say(f"building the C++ kernels, once, which takes about a minute: {library.parent}")
        build_library(compiler, SOURCES, built, log)
        _record(built).write_text(hashlib.sha256(built.read_bytes()).hexdigest())
        _record(built).replace(_record(library))
        built.replace(library)
        log.unlink(missing_ok=True)


@contextmanager
def _only_builder(lock: Path) -> Iterator[None]:
    """Waits for the lock, which the system takes back from a process that dies, but not for ever."""
    import fcntl

    with lock.open("w") as file:
        deadline, waits = time.monotonic() + LONGEST_BUILD, False
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waits:
                    _say("waiting for the C++ kernels, which another process is building")
                waits = True
                time.sleep(0.1)
            except OSError:  # a file system without locks: two builds at once do no harm
                break
            else:
                for left in lock.parent.glob("build-*"):  # by builders that were killed
                    shutil.rmtree(left, ignore_errors=True)
                break
        yield


def _say(line: str) -> None:
    with suppress(OSError, ValueError):  # standard error may be closed
        if sys.stderr:
            print(line, file=sys.stderr, flush=True)
