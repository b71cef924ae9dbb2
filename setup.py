"""Adds the configurations to what is installed; everything else is said in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigurations(build_py):
    def run(self):
        super().run()
        if not getattr(self, "editable_mode", False):  # a clone has them beside the package
            shutil.copytree("configs", Path(self.build_lib) / "paddle_adaptseg" / "configs", dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithConfigurations})
