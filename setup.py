"""Builds the C++ kernels into wheels; everything else is in pyproject.toml."""

import runpy
import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

KERNELS = Path("ntm_rl/kernels")


class BuildWithKernels(build_py):
    """Adds libraries of the kernels, except to editable installations, which build them on first use."""

    def run(self) -> None:
        """See the class."""
        super().run()
        if not self.editable_mode:
            compiler = runpy.run_path(str(KERNELS / "compiler.py"))
            compiler["prebuild"](Path(self.build_lib, KERNELS, "prebuilt").absolute())


class PlatformWheel(bdist_wheel):
    """Tags a wheel with its platform if it holds libraries; they run with every version of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """See the class."""
        python, abi, platform = super().get_tag()
        if any(Path(self.bdist_dir, KERNELS, "prebuilt").glob("*.so")):
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        return python, abi, platform


setup(cmdclass={"build_py": BuildWithKernels, "bdist_wheel": PlatformWheel})
