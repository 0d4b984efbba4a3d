"""Sums of packed codes in training against DGL's sums of floats."""

import dgl
import pytest
import torch

from dgl_lowbit.nn import sums
from dgl_lowbit.nn.ops import TorchOps
from dgl_lowbit.quant import make_quantizer, passes, products
from dgl_lowbit.quant.products import product
from dgl_lowbit.quant.quantized import Quantized
from dgl_lowbit.quant.scaled import made_of, scale_rows
from dgl_lowbit.quant.stochastic import grid_of, new_seed, rounded


@pytest.fixture(autouse=True)
def serve_few_values(monkeypatch):
    monkeypatch.setattr(passes, "_LEAST", 1)
    monkeypatch.setattr(sums, "_LEAST", 1)


def random_graph(sources, destinations, edges, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ends = (torch.randint(n, (edges,), generator=generator) for n in (sources, destinations))
    return dgl.create_block(tuple(ends), num_src_nodes=sources, num_dst_nodes=destinations)


def summed(graph, quantizer, x, packed, gradients=32):
    """Sums and the gradients of values and range; these rounded with the same seed each time."""
    x = x.clone().requires_grad_()
    quantizer.zero_grad()
    codes = quantizer.quantized(x)
    assert sums.can_sum_packed(graph, codes)
    total = TorchOps(gradients).aggregate(graph, codes if packed else Quantized(codes.centered, codes.scale))
    torch.manual_seed(4)
    total.backward(torch.randn(total.shape, generator=torch.Generator().manual_seed(3)))
    return total.detach(), x.grad, quantizer.drift.grad.clone()


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("is_positive", [False, True])
@pytest.mark.parametrize("columns", [3, 16, 40, 130])
def test_they_are_those_of_floats(bits, granularity, is_positive, columns):
    graph = random_graph(50, 40, 700)
    x = torch.randn(50, columns, generator=torch.Generator().manual_seed(1))
    x = x.relu() if is_positive else x
    quantizer = make_quantizer("qlr", bits, granularity=granularity, channels=columns)
    quantizer.observe(x)
    total, grad_x, grad_alpha = summed(graph, quantizer, x, True)
    plain_total, plain_grad_x, plain_grad_alpha = summed(graph, quantizer, x, False)
    assert torch.equal(total, plain_total) and torch.equal(grad_x, plain_grad_x)
    torch.testing.assert_close(grad_alpha, plain_grad_alpha, rtol=1e-4, atol=1e-3)


def test_they_follow_the_graph():
    """Of a graph whose edges change in place, of one with int32 ids, and without edges."""
    x = torch.randn(30, 20, generator=torch.Generator().manual_seed(1))
    quantizer = make_quantizer("qlr", 2, channels=20)
    quantizer.observe(x)
    graph = dgl.graph(([0, 1, 2], [2, 2, 3]), num_nodes=30)
    centered, scale = quantizer.split(x)
    for change in (lambda g: g, lambda g: g.add_edges(torch.tensor([7]), torch.tensor([5])), lambda g: g):
        change(graph)
        expected = dgl.ops.copy_u_sum(graph, centered) * scale
        assert torch.equal(sums.sum_packed(graph, quantizer.quantized(x)), expected)
    assert torch.equal(sums.sum_packed(graph.int(), quantizer.quantized(x)), expected)


@pytest.mark.parametrize("gradients", [32, 8])
def test_they_do_not_depend_on_threads(monkeypatch, gradients):
    monkeypatch.setattr(passes, "_LEAST_A_THREAD", 64)
    graph, x, quantizer = random_graph(2500, 2200, 9000), torch.randn(2500, 20), make_quantizer("qlr", 2, channels=20)
    quantizer.observe(x)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(summed(graph, quantizer, x, True, gradients))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("columns", [3, 40, 130])
def test_rounded_gradients_are_those_of_floats_that_were_rounded(granularity, columns):
    """Packed, in DGL's sums, and written out; rounded, they are others than without, by less than a step an edge."""
    graph, x = random_graph(50, 40, 700), torch.randn(50, columns, generator=torch.Generator().manual_seed(1))
    quantizer = make_quantizer("qlr", 8, granularity=granularity, channels=columns)
    quantizer.observe(x)
    total, grad_x, grad_alpha = summed(graph, quantizer, x, True, 8)
    plain_total, plain_grad_x, plain_grad_alpha = summed(graph, quantizer, x, False, 8)
    floats, float_grad_x, _ = summed(graph, quantizer, x, True)
    assert torch.equal(total, floats) and torch.equal(total, plain_total)
    torch.testing.assert_close(grad_x, plain_grad_x, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grad_alpha, plain_grad_alpha, rtol=1e-4, atol=1e-3)

    torch.manual_seed(4)
    upstream = torch.randn(40, columns, generator=torch.Generator().manual_seed(3))
    sources, targets = graph.edges()
    sums_of_rounded = torch.zeros_like(x).index_add(0, sources, rounded(upstream, new_seed())[targets])
    inside = float_grad_x != 0
    torch.testing.assert_close(grad_x, sums_of_rounded * inside, rtol=1e-4, atol=1e-5)
    step = grid_of(*upstream.aminmax(dim=0)).step
    off = (grad_x - float_grad_x).abs()
    assert off.max() > 0 and (off <= step * graph.out_degrees().view(-1, 1) + 1e-4).all()


def test_gradients_can_be_differentiated_again():
    quantizer, x, graph = make_quantizer("qlr", 2, channels=20), torch.randn(50, 20), random_graph(50, 40, 700)
    quantizer.observe(x)

    def second(packed):
        given = x.clone().requires_grad_()
        codes = quantizer.quantized(given)
        total = TorchOps().aggregate(graph, codes if packed else Quantized(codes.centered, codes.scale))
        (first,) = torch.autograd.grad((total**3).sum(), quantizer.drift, create_graph=True)
        return torch.autograd.grad(first.sum(), (given, quantizer.drift))

    for packed, plain in zip(second(True), second(False)):
        assert plain.abs().sum() > 0
        torch.testing.assert_close(packed, plain, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("packed", [True, False])
def test_gradients_that_are_to_be_differentiated_are_not_rounded(packed):
    quantizer, x, graph = make_quantizer("qlr", 2, channels=20), torch.randn(50, 20), random_graph(50, 40, 700)
    quantizer.observe(x)

    def gradient(bits, **options):
        given = x.clone().requires_grad_()
        codes = quantizer.quantized(given)
        codes = codes if packed else Quantized(codes.centered, codes.scale)
        return torch.autograd.grad((TorchOps(bits).aggregate(graph, codes) ** 3).sum(), given, **options)[0]

    assert torch.equal(gradient(8, create_graph=True), gradient(32, create_graph=True))
    assert not torch.equal(gradient(8), gradient(32))


def test_what_is_not_a_number_is_not_lost():
    x = torch.randn(50, 20)
    quantizer = make_quantizer("qlr", 2, channels=20)
    quantizer.observe(x)
    x[7, 11] = torch.nan
    assert sums.sum_packed(random_graph(50, 40, 700), quantizer.quantized(x)).isnan().all()


def test_the_sum_of_codes_is_served_where_it_pays(monkeypatch):
    x, graph = torch.randn(50, 20), random_graph(50, 40, 700)
    quantizer = make_quantizer("qlr", 2, channels=20)
    quantizer.observe(x)
    assert sums.can_sum_packed(graph, quantizer.quantized(x))
    fine = make_quantizer("bt", 2)  # its zero point is no half: sums of floats are rounded
    fine.observe(x + 0.3)
    assert not sums.can_sum_packed(graph, fine.quantized(x))
    rows = make_quantizer("qlr", 2, granularity="shift")
    rows.observe(x)
    assert not sums.can_sum_packed(graph, rows.quantized(x))
    for formats in (["coo"], ["csc"], ["coo", "csc"]):
        assert not sums.can_sum_packed(graph.formats(formats), quantizer.quantized(x))
    monkeypatch.setattr(sums, "_LEAST", 700 * 20 + 1)
    assert not sums.can_sum_packed(graph, quantizer.quantized(x))


def test_rows_that_are_scaled_first_have_the_gradients_of_their_product():
    graph, x, factor = random_graph(50, 40, 700), torch.randn(50, 20), torch.rand(50) + 0.5
    quantizer = make_quantizer("qlr", 2, channels=20)
    quantizer.observe(x)

    def gradients(change, is_known):
        values = x.clone().requires_grad_()
        quantizer.zero_grad()
        rows = scale_rows(values, factor) if is_known else values * factor.view(-1, 1)
        change(rows)
        assert (made_of(rows)[0] is values) == (is_known and change is nothing)
        sums.sum_packed(graph, quantizer.quantized(rows)).square().sum().backward()
        return values.grad, quantizer.drift.grad.clone()

    def nothing(rows):
        pass

    for change in (nothing, lambda rows: rows.add_(1)):
        (found, found_alpha), (plain, plain_alpha) = gradients(change, True), gradients(change, False)
        assert torch.equal(found, plain) and torch.equal(found_alpha, plain_alpha)


@pytest.mark.parametrize("bits", [2, 8])
def test_sums_that_are_multiplied_are_made_again(bits, monkeypatch):
    """Their product's gradients, and what can be differentiated of these, are those of sums that are kept."""
    monkeypatch.setattr(products, "_LEAST", 1)
    monkeypatch.setattr(products, "_BLOCK_BYTES", 4 * 20 * 16)  # of 16 rows
    graph, norm = random_graph(50, 40, 700), torch.rand(40) + 0.5
    x, weight = torch.randn(50, 20).requires_grad_(), torch.randn(20, 7)
    of_x, of_sums = (make_quantizer("qlr", bits, granularity=kind, channels=20) for kind in ("channel", "row"))
    of_weight = make_quantizer("qlr", bits, granularity="channel", channels=7)
    leaves = [x, of_x.drift, of_sums.drift]
    for quantizer, values in ((of_x, x), (of_sums, x), (of_weight, weight)):
        quantizer.observe(values)

    def gradients(is_kept):
        total = sums.sum_packed(graph, of_x.quantized(x), norm)
        assert torch.equal(total, sums.sum_packed(graph, of_x.quantized(x)) * norm.view(-1, 1))
        stored = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: stored.append(t.untyped_storage().nbytes()) or t, _same
        ):
            out = product(of_sums.quantized(total * 1 if is_kept else total), of_weight.quantized(weight))
        assert (4 * total.numel() in stored) == is_kept
        once = torch.autograd.grad(out.square().sum(), leaves, retain_graph=True)
        again = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        return once, torch.autograd.grad(again[1].sum(), leaves)

    for made, kept in zip(gradients(False), gradients(True)):
        assert torch.equal(made[0], kept[0])
        for one, other in zip(made, kept):
            assert other.abs().sum() > 0
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def _same(tensor):
    return tensor


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize(("granularity", "bits"), [("channel", 8), ("tensor", 2), ("shift", 8)])
def test_sums_over_a_hub_are_exact(granularity, bits, packs, monkeypatch):
    """Of a node of 100,000 in-neighbours, in float64's numbers; float32 alone errs."""
    monkeypatch.setattr(sums, "_LEAST", 1 if packs else 1 << 40)
    graph = random_graph(3000, 1, 100_000)
    x = torch.rand(3000, 7, generator=torch.Generator().manual_seed(1)) + 0.5
    quantizer = make_quantizer("qlr", bits, granularity=granularity, channels=7, grid="affine")
    quantizer.observe(x)
    codes = quantizer.quantized(x)
    assert sums.can_sum_packed(graph, codes) == (packs and granularity != "shift")
    source = graph.edges()[0]
    exact = (codes.centered.double()[source].sum(0, keepdim=True)).float() * codes.scale
    assert torch.equal(TorchOps().aggregate(graph, codes), exact)
    plain = dgl.ops.copy_u_sum(graph, codes.centered) * codes.scale
    assert bits == 2 or not torch.equal(plain, exact)


def test_attention_over_a_hub_is_summed_exactly():
    graph, degree = random_graph(3000, 1, 100_000), 100_000
    quantizer = make_quantizer("qlr", 8, granularity="tensor", grid="affine")
    x = torch.rand(3000, 6, generator=torch.Generator().manual_seed(1)) + 0.5
    quantizer.observe(x)
    attention = Quantized(torch.randint(1, 256, (degree, 2, 1)).float(), torch.tensor(1e-5))
    codes = quantizer.quantized(x)
    messages = codes.centered.view(-1, 2, 3).double()[graph.edges()[0]] * attention.centered.double()
    exact = messages.sum(0, keepdim=True).float().flatten(1) * (attention.scale * codes.scale)
    assert torch.equal(TorchOps().attend(graph, codes, attention), exact)
