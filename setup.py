"""What pyproject.toml cannot say: the preload library is built at installation, if it can be.

Without a C compiler the installation succeeds all the same, and `xedev.shim.library` looks for one
when the library is wanted.
"""

from glob import glob

from setuptools import Extension, setup

setup(
    ext_modules=[
        # No module: only built and installed like one.
        Extension(
            "xedev.shim.preload",
            sources=sorted(glob("xedev/shim/*.c")),
            include_dirs=["uapi"],
            libraries=["dl"],
            depends=[*glob("xedev/shim/*.h"), "uapi/xe_mock.h"],
            optional=True,
        )
    ]
)
