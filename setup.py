"""Builds the compiled part: one CFFI module per kernel world (see csrc/)."""

from setuptools import setup

setup(cffi_modules=["csrc/xtables_build.py:ffi", "csrc/conntrack_build.py:ffi", "csrc/nft_build.py:ffi"])
