"""A GPU for each test that asks for one; see `standin`."""

from collections.abc import Iterator

import pytest

from tests.cuda import nvml
from tests.cuda.standin import Gpu, standin


@pytest.fixture(autouse=True)
def plain_nvml(monkeypatch: pytest.MonkeyPatch) -> nvml.Nvml:
    """NVML of a healthy GPU that is ours alone."""
    monkeypatch.setattr(nvml, "NVML", nvml.Nvml())
    return nvml.NVML


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    """An H200."""
    with standin() as made:
        yield made
