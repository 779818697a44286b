"""dynamic.cpp, compiled on first use and kept; without a compiler torch's own ops."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("dynamic.cpp")
LONGEST = 2**16  # inputs whose products of codes surely fit into 32 bits
MANY = 7  # rows that pay for a weight that is widened to bf16
# Rounding adds a number and takes it off again: no maths that is only fast.
FLAGS = "-std=c++20 -O3 -mavx2 -mfma -fno-trapping-math -fno-math-errno -fopenmp"


def isa(inputs: int) -> int:
    """What multiplies by a weight of so many inputs on this CPU: 0 = torch's own ops,
    else by dynamic.cpp with 1 = AVX2, 2 = AVX-512 VNNI, 3 = AMX.
    """
    return _best() if inputs <= LONGEST else 0


def widens(x: Tensor, isa: int) -> bool:
    """Whether dynamic.cpp widens weights for rows x (m, k) of a dense product."""
    return isa > 2 and x.dtype == torch.bfloat16 and len(x) >= MANY and x.is_cpu


@cache
def _best() -> int:
    """Compile and load it; 0, and a line on stderr, where that does not work."""
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return 0
    try:
        torch.ops.load_library(str(_library()))
    except (OSError, subprocess.CalledProcessError) as error:
        why = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[0]
        print(f"int8, int4 by torch, slowly: {why}", file=sys.stderr)
        return 0
    for name in ("int8_dynamic", "int4_dynamic", "int8_widened", "int4_widened"):
        torch.library.register_fake(f"fastlab::{name}", _like)
    return int(torch.ops.fastlab.best_isa())


def _like(x: Tensor, weight: Tensor, scales: Tensor, n: int, *isa: int) -> Tensor:
    return x.new_empty(len(x), n if isa else len(weight))


def _library() -> Path:
    """The library, named by all it is made of and put in place whole."""
    root, abi = Path(torch.__file__).parent, int(torch.compiled_with_cxx11_abi())
    flags = f"{FLAGS} -DAT_PARALLEL_OPENMP=1 -D_GLIBCXX_USE_CXX11_ABI={abi}"
    links = f"-I{root}/include -L{root}/lib -lc10 -ltorch_cpu"
    compiler = os.environ.get("CXX", "g++")
    made_of = SOURCE.read_text() + compiler + flags + links + torch.__version__
    home = Path(os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache")
    name = f"dynamic-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.so"
    library = home / "fastlab" / name
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            command = [compiler, *flags.split(), "-fPIC", "-shared", str(SOURCE)]
            command += [*links.split(), "-o", f"{folder}/{name}"]
            subprocess.run(command, check=True, capture_output=True, text=True)
            Path(folder, name).replace(library)
    return library
