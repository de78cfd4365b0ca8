"""Builds the C++ kernels on first use, once a machine, however many processes ask for them."""

import hashlib
import os
import shutil
import warnings
from functools import cache
from pathlib import Path

import torch

SOURCES = sorted(Path(__file__).parent.glob("*.cpp"))
HEADERS = sorted(Path(__file__).parent.glob("*.h"))
# -march=native: the library is built for the machine that uses it, whose name is part of the cache's key.
FLAGS = ["-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"]


@cache
def load_kernels() -> bool:
    """Makes `torch.ops.ntm_rl` available; returns whether that worked, after one warning if it did not."""
    try:
        library = _library()
        if not library.exists():
            _build(library)
        torch.ops.load_library(str(library))
    except Exception as error:  # whatever a user's compiler says, the eager path remains
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        warnings.warn(f"the fused kernels could not be built; the eager ones are used: {reason}", stacklevel=2)
        return False
    return True


def _library() -> Path:
    """Returns where the library belongs: a folder named for all that it depends on."""
    from torch.utils.cpp_extension import get_default_build_root

    machine = Path("/proc/cpuinfo")
    features = (
        next((line for line in machine.read_text().splitlines() if line.startswith("flags")), "")
        if machine.exists()
        else ""
    )
    key = "\n".join([*(file.read_text() for file in SOURCES + HEADERS), torch.__version__, *FLAGS, features])
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root()
    name = f"ntm_rl_{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    return Path(root) / name / f"{name}.so"


def _build(library: Path) -> None:
    import fcntl

    from torch.utils import cpp_extension

    if shutil.which(os.environ.get("CXX", "c++")) is None:
        raise RuntimeError("no C++ compiler (install gcc, or set CXX)")
    library.parent.mkdir(parents=True, exist_ok=True)
    with (library.parent / "building").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the system takes it back from a process that dies
        if library.exists():  # another process was quicker
            return
        (library.parent / "lock").unlink(missing_ok=True)  # torch's own lock, left by a process that died
        cpp_extension.load(
            library.stem,
            [str(source) for source in SOURCES],
            extra_cflags=FLAGS,
            build_directory=str(library.parent),
            is_python_module=False,
        )
