"""Compiled passes of training against the plain functions, to the bit."""

import multiprocessing

import numpy as np
import pytest
import torch

from dgl_lowbit.quant import fused, make_quantizer, passes, ste
from dgl_lowbit.quant.format import QParams
from dgl_lowbit.quant.scaled import scaled

SHAPES = {"tensor": (), "channel": (1, 0), "row": (0, 1)}


@pytest.fixture(autouse=True)
def serve_few_values(monkeypatch):
    monkeypatch.setattr(passes, "_LEAST", 1)
    monkeypatch.setattr(passes, "_LEAST_A_THREAD", 64)


def drawn(shape, seed=0, requires_grad=False, times=1.0):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * times
    return values.requires_grad_(requires_grad)


def plainly(monkeypatch, function):
    with monkeypatch.context() as patch:
        for module in (fused, passes):
            patch.setattr(module, "layout_of", lambda x, scale: None)
        return function()


def run(x, kind, qmax=3, margin=0.5, skew=0.0, clip=True, needs_x=True):
    """Codes, and gradients of values and scale."""
    x = x.detach().requires_grad_(needs_x)
    shape = [size or x.shape[n] for n, size in enumerate(SHAPES[kind])] if kind != "row" else [*x.shape[:-1], 1]
    scale = (drawn(shape, 1).abs() + 0.3).requires_grad_()
    zero = torch.full(shape, qmax / 2)
    params = QParams(scale, zero, zero + skew)
    centered = ste.centered_codes(x, params, qmax, torch.tensor(margin), clip)
    centered.backward(drawn(x.shape, 2))
    return centered.detach(), x.grad, scale.grad


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(
    "options",
    [{}, {"qmax": 255, "margin": 0.0}, {"clip": False}, {"skew": 1 / 85}, {"needs_x": False}],
)
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (70, 40), (1100, 64), (64, 1100)])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_codes_and_gradients_are_those_of_the_plain_functions(monkeypatch, kind, options, shape, is_transposed):
    x = drawn(shape[::-1], times=2.0).t() if is_transposed else drawn(shape, times=2.0)
    assert passes.layout_of(x, torch.ones(())) is not None
    centered, grad_x, grad_scale = run(x, kind, **options)
    plain_centered, plain_grad_x, plain_grad_scale = plainly(monkeypatch, lambda: run(x, kind, **options))
    assert torch.equal(centered, plain_centered)
    assert centered.stride() == plain_centered.stride() or 1 in shape
    assert (grad_x is None) == (plain_grad_x is None) == ("needs_x" in options)
    assert grad_x is None or torch.equal(grad_x, plain_grad_x)
    size = drawn(shape, 2).abs().sum().item()
    torch.testing.assert_close(grad_scale, plain_grad_scale, rtol=1e-5, atol=1e-5 * size)


@pytest.mark.parametrize("kind", SHAPES)
def test_results_do_not_depend_on_threads(kind):
    x, before, results = drawn((4100, 70)), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(x, kind))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, results[0], results[1])) and all(map(torch.equal, results[0], results[2]))


@pytest.mark.parametrize("rows", [1, 1023, 1024, 4100, 9000])
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads_share_whole_blocks(monkeypatch, rows, threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    parts = sorted(passes.in_parts(np.empty((rows, 70), np.float32), 1024, lambda *part: part))
    assert len(parts) <= threads and parts[0][0] == 0 and parts[-1][1] == rows
    assert all(stop == start and start % 1024 == 0 for (_, stop), (start, _) in zip(parts, parts[1:]))


@pytest.mark.slow
def test_scales_do_not_depend_on_threads():
    first, second, before, results = drawn((4100, 1), 1).exp(), drawn((1, 70), 2).exp(), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            scales = [scale.clone().requires_grad_() for scale in (first, second)]
            scaled(drawn((4100, 70)), *scales).backward(drawn((4100, 70), 3))
            results.append([scale.grad for scale in scales])
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, results[0], results[1])) and all(map(torch.equal, results[0], results[2]))


