"""Triton's kernels, in a process that has nothing but its interpreter."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.skipif(
    not importlib.util.find_spec("triton"),
    reason="triton is not installed (make installs it on Linux)",
)
def test_under_the_interpreter_products_are_the_dequantized_ones():
    """Triton decides when it is imported whether it compiles or interprets."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, str(HERE / "unrolled_interpreted.py")],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:]
