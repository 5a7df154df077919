import torch

from hpsearch.kernels.activations import sigmoid, softplus
from hpsearch.nn.block import GatedBlock
from hpsearch.nn.features import Degrees, Features


def test_gates_follow_the_scalars():
    gate = GatedBlock(Degrees(2, 1), beta=5.0)
    scalars = torch.tensor([[[0.3, -1.0, 0.7]]])
    vectors = torch.tensor([[[[1.0]], [[2.0]], [[3.0]]]])
    out = gate(Features(scalars, vectors))
    assert torch.allclose(out.scalars, softplus(5.0)(scalars[..., :2]))
    assert torch.allclose(out.vectors, vectors * sigmoid()(torch.tensor(0.7)))


def test_no_vectors_no_gates():
    out = GatedBlock(Degrees(2, 0), beta=5.0)(
        Features(torch.randn(1, 4, 2), torch.zeros(1, 3, 4, 0))
    )
    assert out.degrees == (2, 0)
