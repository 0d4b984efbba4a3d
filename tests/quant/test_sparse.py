from contextlib import contextmanager

import dgl
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.experiments.models import MODELS
from dgl_lowbit.quant import QLRQuantizer, TruncationQuantizer, sparse_products
from dgl_lowbit.quant.sparse import SparseFeatures
from tests.conftest import homogeneous


def bag_of_words(rows=12, columns=30, signed=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(rows, columns, generator=generator) * (torch.rand(rows, columns, generator=generator) < 0.15)
    x[3] = 0
    return x - 2 * x * (torch.rand(rows, columns, generator=generator) < 0.3) if signed else x


@contextmanager
def torch_threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def dense():
    return bag_of_words()


@pytest.fixture
def sparse(dense):
    return SparseFeatures.from_dense(dense)


def test_it_is_the_dense_matrix(dense, sparse):
    assert torch.equal(sparse.to_dense(), dense)
    assert sparse.shape == dense.shape and len(sparse) == len(dense) and sparse.dtype == dense.dtype
    for index in (slice(2, 7), slice(None, None, 3), torch.tensor([5, 3, 3, 0]), dense.sum(1) > 1):
        assert torch.equal(sparse[index].to_dense(), dense[index])
    assert torch.equal(sparse.amax(-1, keepdim=True), dense.amax(-1, keepdim=True))
    assert torch.equal(sparse.amin(-1, keepdim=True), dense.amin(-1, keepdim=True))


def test_scales_of_channels():
    """As messages have them where a layer sums before it multiplies."""
    graph, dense = homogeneous(), bag_of_words(40)
    layer = lowbit.nn.GraphConv(dense.shape[1], 64, config=lowbit.QuantConfig(2)).train()
    outputs = [layer(graph, x) for x in (dense, SparseFeatures.from_dense(dense))]
    assert torch.equal(*outputs)


def test_products_and_their_gradients(dense, sparse):
    weight = torch.randn(30, 4, requires_grad=True)
    values = sparse.values.clone().requires_grad_()
    for product in (lambda x: x @ weight, lambda x: torch.matmul(x, weight), lambda x: F.linear(x, weight.t())):
        torch.testing.assert_close(product(sparse), product(dense))
    grads = torch.autograd.grad((sparse.with_values(values) @ weight).square().sum(), (values, weight))
    x = dense.clone().requires_grad_()
    expected = torch.autograd.grad((x @ weight).square().sum(), (x, weight))
    torch.testing.assert_close(grads[0], expected[0][dense != 0])
    torch.testing.assert_close(grads[1], expected[1])


@pytest.mark.parametrize("columns", [7, 16, 40, 64, 100])
def test_compiled_products_are_the_dense_ones_on_any_number_of_threads(columns):
    """Of whole numbers, whose sums are exact in any order."""
    dense = (bag_of_words(1500, 300) * 100).round()
    sparse, whole = SparseFeatures.from_dense(dense), torch.Generator().manual_seed(1)
    weight = torch.randint(-9, 10, (300, columns), generator=whole).float()
    upstream = torch.randint(-9, 10, (1500, columns), generator=whole).float()
    assert sparse_products.are_compiled(sparse.values, weight, 300)
    expected = dense @ weight, (upstream @ weight.t())[dense != 0], dense.t() @ upstream
    for threads in (1, 2, 3):
        with torch_threads(threads):
            values, learned = (x.clone().requires_grad_() for x in (sparse.values, weight))
            product = sparse.with_values(values) @ learned
            product.backward(upstream)
        for got, wanted in zip((product, values.grad, learned.grad), expected):
            assert torch.equal(got, wanted)


@pytest.mark.parametrize("rows", [299, 301])
def test_products_that_do_not_fit_are_refused_at_any_size(rows):
    sparse = SparseFeatures.from_dense(bag_of_words(1500, 300))
    with pytest.raises(RuntimeError):
        sparse @ torch.rand(rows, 64)
    assert not sparse_products.are_compiled(sparse.values, torch.rand(300), 300)


def test_compiled_products_sum_floats_in_one_order_on_any_number_of_threads():
    sparse, results = SparseFeatures.from_dense(bag_of_words(3000, 300)), []
    for threads in (1, 2, 3):
        weight = torch.rand(300, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with torch_threads(threads):
            (sparse @ weight).square().sum().backward()
        results.append(weight.grad)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_products_have_second_derivatives():
    sparse = SparseFeatures.from_dense(bag_of_words(1500, 300))
    weight = torch.rand(300, 64, dtype=torch.float32, requires_grad=True)
    (grad,) = torch.autograd.grad((sparse @ weight).pow(3).sum(), weight, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), weight)
    dense = sparse.to_dense()
    torch.testing.assert_close(second, dense.t() @ (6 * (dense @ weight) * dense.sum(1, keepdim=True)).detach())


def test_operands_by_keyword_are_those_by_place(dense, sparse):
    weight, bias, rows = torch.randn(30, 4), torch.randn(4), torch.rand(12, 1)
    calls = {
        "linear": lambda x: F.linear(x, weight=weight.t(), bias=bias),
        "linear of input": lambda x: F.linear(input=x, weight=weight.t()),
        "matmul": lambda x: torch.matmul(x, other=weight),
        "matmul of input": lambda x: torch.matmul(input=x, other=weight),
        "mm": lambda x: torch.mm(input=x, mat2=weight),
        "module": lambda x: nn.Dropout(0.0).train()(input=x),
        "mul": lambda x: torch.mul(input=x, other=rows),
        "scaled": lambda x: torch.mul(rows, other=x),
        "of two": lambda x: torch.mul(x, other=x),
        "sum": lambda x: torch.sum(input=x, dim=1),
    }
    for name, call in calls.items():
        got = call(sparse)
        assert isinstance(got, SparseFeatures) == (name in ("module", "mul", "scaled")), name
        torch.testing.assert_close(got.to_dense() if isinstance(got, SparseFeatures) else got, call(dense))


def test_it_moves_as_a_tensor_does(dense, sparse):
    assert sparse.to(torch.float32) is sparse and sparse.to("cpu") is sparse and sparse.cpu() is sparse
    for moved in (sparse.to(torch.float64), sparse.to(dtype=torch.float64), sparse.double(), sparse.to(dense.double())):
        assert isinstance(moved, SparseFeatures) and torch.equal(moved.to_dense(), dense.double())
    assert moved.float().dtype == torch.float32 and sparse.to(moved).dtype == torch.float64
    elsewhere = sparse.to("meta")
    assert elsewhere.device.type == elsewhere._pattern.rows.device.type == "meta"
    assert dense.double().to(sparse).dtype == torch.float32


def test_dropout_acts_on_the_non_zeros(sparse):
    module = nn.Dropout(0.5)
    torch.manual_seed(0)
    dropped = module(sparse)
    assert isinstance(dropped, SparseFeatures)
    kept = dropped.values != 0
    assert 0 < kept.sum() < len(kept) and torch.equal(dropped.values[kept], 2 * sparse.values[kept])
    assert torch.equal(module.eval()(sparse).values, sparse.values)


def test_dropout_draws_from_the_seed_of_torch():
    sparse = SparseFeatures.from_dense(bag_of_words(3000, 300))
    drawn = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        drawn += [F.dropout(sparse, 0.3).values, torch.dropout(sparse, 0.3, True).values]
    assert torch.equal(drawn[0], drawn[2]) and torch.equal(drawn[1], drawn[3])
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[4])
    kept = drawn[0] != 0
    assert abs(kept.float().mean() - 0.7) < 0.01
    torch.testing.assert_close(drawn[0][kept], sparse.values[kept] / 0.7)
    for unchanged in (
        F.dropout(sparse, 0.3, training=False),
        torch.dropout(sparse, 0.3, False),
        F.dropout(sparse, 0.0),
    ):
        assert torch.equal(unchanged.values, sparse.values)
    assert not F.dropout(sparse, 1.0).values.any()


