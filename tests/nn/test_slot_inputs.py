"""What enters the neighbour slots: compiled against torch operations, forward and backward."""

import pytest
import torch

from hpsearch.kernels import slot_inputs as module
from hpsearch.kernels.neighbourhoods import Neighbourhoods
from hpsearch.kernels.slot_inputs import directed, directed_sum, slot_inputs

COUNTS = [5, 1, 9, 29, 2, 14]
SIZES = [(1, 64, 21), (3, 4, 7), (2, 5, 0), (2, 0, 17), (1, 1, 1), (1, 16, 16), (1, 15, 33)]


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


def outputs_and_gradients(scalars, vectors, pairs, vectors_leave=True):
    unused = ~pairs.used[..., None]
    out = slot_inputs(scalars, vectors, pairs, vectors_leave)
    out = [x.masked_fill(unused, 0.0) for x in out]
    torch.manual_seed(1)
    total = sum((x * torch.randn(x.shape)).sum() for x in out)
    wanted = [x for x in (scalars, vectors) if x.numel()]
    return [*out, *torch.autograd.grad(total, wanted)]


@pytest.mark.parametrize("copies, S, V", SIZES)
def test_compiled_equal_torch_in_float64(library, copies, S, V):
    compare_to_float64(copies, S, V)


def test_vectors_of_older_processors(serve_narrow):
    serve_narrow(module)
    for copies, S, V in SIZES:
        compare_to_float64(copies, S, V)


def compare_to_float64(copies, S, V):
    scalars, vectors = features(copies, S, V)
    compiled = outputs_and_gradients(scalars, vectors, neighbourhoods())
    precise = [x.detach().double().requires_grad_() for x in (scalars, vectors)]
    exact = outputs_and_gradients(*precise, neighbourhoods(torch.float64))
    assert all(x.dtype == torch.float32 for x in compiled)
    compiled, exact = ([x for x in each if x.numel()] for each in (compiled, exact))
    for a, b in zip(compiled, exact, strict=True):
        assert (a - b).abs().max() <= 2e-6 * b.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_no_vectors_leave_only_scalars_are_made(library, dtype):
    scalars, vectors = (x.detach().to(dtype).requires_grad_() for x in features(2, 5, 4))
    pairs = neighbourhoods(dtype)
    some, none, *gradients = outputs_and_gradients(scalars, vectors, pairs, vectors_leave=False)
    assert none.shape == (2, 3, *pairs.pair.shape, 0)
    # The same as if X_i had been made and nobody had used it.
    x, _ = slot_inputs(scalars, vectors, pairs)
    x = x.masked_fill(~pairs.used[..., None], 0.0)
    assert torch.equal(x, some)
    torch.manual_seed(1)
    expected = torch.autograd.grad((x * torch.randn(x.shape)).sum(), (scalars, vectors))
    for a, b in zip(gradients, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("u", [1, 5, 16, 21])
def test_directed_sums_equal_torch_in_float64(library, u):
    pairs, exact = neighbourhoods(), neighbourhoods(torch.float64)
    m, G = torch.randn(*pairs.pair.shape, u), torch.randn(3, sum(COUNTS), u)
    m[~pairs.used] = float("nan")  # never read
    total, expected = directed_sum(m, pairs), directed_sum(m.nan_to_num().double(), exact)
    assert (total - expected).abs().max() <= 2e-6 * expected.abs().max()
    back, expected = directed(G, pairs)[pairs.used], directed(G.double(), exact)[pairs.used]
    assert (back - expected).abs().max() <= 2e-6 * expected.abs().max()
    # What one sends along its direction is what the other receives against it.
    product = (m.nan_to_num() * directed(G.double(), exact)).sum()
    assert torch.allclose(product, (directed_sum(m.nan_to_num().double(), exact) * G).sum())


def test_what_is_not_finite_stays_in_its_molecule(library):
    scalars, vectors = features(1, 3, 2)
    with torch.no_grad():
        vectors[0, 1, 7] = float("nan")  # an atom of the third molecule
    _, into_vectors = slot_inputs(scalars, vectors, pairs := neighbourhoods())
    bad = into_vectors[0].isnan().any(-1).any(0) & pairs.used
    assert bad.any()
    assert (pairs.neighbour[bad] == 7).all()


def test_results_do_not_depend_on_the_number_of_threads(library, set_threads):
    scalars, vectors = features(2, 6, 5)
    results = []
    for number in (1, 2):
        set_threads(number)
        results.append(outputs_and_gradients(scalars, vectors, neighbourhoods()))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_directions_with_gradients_go_through_torch(library, monkeypatch):
    monkeypatch.setattr(module, "_Compiled", None)
    place = torch.randn(sum(COUNTS), 3, requires_grad=True)
    pairs = Neighbourhoods.of(place, torch.tensor(COUNTS), 2.0)
    into_scalars, _ = slot_inputs(*features(1, 2, 3), pairs)
    into_scalars.sum().backward()
    assert place.grad is not None
