"""Products of codes in blocks of rows against the plain ones."""

import pytest
import torch

from dgl_lowbit.quant import few, fused_products, make_quantizer, passes, products
from dgl_lowbit.quant.products import product
from dgl_lowbit.quant.products import products as together
from dgl_lowbit.quant.quantized import Quantized
from dgl_lowbit.quant.remade import Origin


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(passes, "_LEAST", 1)
    monkeypatch.setattr(products, "_LEAST", 1)
    monkeypatch.setattr(products, "_LEAST_WHOLE", 1)
    monkeypatch.setattr(products, "_BLOCK_BYTES", 4 * 30 * 16)  # of 16 rows


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quantisers(bits=2, inputs="row", weights="channel"):
    pair = (make_quantizer("qlr", bits, granularity=inputs), drawn(70, 30)), (
        make_quantizer("qlr", bits, granularity=weights, channels=20, clip_gradient=False), drawn(30, 20, seed=1)
    )  # fmt: skip
    for quantizer, values in pair:
        quantizer.observe(values)
    return [quantizer for quantizer, _ in pair]


def multiplied(of_inputs, of_weights, needs_x=True, served=True, x=None):
    """The product, and the gradients of inputs, weights and ranges."""
    x = (drawn(70, 30) if x is None else x.clone()).requires_grad_(needs_x)
    weight = drawn(20, 30, seed=1).requires_grad_()
    for quantizer in (of_inputs, of_weights):
        quantizer.zero_grad()
    codes = of_inputs.quantized(x)
    assert products._is_served(codes, of_weights.quantized(weight.t()))
    out = product(codes if served else Quantized(codes.centered, codes.scale), of_weights.quantized(weight.t()))
    out.backward(drawn(70, 20, seed=2))
    return out.detach(), x.grad, weight.grad, of_inputs.drift.grad.clone(), of_weights.drift.grad.clone()


