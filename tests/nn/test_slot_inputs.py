"""What enters the neighbour slots: compiled against torch operations, forward and backward."""

import pytest
import torch

from hpsearch.nn import slot_inputs as module
from hpsearch.nn.neighbourhoods import Neighbourhoods
from hpsearch.nn.slot_inputs import slot_inputs

COUNTS = [5, 1, 9, 29, 2, 14]


@pytest.fixture(autouse=True)
def float64():
    """Not here: the compiled form is float32's."""


def neighbourhoods(dtype=torch.float32):
    torch.manual_seed(0)
    place = torch.randn(sum(COUNTS), 3)
    return Neighbourhoods.of(place.to(dtype), torch.tensor(COUNTS), 2.0)


def features(copies, S, V):
    scalars = torch.randn(copies, sum(COUNTS), S, requires_grad=True)
    vectors = torch.randn(copies, 3, sum(COUNTS), V, requires_grad=True)
    return scalars, vectors


def outputs_and_gradients(scalars, vectors, pairs):
    unused = ~pairs.used[..., None]
    out = [x.masked_fill(unused, 0.0) for x in slot_inputs(scalars, vectors, pairs)]
    torch.manual_seed(1)
    total = sum((x * torch.randn(x.shape)).sum() for x in out)
    wanted = [x for x in (scalars, vectors) if x.numel()]
    return [*out, *torch.autograd.grad(total, wanted)]


@pytest.mark.parametrize("copies, S, V", [(1, 64, 21), (3, 4, 7), (2, 5, 0), (2, 0, 17), (1, 1, 1)])
def test_compiled_equal_torch_in_float64(library, copies, S, V):
    scalars, vectors = features(copies, S, V)
    compiled = outputs_and_gradients(scalars, vectors, neighbourhoods())
    precise = [x.detach().double().requires_grad_() for x in (scalars, vectors)]
    exact = outputs_and_gradients(*precise, neighbourhoods(torch.float64))
    assert all(x.dtype == torch.float32 for x in compiled)
    compiled, exact = ([x for x in each if x.numel()] for each in (compiled, exact))
    for a, b in zip(compiled, exact, strict=True):
        assert (a - b).abs().max() <= 2e-6 * b.abs().max()


def test_what_is_not_finite_stays_in_its_molecule(library):
    scalars, vectors = features(1, 3, 2)
    with torch.no_grad():
        vectors[0, 1, 7] = float("nan")  # an atom of the third molecule
    _, into_vectors = slot_inputs(scalars, vectors, pairs := neighbourhoods())
    bad = into_vectors[0].isnan().any(-1).any(0) & pairs.used
    assert bad.any()
    assert (pairs.neighbour[bad] == 7).all()


def test_results_do_not_depend_on_the_number_of_threads(library):
    scalars, vectors = features(2, 6, 5)
    threads = torch.get_num_threads()
    results = []
    for number in (1, 2):
        torch.set_num_threads(number)
        results.append(outputs_and_gradients(scalars, vectors, neighbourhoods()))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_directions_with_gradients_go_through_torch(library, monkeypatch):
    monkeypatch.setattr(module, "_Compiled", None)
    place = torch.randn(sum(COUNTS), 3, requires_grad=True)
    pairs = Neighbourhoods.of(place, torch.tensor(COUNTS), 2.0)
    into_scalars, _ = slot_inputs(*features(1, 2, 3), pairs)
    into_scalars.sum().backward()
    assert place.grad is not None
