"""Builds the fused kernels into the wheel, where there is a compiler; all else is in pyproject.toml.

The library is no extension module: ctypes loads it, it knows nothing of Python, and so one wheel serves every Python of a
platform. Without a compiler the wheel is made without it, for any platform: the kernels are then compiled on first use, or
plain PyTorch is used (igcsearch/nn/fused/library.py, which also does the compiling here).
"""

import importlib.util
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FOLDER = "igcsearch/nn/fused"

spec = importlib.util.spec_from_file_location("library", Path(__file__).parent / FOLDER / "library.py")
library = importlib.util.module_from_spec(spec)
spec.loader.exec_module(library)


class BuildKernels(build_ext):
    """Compiles by `library.compile_to`; what could not be compiled is no part of the distribution any more."""

    def get_ext_filename(self, fullname):
        return f"{fullname.replace('.', '/')}.so"

    def build_extension(self, ext):
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            library.compile_to(target, library.source_hash())
        except library.LibraryError as error:
            self.warn(f"the wheel is made without the compiled kernels: {error}")
            self.extensions.remove(ext)


class Wheel(bdist_wheel):
    """Tagged for the platform if something was compiled, for any if not; for every Python 3 in both cases."""

    def run_command(self, command):
        super().run_command(command)
        if command == "build":
            self.root_is_pure = not self.distribution.has_ext_modules()

    def get_tag(self):
        tag = super().get_tag()
        return tag if self.root_is_pure else (self.python_tag, "none", tag[2])


headers = [f"{FOLDER}/{path.name}" for path in library.sources() if path.suffix == ".h"]
setup(
    ext_modules=[Extension("igcsearch.nn.fused._kernels", [f"{FOLDER}/kernels.cpp"], depends=headers, optional=True)],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": Wheel},
)
