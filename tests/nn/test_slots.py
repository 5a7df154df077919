"""The compiled products against the torch ones."""

import ctypes
import itertools
from pathlib import Path

import pytest
import torch

from hpsearch.kernels.neighbourhoods import Neighbourhoods
from hpsearch.kernels.slots import CompiledProducts, TorchProducts, slot_products

COUNTS = [5, 1, 9, 29, 2, 2, 14]
GUARD = 123.0


@pytest.fixture(autouse=True)
def float64():
    """Not here: the compiled products are float32's."""


def neighbourhoods(counts=COUNTS, maximum=2.5):
    """Crowded enough for 28 neighbours, with atoms that have none."""
    place = torch.randn(sum(counts), 3)
    if len(counts) > 1:
        place[::7] += 50.0 * torch.arange(1, len(place[::7]) + 1)[:, None]
    return Neighbourhoods.of(place, torch.tensor(counts), maximum)


def guarded(*shape, fill=None):
    """A tensor between words that nobody may write, and a check of these."""
    size = int(torch.tensor(shape).prod())
    memory = torch.full((size + 128,), GUARD)
    inside = memory[64 : 64 + size].view(shape)
    inside.copy_(torch.randn(shape) if fill is None else torch.full(shape, fill))

    def check():
        assert (memory[:64] == GUARD).all() and (memory[64 + size :] == GUARD).all()

    return inside, check


def operands(pairs, H, C):
    A, K = pairs.pair.shape
    return torch.randn(len(pairs.distance), H), torch.randn(A, K, C), torch.randn(A, H, C)


def results(products, pairs, dg, x, y):
    """All three forms, of which two add to what is there."""
    A, K, C = x.shape
    out, check_out = guarded(A, y.shape[1], C, fill=float("nan"))
    dx, check_dx = guarded(A, K, C, fill=0.5)
    again, check_again = guarded(A, K, C, fill=0.25)
    products.aggregate(x, out)
    products.pull_back(x, y, dx)
    products.pull_back(x, y, None)
    products.distribute(y, again)
    products.finish()
    for check in (check_out, check_dx, check_again):
        check()
    unused = ~pairs.used
    dx[unused], again[unused] = 0.0, 0.0  # never read
    return out, dx, again, dg


def both(library, pairs, g, x, y, precise=torch.float64):
    dg, check = guarded(*g.shape, fill=float("nan"))
    compiled = results(CompiledProducts(pairs, g, dg, library), pairs, dg, x, y)
    check()
    dg = torch.empty_like(g, dtype=precise)
    plain = TorchProducts(pairs, g.to(precise), dg)
    torch.set_default_dtype(precise)
    try:
        expected = results(plain, pairs, dg, x.to(precise), y.to(precise))
    finally:
        torch.set_default_dtype(torch.float32)
    return compiled, expected


def assert_close(compiled, expected):
    for a, b in zip(compiled, expected, strict=True):
        if b.numel():
            assert (a - b).abs().max() <= 1e-5 * b.abs().max().clamp(min=1.0)


WIDTHS = [
    *range(1, 36),
    47,
    48,
    49,
    63,
    64,
    65,
    79,
    80,
    81,
    85,
    95,
    96,
    97,
    112,
    113,
    127,
    160,
    200,
]


@pytest.mark.parametrize("H", [1, 2, 3, 4, 5, 7, 16, 31, 100, 144])
def test_compiled_equal_torch_in_float64(library, H):
    pairs = neighbourhoods()
    assert not pairs.used.any(1).all()
    for C in WIDTHS:
        assert_close(*both(library, pairs, *operands(pairs, H, C)))


@pytest.mark.parametrize("atoms", range(1, 30))
def test_any_number_of_neighbours(library, atoms):
    pairs = neighbourhoods([atoms], maximum=100.0)
    assert pairs.used.sum(1).tolist() == [atoms - 1] * atoms
    for H, C in itertools.product([3, 20], [5, 21, 33]):
        assert_close(*both(library, pairs, *operands(pairs, H, C)))


