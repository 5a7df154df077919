import pytest
import torch


@pytest.fixture(autouse=True)
def float64():
    """Properties are held to 1e-10, which float32 cannot show."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