def test_other_functions_get_the_dense_matrix(dense, sparse):
    assert torch.equal(torch.relu(sparse), dense)
    assert torch.equal(torch.cat([sparse, sparse]), torch.cat([dense, dense]))
    assert torch.equal(sparse * torch.full((12, 30), 2.0), 2 * dense)


def test_dtype_and_device_are_taken_from_it(sparse):
    assert torch.ones(3, dtype=torch.int64).to(sparse.with_values(sparse.values.double())).dtype == torch.float64


def test_rows_are_scaled(dense, sparse):
    scale = torch.arange(12.0).unsqueeze(1)
    for scaled in (sparse * scale, scale * sparse, torch.mul(sparse, scale)):
        assert isinstance(scaled, SparseFeatures) and torch.equal(scaled.to_dense(), dense * scale)
    assert torch.equal((2 * sparse).to_dense(), 2 * dense)


def test_an_empty_matrix():
    empty = SparseFeatures.from_dense(torch.zeros(3, 5))
    assert torch.equal(empty @ torch.ones(5, 2), torch.zeros(3, 2))
    assert torch.equal(empty.amax(), torch.zeros(3, 1))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("granularity", ["row", "tensor"])
@pytest.mark.parametrize("make", [QLRQuantizer, lambda *a, **k: TruncationQuantizer(*a, skew_aware=True, **k)])
def test_quantisers_code_non_zeros_as_they_code_the_dense_matrix(make, granularity, signed):
    dense = bag_of_words(signed=signed)
    quantizer = make(2, granularity=granularity)
    quantizer.observe(dense)
    again = make(2, granularity=granularity)
    again.observe(SparseFeatures.from_dense(dense))
    assert torch.equal(again.log_alpha, quantizer.log_alpha)
    expected, scale = quantizer.split(dense)
    centered, sparse_scale = quantizer.split(SparseFeatures.from_dense(dense))
    assert torch.equal(sparse_scale, scale)
    assert torch.equal(torch.eye(12) @ centered, expected)
    if make is QLRQuantizer and not signed:
        assert isinstance(centered, SparseFeatures)
        upstream = torch.randn(30, 3)
        grads = [torch.autograd.grad(((c @ upstream) * s).sum(), quantizer.drift)[0]
                 for c, s in ((expected, scale), (centered, sparse_scale))]  # fmt: skip
        torch.testing.assert_close(*grads)


@pytest.mark.parametrize("bits", [32, 2])
@pytest.mark.parametrize("name", MODELS)
def test_models_take_sparse_features(name, bits):
    torch.manual_seed(0)
    graph = dgl.add_self_loop(homogeneous())
    dense = bag_of_words(graph.num_nodes(), 40)
    model = lowbit.quantize(MODELS[name](40, 3, hidden=8), lowbit.QuantConfig(bits))
    if bits < 32:
        lowbit.calibrate(model, graph, dense)
    model.eval()
    expected, out = model(graph, dense), model(graph, SparseFeatures.from_dense(dense))
    if bits == 2:
        assert torch.equal(out, expected)  # whole numbers and their halves, in whatever order
    torch.testing.assert_close(out, expected)
    out.sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "drift" not in name)