def test_cutoff_beyond_which_nobody_is_left(library):
    pairs = neighbourhoods(maximum=1e-6)
    compiled, expected = both(library, pairs, *operands(pairs, 6, 7))
    assert_close(compiled, expected)
    assert compiled[0].abs().max() == 0


def test_vectors_of_older_processors(narrow):
    pairs = neighbourhoods()
    for H, C in itertools.product([3, 8, 21], [1, 3, 4, 7, 8, 9, 16, 23, 31, 50, 85]):
        assert_close(*both(narrow, pairs, *operands(pairs, H, C)))


def assert_same_bits(runs):
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


@pytest.mark.parametrize("C", [5, 37])
def test_same_bits_again_and_on_any_number_of_threads(library, set_threads, C):
    pairs = neighbourhoods()
    g, x, y = operands(pairs, 50, C)
    runs = []
    for threads in (1, 2, 2, 3, 1):
        set_threads(threads)
        dg = torch.empty_like(g)
        runs.append(results(CompiledProducts(pairs, g, dg, library), pairs, dg, x, y))
    assert_same_bits(runs)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("C", [3, 16, 37])
def test_what_is_not_finite_stays_so_and_goes_nowhere_else(library, C, value):
    pairs = neighbourhoods()
    g, x, y = operands(pairs, 11, C)
    slot = tuple(pairs.used.nonzero()[5].tolist())
    for place, wrong in (((*slot, C - 1), x), ((slot[0], 7, 0), y), ((pairs.pair[slot], 3), g)):
        right = wrong[place].item()
        wrong[place] = value
        compiled, expected = both(library, pairs, g, x, y)
        wrong[place] = right
        for a, b in zip(compiled, expected, strict=True):
            assert torch.equal(a.isfinite(), b.isfinite())
        assert not all(a.isfinite().all() for a in compiled)


def test_denormal_numbers_are_flushed_in_every_thread_if_the_caller_flushes_them(library):
    pairs = Neighbourhoods.of(torch.randn(320, 3), torch.full((40,), 8), 100.0)
    x = torch.full((*pairs.pair.shape, 20), 1e-30)
    g = torch.full((len(pairs.distance), 16), 1e-12)
    found = set()
    for flush in (True, False, True):
        if not torch.set_flush_denormal(flush):
            pytest.skip("this processor does not flush")
        try:
            out = torch.empty(len(x), 16, 20)
            CompiledProducts(pairs, g, None, library).aggregate(x, out)
        finally:
            torch.set_flush_denormal(False)
        found.add((flush, bool((out == 0).all())))
        assert (out == 0).all() or (out != 0).all()
    assert found == {(True, True), (False, False)}


def test_one_openmp_library_for_torch_and_the_kernel(library):
    maps = Path("/proc/self/maps").read_text().splitlines()
    assert len({line.split()[-1] for line in maps if "libgomp" in line}) == 1


def test_shapes_and_types_are_checked_before_the_call(library):
    pairs = neighbourhoods()
    g, x, y = operands(pairs, 6, 7)
    products = CompiledProducts(pairs, g, None, library)
    out = torch.empty_like(y)
    for wrong in (x[:-1], x.double(), x.transpose(0, 1).contiguous().transpose(0, 1)):
        with pytest.raises(ValueError, match="contiguous float32"):
            products.aggregate(wrong, out)
    with pytest.raises(ValueError, match="contiguous float32"):
        products.aggregate(x, torch.empty(len(y), 5, 7))


# --- with weights ---


def weighted(products, pairs, dg, x, w, G):
    """All forms: of the gradient of x what is added to, what is set and what is not wanted."""
    unused = ~pairs.used
    dx, check_dx = guarded(*x.shape, fill=0.5)
    fresh, check_fresh = guarded(*x.shape, fill=float("nan"))
    dw, check_dw = guarded(*w.shape, fill=float("nan"))
    out = products.convolve(x, w)
    products.pull_back_convolve(x, w, G, dx, dw)
    products.pull_back_convolve(x, w, G, fresh, dw.fill_(float("nan")), fresh=True)
    products.pull_back_convolve(x, w, G, None, dw.fill_(float("nan")))
    products.finish()
    for check in (check_dx, check_fresh, check_dw):
        check()
    transformed = products.transform(G, w)
    for each in (dx, fresh, transformed):
        each[:, unused] = 0.0  # never read
    return out, dx, fresh, dw, transformed, dg


