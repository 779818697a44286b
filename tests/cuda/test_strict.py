"""The stand-in knows all that fastlab uses, under torch's own names and parameters."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.cuda import nvml, operators
from tests.cuda.standin import REAL, TORCH_CUDA

ROOT = Path(__file__).parents[2]
FILES = [
    path
    for folder in ("fastlab", "benchmarks", "tests/gpu")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def dotted(node: ast.AST) -> str:
    """a.b.c of an expression, "" for any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (front := dotted(node.value)):
        return f"{front}.{node.attr}"
    return ""


def used() -> Iterator[str]:
    """Every dotted name in the code that may run on a GPU."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and (name := dotted(node)):
                yield name.removeprefix("self._")


def behind(front: str) -> set[str]:
    """What stands behind a.b. in the code."""
    names = (n.removeprefix(front) for n in used() if n.startswith(front))
    return {name.partition(".")[0] for name in names}


def test_every_use_of_torch_cuda_is_in_the_stand_in():
    found = behind("torch.cuda.") | behind("cuda.")
    assert {"synchronize", "CUDAGraph", "mem_get_info", "Event"} <= found
    assert found <= set(TORCH_CUDA) | REAL


def test_every_use_of_nvml_is_in_the_stand_in():
    found = behind("nvml.") | behind("pynvml.")
    assert found == {f.__name__ for f in nvml.FUNCTIONS}
    real = pytest.importorskip("pynvml")
    assert all(hasattr(real, name) for name in found)


def test_backends_and_operators_of_cuda():
    assert behind("torch.backends.cuda.") == {"matmul"}
    assert behind("matmul.") == {"fp32_precision"}
    private = {n for n in behind("torch.") if n.endswith("_mm")}
    known = {func.overloadpacket.__name__ for func in operators.OPERATORS}
    assert private == {"_int_mm", "_scaled_mm"} and private <= known


@pytest.mark.parametrize("name", sorted(TORCH_CUDA))
def test_parameters_are_torchs_own(name):
    real, made = getattr(torch.cuda, name), TORCH_CUDA[name]
    if isinstance(made, type):
        public = {n for n, f in vars(made).items() if callable(f) and n[0] != "_"}
        assert {n for n in public - {"made", "note"} if not hasattr(real, n)} == set()
        return
    if name.startswith("_"):
        return  # written in C, or private
    names = list(inspect.signature(real).parameters)
    assert [*inspect.signature(made).parameters] == names
