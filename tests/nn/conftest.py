import platform
import shutil

import pytest
import torch

from hpsearch.kernels import library as kernels
from hpsearch.system.hardware import instructions


@pytest.fixture(autouse=True)
def float64():
    """Properties are held to 1e-10, which float32 cannot show."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def cache_folder(session_folder):
    """A cache of these tests alone, where each library is compiled once: it takes seconds."""
    return session_folder / "kernels"


@pytest.fixture(scope="module")
def library(cache_folder):
    kernels._library.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPSEARCH_CACHE", str(cache_folder))
        patch.delenv("HPSEARCH_KERNELS", raising=False)
        if shutil.which("cc") is None:
            pytest.skip("there is no C compiler")
        found = kernels._library()
        assert not isinstance(found, str), found  # one that does not compile is no reason to skip
        yield found
    kernels._library.cache_clear()


@pytest.fixture
def set_threads():
    """Sets the number of threads, for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def afresh(monkeypatch, tmp_path):
    """A process that has not looked for the library yet, with a cache of its own."""
    monkeypatch.setenv("HPSEARCH_CACHE", str(tmp_path))
    monkeypatch.delenv("HPSEARCH_KERNELS", raising=False)
    kernels._library.cache_clear()
    yield tmp_path
    kernels._library.cache_clear()


@pytest.fixture(params=["x86-64", "haswell"])
def older_processor(request):
    """The compiler's name of a processor with vectors of four or eight, whose code runs here."""
    if platform.machine() != "x86_64":
        pytest.skip("another kind of processor")
    flags = instructions().decode().split()
    if request.param == "haswell" and not {"avx2", "fma", "bmi2", "movbe"} <= set(flags):
        pytest.skip("this processor has no AVX2")
    return request.param


@pytest.fixture
def narrow(older_processor, library, monkeypatch, cache_folder):
    """The library as an older processor would have it compiled, with narrower vectors."""
    monkeypatch.setenv("HPSEARCH_CACHE", str(cache_folder))
    march = f"-march={older_processor}"
    options = [march if part == "-march=native" else part for part in kernels._OPTIONS]
    monkeypatch.setattr(kernels, "_OPTIONS", options)
    return kernels._load()


@pytest.fixture
def serve_narrow(narrow, monkeypatch):
    """Has a module compute float32 with narrower vectors, for one test."""

    def compiled_for(x):
        return narrow if x.dtype == torch.float32 else None

    return lambda module: monkeypatch.setattr(module, "compiled_for", compiled_for)