def both_weighted(library, pairs, g, x, w, G):
    dg, check = guarded(*g.shape, fill=float("nan"))
    compiled = weighted(CompiledProducts(pairs, g, dg, library), pairs, dg, x, w, G)
    check()
    torch.set_default_dtype(torch.float64)
    try:
        dg = torch.empty_like(g, dtype=torch.float64)
        plain = TorchProducts(pairs, g.double(), dg)
        expected = weighted(plain, pairs, dg, x.double(), w.double(), G.double())
    finally:
        torch.set_default_dtype(torch.float32)
    return compiled, expected


def weighted_operands(pairs, D, H, C, U):
    A, K = pairs.pair.shape
    sizes = (len(pairs.distance), H), (D, A, K, C), (U, H, C), (D, A, U)
    return tuple(torch.randn(size) for size in sizes)


@pytest.fixture
def one_thread(set_threads):
    """Weights are applied in the same call where molecules occupy all threads; one is occupied."""
    set_threads(1)


SIZES = [
    *[(100, 85, 96), (100, 63, 21), (16, 1, 3), (4, 4, 1), (5, 3, 2), (31, 127, 50), (9, 44, 7)],
    *[(100, 5, 85), (144, 200, 5), (20, 16, 33), (25, 7, 6), (1, 16, 4), (33, 2, 25), (7, 381, 3)],
    *[(51, 1, 3), (67, 1, 2), (27, 2, 2), (4, 4, 600), (64, 4, 512)],
]


@pytest.mark.parametrize("D", [1, 3])
@pytest.mark.parametrize(("H", "C", "U"), SIZES)
def test_weighted_equals_torch_in_float64(library, one_thread, D, H, C, U):
    for counts in (COUNTS, [2], [29] * 6):
        pairs = neighbourhoods(counts)
        operands = weighted_operands(pairs, D, H, C, U)
        assert CompiledProducts(pairs, operands[0], None, library).is_fused(operands[2]) == (
            H * C >= 16
        )
        assert_close(*both_weighted(library, pairs, *operands))


@pytest.mark.parametrize(("H", "C", "threads"), [(67, 1, 2), (99, 1, 2), (27, 2, 3), (35, 2, 4)])
def test_neurons_are_shared_out_in_groups_as_wide_as_a_vector(library, set_threads, H, C, threads):
    pairs = neighbourhoods(COUNTS * 3)
    set_threads(threads)
    operands = weighted_operands(pairs, 1, H, C, 3)
    assert CompiledProducts(pairs, operands[0], None, library).is_fused(operands[2])
    assert_close(*both_weighted(library, pairs, *operands))


@pytest.mark.parametrize("threads", [1, 2])
def test_nothing_is_written_beside_the_scratch_memory(library, monkeypatch, set_threads, threads):
    pairs = neighbourhoods(COUNTS * 2)
    checks = []

    def empty(size, dtype, device):
        inside, check = guarded((size + 3) // 4)
        checks.append(check)
        return inside

    set_threads(threads)
    for D, H, C, U in ((1, 64, 4, 512), (3, 4, 4, 600), (3, 51, 1, 3), (3, 100, 85, 96)):
        g, x, w, G = weighted_operands(pairs, D, H, C, U)
        products = CompiledProducts(pairs, g, torch.empty_like(g), library)
        dx, dw = torch.zeros_like(x), torch.empty_like(w)
        assert products.is_fused(w)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "empty", empty)
            products.convolve(x, w)
            products.pull_back_convolve(x, w, G, dx, dw)
    assert len(checks) == 12
    for check in checks:
        check()


