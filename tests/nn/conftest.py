import pytest
import torch

from hpsearch.nn import kernels


@pytest.fixture(autouse=True)
def float64():
    """Properties are held to 1e-10, which float32 cannot show."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def library(cache_folder):
    kernels._library.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPSEARCH_CACHE", str(cache_folder))
        patch.delenv("HPSEARCH_KERNELS", raising=False)
        found = kernels._library()
        if isinstance(found, str):
            pytest.skip(found)
        yield found
    kernels._library.cache_clear()


@pytest.fixture
def afresh(monkeypatch, tmp_path):
    """A process that has not looked for the library yet, with a cache of its own."""
    monkeypatch.setenv("HPSEARCH_CACHE", str(tmp_path))
    monkeypatch.delenv("HPSEARCH_KERNELS", raising=False)
    kernels._library.cache_clear()
    yield tmp_path
    kernels._library.cache_clear()
