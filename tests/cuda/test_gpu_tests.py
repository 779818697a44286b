"""The tests for a real GPU, on the stand-in: all that need no kernels of CUDA."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Triton's and cuBLAS's own affair, or of a size that has no values here.
NOT = ("flex", "autotuned", "second_model", "calibration", "do_bench", "8b_model")
NOT += ("unrolled",)  # Triton wants a driver
NOT += ("transformers", "1024-4096-64", "datasheet", "queue", "trip", "loop")
NOT += ("every_family", "as_estimated", "rows_of_the_ladder", "inference_mode")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["clock", "decode", "quantize", "sparse"])
def test_tests_for_a_gpu_pass_on_the_stand_in(name: str) -> None:
    env = os.environ | {
        "PRETEND_GPU": "{}",
        "PYTHONPATH": f"{ROOT}/tests/cuda/site:{ROOT}",
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-k",
        f"not ({' or '.join(NOT)})",
    ]
    command += ["--no-header", "-rf", f"tests/gpu/test_{name}_gpu.py"]
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