def test_weighted_vectors_of_older_processors(narrow, one_thread):
    pairs = neighbourhoods()
    for H, C, U in [(8, 3, 5), (21, 9, 1), (31, 31, 16), (9, 2, 7), (50, 85, 13)]:
        for D in (1, 3):
            assert_close(*both_weighted(narrow, pairs, *weighted_operands(pairs, D, H, C, U)))


def test_more_features_than_a_cache_holds(library, one_thread):
    pairs = neighbourhoods([9])
    assert_close(*both_weighted(library, pairs, *weighted_operands(pairs, 3, 30, 3_000, 2)))


def test_weighted_has_the_same_bits_on_any_number_of_threads(library, set_threads):
    pairs = neighbourhoods(COUNTS * 3)
    g, x, w, G = weighted_operands(pairs, 3, 50, 21, 9)
    runs = []
    for threads in (1, 2, 3, 5, 1):
        set_threads(threads)
        dg = torch.empty_like(g)
        products = CompiledProducts(pairs, g, dg, library)
        assert products.is_fused(w)
        runs.append(weighted(products, pairs, dg, x, w, G))
    assert_same_bits(runs)


def test_many_threads_for_few_molecules_weigh_afterwards(library, set_threads):
    pairs = neighbourhoods([5, 9])
    set_threads(2)
    operands = weighted_operands(pairs, 1, 20, 7, 3)
    assert not CompiledProducts(pairs, operands[0], None, library).is_fused(operands[2])
    assert_close(*both_weighted(library, pairs, *operands))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weighted_keeps_what_is_not_finite(library, one_thread, value):
    pairs = neighbourhoods()
    g, x, w, G = weighted_operands(pairs, 3, 11, 7, 5)
    slot = tuple(pairs.used.nonzero()[5].tolist())
    places = ((1, *slot, 6), x), ((2, 10, 6), w), ((0, slot[0], 4), G), ((pairs.pair[slot], 3), g)
    for place, wrong in places:
        right = wrong[place].item()
        wrong[place] = value
        compiled, expected = both_weighted(library, pairs, g, x, w, G)
        wrong[place] = right
        for a, b in zip(compiled, expected, strict=True):
            assert torch.equal(a.isfinite(), b.isfinite())
        assert not all(a.isfinite().all() for a in compiled)


def test_weighted_shapes_are_checked_before_the_call(library, one_thread):
    pairs = neighbourhoods()
    g, x, w, G = weighted_operands(pairs, 3, 11, 7, 5)
    products = CompiledProducts(pairs, g, torch.empty_like(g), library)
    with pytest.raises(ValueError, match="contiguous float32"):
        products.convolve(x[:, :-1], w)
    with pytest.raises(ValueError, match="contiguous float32"):
        products.convolve(x, w[:, :10].contiguous())
    with pytest.raises(ValueError, match="contiguous float32"):
        products.pull_back_convolve(x, w, G[:2], torch.zeros_like(x), torch.empty_like(w))
    with pytest.raises(ValueError, match="contiguous float32"):
        products.pull_back_convolve(x, w, G, torch.zeros_like(x), torch.empty_like(w)[:4])


# --- which implementation ---


def test_float32_is_compiled_and_float64_is_not(library):
    pairs = neighbourhoods()
    g = torch.randn(len(pairs.distance), 6)
    assert isinstance(slot_products(pairs, g), CompiledProducts)
    assert isinstance(slot_products(pairs, g.double()), TorchProducts)


def test_off_means_torch(afresh, monkeypatch):
    monkeypatch.setenv("HPSEARCH_KERNELS", "off")
    pairs = neighbourhoods()
    assert isinstance(slot_products(pairs, torch.randn(len(pairs.distance), 6)), TorchProducts)


def test_out_of_memory_is_an_error(library):
    pairs = neighbourhoods([2])
    products = CompiledProducts(pairs, torch.randn(1, 6), None, library)
    products._table.slots = 2**50
    products._table.atoms = products._table.molecules = 0
    x = torch.randn(2, 1, 7)
    with pytest.raises(RuntimeError, match="allocate memory"):
        products.aggregate(x, torch.empty(2, 6, 7))
    assert isinstance(library, ctypes.CDLL)
