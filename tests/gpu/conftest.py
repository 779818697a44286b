"""All tests here need a GPU, and are skipped without one."""

from pathlib import Path

import pytest
import torch


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            lacking = not torch.cuda.is_available()
            item.add_marker(pytest.mark.skipif(lacking, reason="no CUDA device"))