@pytest.mark.parametrize("needs_x", [False, True])
@pytest.mark.parametrize("inputs", ["row", "tensor"])
@pytest.mark.parametrize("weights", ["channel", "tensor"])
@pytest.mark.parametrize("bits", [2, 4])
def test_they_are_the_plain_ones(bits, inputs, weights, needs_x):
    pair = quantisers(bits, inputs, weights)
    out, grad_x, *grads = multiplied(*pair, needs_x)
    plain_out, plain_grad_x, *plain_grads = multiplied(*pair, needs_x, served=False)
    assert torch.equal(out, plain_out)
    assert (grad_x is None) == (plain_grad_x is None) == (not needs_x)
    if needs_x:  # products of floats depend on how many rows there are
        torch.testing.assert_close(grad_x, plain_grad_x, rtol=1e-5, atol=1e-5)
    for grad, plain in zip(grads, plain_grads):
        torch.testing.assert_close(grad, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("inputs", ["row", "tensor"])
def test_zeros_are_left_out(monkeypatch, inputs):
    pair, words = quantisers(inputs=inputs), drawn(70, 30) * (drawn(70, 30, seed=4) > 1)
    pair[0].observe(words)
    dense = torch.where(words == 0, 1e-30, words)
    calls, of_few = [], fused_products.gradients_of_few
    monkeypatch.setattr(few, "_FEW", 0.3)
    monkeypatch.setattr(
        fused_products, "gradients_of_few", lambda *args, **named: calls.append(args) or of_few(*args, **named)
    )
    found, expected = (multiplied(*pair, needs_x=False, x=x) for x in (words, dense))
    assert len(calls) == 1  # of the words alone
    assert torch.equal(found[0], expected[0])
    for grad, plain in zip(found[2:], expected[2:]):
        torch.testing.assert_close(grad, plain, rtol=1e-4, atol=1e-4)


def test_codes_that_are_read_are_not_made_again():
    of_inputs, of_weights = quantisers()
    codes, weight = of_inputs.quantized(drawn(70, 30)), of_weights.quantized(drawn(30, 20, seed=1))
    assert products._is_served(codes, weight) and codes.centered is codes.centered
    assert not products._is_served(codes, weight)
    assert not products._is_served(of_inputs.quantized(drawn(7, 10, 30)), weight)


def test_gradients_can_be_differentiated_again():
    of_inputs, of_weights = quantisers()

    def second(served):
        x, weight = drawn(70, 30).requires_grad_(), of_weights.quantized(drawn(30, 20, seed=1))
        codes = of_inputs.quantized(x)
        out = product(codes if served else Quantized(codes.centered, codes.scale), weight)
        (first,) = torch.autograd.grad((out**3).sum(), of_inputs.drift, create_graph=True)
        return torch.autograd.grad(first, (x, of_inputs.drift, of_weights.drift))

    for grad, plain in zip(second(True), second(False)):
        assert plain.abs().sum() > 0
        torch.testing.assert_close(grad, plain, rtol=1e-4, atol=1e-2)


def test_what_follows_is_as_by_itself():
    """Constants a row, a bias, and a sum over an operand, which it is written over where a product made it."""
    pair, after = quantisers(), torch.rand(70, generator=torch.Generator().manual_seed(5)) + 0.5
    bias, x, weights = drawn(20, seed=6).requires_grad_(), drawn(70, 30).requires_grad_(), drawn(30, 20, seed=1)
    leaves = [x, bias, *(quantizer.drift for quantizer in pair)]

    def results(is_at_once, onto):
        of_x, of_weights = (lambda: pair[0].quantized(x)), pair[1].quantized(weights)
        if is_at_once:
            out = product(of_x(), of_weights, after, bias, onto)
        else:
            out = product(of_x(), of_weights) * after.view(-1, 1) + bias + onto
        return out, torch.autograd.grad(out.square().sum(), leaves)

    def first():
        return product(pair[0].quantized(x), pair[1].quantized(weights))

    for make, is_over in ((first, True), (lambda: first() * 1, False), (lambda: drawn(70, 20, seed=7), False)):
        onto = make()
        (out, gradients), (plain, plain_gradients) = results(True, onto), results(False, make())
        assert torch.equal(out, plain) and (out.data_ptr() == onto.data_ptr()) == is_over
        for grad, expected in zip(gradients, plain_gradients):
            torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("is_sparse", [False, True])
def test_products_of_the_same_codes_are_those_by_themselves(monkeypatch, is_sparse):
    """Of weights with one scale and with one a column; dense, or mostly zeros, which need no gradient."""
    (of_x, first), second = quantisers(), make_quantizer("qlr", 2, granularity="tensor", clip_gradient=False)
    x, weights = drawn(70, 30), [drawn(30, 20, seed=1).requires_grad_(), drawn(30, 7, seed=2).requires_grad_()]
    if is_sparse:
        x = x * (drawn(70, 30, seed=4) > 1)
        monkeypatch.setattr(few, "_FEW", 0.3)
    of_x.observe(x)
    second.observe(weights[1])
    x.requires_grad_(not is_sparse)
    leaves = [*weights, *(q.drift for q in (of_x, first, second)), *([] if is_sparse else [x])]

    def results(is_at_once):
        codes, quantised = of_x.quantized(x), [q.quantized(w) for q, w in zip((first, second), weights)]
        outs = together(codes, quantised) if is_at_once else [product(of_x.quantized(x), w) for w in quantised]
        loss = outs[0].square().sum() + (outs[1] * drawn(70, 7, seed=3)).sum()
        return outs, torch.autograd.grad(loss, leaves, retain_graph=True), torch.autograd.grad(
            torch.autograd.grad(loss, of_x.drift, create_graph=True), leaves, allow_unused=True
        )  # fmt: skip

    calls = _counted(monkeypatch, products._Product, "apply")
    outs, *gradients = results(True)
    assert len(calls) == 1
    plain, *plain_gradients = results(False)
    assert all(map(torch.equal, outs, plain)) and all(out.is_contiguous() for out in outs)
    for found, expected in zip(gradients, plain_gradients):
        for grad, other in zip(found, expected):
            torch.testing.assert_close(grad, other, rtol=1e-4, atol=1e-3)


def _counted(monkeypatch, owner, name):
    calls, function = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args: calls.append(args) or function(*args))
    return calls


@pytest.mark.parametrize("is_changed", [False, True])
def test_rows_that_can_be_made_again_are_not_kept(is_changed):
    pair, values, asked = quantisers(), drawn(70, 30), []

    def rows(kept, start, out):
        asked.append((start, len(out)))
        out.copy_(2 * kept[0][start : start + len(out)])

    def gradients(is_known):
        base = values.clone().requires_grad_()
        x, stand_in = 2 * base, 2 * base.sum(1, keepdim=True).expand(-1, 30)  # gradients of it would be others
        x = Origin(stand_in, (values,), rows).remember(x) if is_known else x
        if is_changed:
            x.mul_(1)
        for quantizer in pair:
            quantizer.zero_grad()
        product(pair[0].quantized(x), pair[1].quantized(drawn(30, 20, seed=1))).square().sum().backward()
        return [base.grad, *(quantizer.drift.grad.clone() for quantizer in pair)]

    (found, *of_ranges), (plain, *of_plain_ranges) = gradients(True), gradients(False)
    assert all(map(torch.equal, of_ranges, of_plain_ranges))
    if is_changed:  # what is known of it holds no more
        assert not asked and torch.equal(found, plain)
    else:
        assert asked == [(0, 16), (16, 16), (32, 16), (48, 16), (64, 6)]
        torch.testing.assert_close(found, plain.sum(1, keepdim=True).expand(-1, 30))


@pytest.mark.parametrize("inputs", ["row", "tensor"])
def test_threads_change_nothing(inputs):
    pair, before, results = quantisers(inputs=inputs), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(multiplied(*pair))
    finally:
        torch.set_num_threads(before)
    assert all(all(map(torch.equal, results[0], result)) for result in results[1:])
