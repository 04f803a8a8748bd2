"""Builds the one extension; the headers of XLA's foreign function interface come with jaxlib."""

import jax
from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "modellock_jax_native",
            ["chacha20.cc"],
            include_dirs=[jax.ffi.include_dir()],
            extra_compile_args=["-std=c++17", "-O3", "-fvisibility=hidden"],
            language="c++",
        )
    ]
)
