"""A device for tests on machines without a GPU, see `stand_in_device.cpp`."""

import hashlib
import subprocess
import tempfile
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from types import ModuleType

import torch

from ntm_rl.kernels.compiler import find_compiler

NAME = "stand_in"
SOURCE = Path(__file__).with_suffix(".cpp")


@cache
def load_stand_in() -> str:
    """Registers the device, which is built at first use, and returns its name.

    Raises:
        BuildError: no compiler.
    """
    torch.utils.rename_privateuse1_backend(NAME)
    torch.ops.load_library(_built())
    module = ModuleType(NAME)
    vars(module).update(
        is_available=lambda: True,
        device_count=lambda: 1,
        current_device=lambda: 0,
        _is_in_bad_fork=lambda: False,
        get_amp_supported_dtype=lambda: [torch.bfloat16, torch.float16],
        device=lambda _: nullcontext(),
        manual_seed_all=lambda seed: None,  # it draws from the CPU's generator
    )
    torch._register_device_module(NAME, module)
    return NAME


def take_waits() -> list[str]:
    """Returns the operations that waited for the device since the last call."""
    waits: list[str] = torch.ops.stand_in.take_waits()
    return waits


def _built() -> Path:
    key = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    library = Path(tempfile.gettempdir(), f"ntm-rl-{NAME}-{key}.so")
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            built = Path(folder, library.name)
            torch_folder = Path(torch.__file__).parent
            abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
            options = [
                "-std=c++20",
                "-fPIC",
                "-shared",
                abi,
                "-isystem",
                str(torch_folder / "include"),
                "-o",
                str(built),
            ]
            libraries = [f"-L{torch_folder / 'lib'}", "-lc10", "-ltorch_cpu", "-ltorch"]
            subprocess.run([*find_compiler(), *options, str(SOURCE), *libraries], check=True)
            built.rename(library)  # another process may have built it meanwhile
    return library
