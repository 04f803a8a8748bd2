"""Builds the one extension; the headers of XLA's foreign function interface come with jaxlib."""

import glob

import jax
from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "modellock_jax_native",
            ["module.cc", "chacha20.cc", "aes.cc", "digest.cc"],
            depends=glob.glob("*.h"),
            include_dirs=[jax.ffi.include_dir()],
            extra_compile_args=["-std=c++17", "-O3", "-fvisibility=hidden"],
            language="c++",
        )
    ]
)