@pytest.mark.parametrize("name", ["qlr", "bt", "bt*"])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "row", "shift"])
def test_quantisers_of_every_kind_are_served(monkeypatch, name, granularity):
    x = drawn((90, 30)).exp()
    quantizer = make_quantizer(name, 2, granularity=granularity, channels=30)
    quantizer.observe(x)

    def trained():
        quantizer.zero_grad()
        given = x.clone().requires_grad_()
        (quantizer.fake_quantize(given) * drawn(x.shape, 5)).sum().backward()
        return quantizer.fake_quantize(x).detach(), given.grad, quantizer.drift.grad.clone()

    served = []
    with monkeypatch.context() as patch:
        compiled = fused.centered
        patch.setattr(fused, "centered", lambda *args: served.append(args) or compiled(*args))
        values, grad, grad_alpha = trained()
    assert len(served) == 2
    plain_values, plain_grad, plain_grad_alpha = plainly(monkeypatch, trained)
    assert torch.equal(values, plain_values) and torch.equal(grad, plain_grad)
    torch.testing.assert_close(grad_alpha, plain_grad_alpha, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("other", ["double", "row_and_column", "middle"])
def test_what_is_not_served_is_left_to_torch(other):
    x, scale = drawn((6, 5, 4)), torch.ones(())
    if other == "double":
        x = x.double()
    else:
        scale = torch.ones(6, 1, 4) if other == "row_and_column" else torch.ones(1, 5, 1)
    assert passes.layout_of(x, scale) is None
    zero = torch.zeros(())
    codes = ste.centered_codes(x, QParams(scale, zero, zero), 3, zero)
    assert torch.equal(codes, x.round().clamp(0, 3))


@pytest.mark.parametrize("x", [drawn((70, 40)), drawn((40, 70)).t(), drawn((9,)).double(), torch.empty(0, 3)])
def test_totals_and_magnitudes(x):
    expected = torch.stack([x.double().sum(), x.double().abs().sum()])
    torch.testing.assert_close(fused.total_and_magnitude(x), expected, rtol=1e-12, atol=1e-12)


def test_what_is_not_a_number_stays_so():
    x = drawn((20, 30))
    x[3, 4] = torch.nan
    centered = ste.centered_codes(x, QParams(*(torch.tensor(v) for v in (1.0, 1.5, 1.5))), 3, torch.tensor(0.5))
    assert centered.isnan().nonzero().tolist() == [[3, 4]]


def test_gradients_can_be_differentiated_again(monkeypatch):
    def second():
        x, scale = drawn((40, 30), requires_grad=True), torch.tensor(0.7, requires_grad=True)
        zero = torch.tensor(1.5)
        values = ste.centered_codes(x, QParams(scale, zero, zero), 3, torch.tensor(0.5)) * scale
        (first,) = torch.autograd.grad((values**3).sum(), scale, create_graph=True)
        return torch.autograd.grad(first, (x, scale))

    for compiled, plain in zip(second(), plainly(monkeypatch, second)):
        assert compiled.abs().sum() > 0
        torch.testing.assert_close(compiled, plain)


def test_workers_can_be_forked_after_it():
    x, one, before = drawn((4100, 70)), torch.ones(()), torch.get_num_threads()
    layout, context = passes.layout_of(x, one), multiprocessing.get_context("fork")
    results = context.SimpleQueue()

    def code():  # torch's own threads do not survive, those of the pass are started anew
        return fused.centered(x, one, one, one, 3, layout).numpy().sum().item()

    try:
        torch.set_num_threads(3)
        expected = code()
        child = context.Process(target=lambda: results.put(code()), daemon=True)
        child.start()
        child.join(20)
        assert child.exitcode == 0 and results.get() == expected
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("rows", ["one", "each"])
@pytest.mark.parametrize("columns", ["one", "each", "none"])
@pytest.mark.parametrize("shape", [(3, 1), (70, 40), (2100, 64), (9, 5, 33)])
def test_scales_multiply_in_one_pass(monkeypatch, rows, columns, shape):
    first = drawn((*shape[:-1], 1) if rows == "each" else (), 1).abs().add(0.1)
    second = None if columns == "none" else drawn(shape[-1:] if columns == "each" else (), 2).abs().add(0.1)

    def run():
        x, *scales = (t.clone().requires_grad_() for t in (drawn(shape), first, second) if t is not None)
        out = scaled(x.clone(), *scales)
        out.backward(drawn(shape, 3))
        return out.detach(), x.grad, *(scale.grad for scale in scales)

    out, grad_x, *grads = run()
    assert torch.equal(out, drawn(shape) * first * (1 if second is None else second))
    assert fused.can_scale(out, first, torch.ones(()) if second is None else second)
    plain_out, plain_grad_x, *plain_grads = plainly(monkeypatch, run)
    assert torch.equal(out, plain_out) and torch.equal(grad_x, plain_grad_x)
    for grad, plain, scale in zip(grads, plain_grads, (first, second)):
        assert grad.shape == scale.shape
        torch.testing.assert_close(grad, plain, rtol=1e-4, atol=1e-3)


def test_gradients_of_scaled_have_their_closed_form():
    x, first, second = (drawn(s, n).double().requires_grad_() for n, s in enumerate([(6, 4), (6, 1), (1, 4)]))
    with torch.no_grad():
        first.abs_().add_(0.1)
        second.abs_().add_(0.1)
    assert torch.autograd.gradcheck(lambda x, *scales: scaled(x.clone(), *scales), (x, first, second))
    assert torch.autograd.gradcheck(lambda x, s: scaled(x.clone(), s), (x, second))
    assert torch.autograd.gradgradcheck(lambda x, *scales: scaled(x.clone(), *scales), (x, first, second))
