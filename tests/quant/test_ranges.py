"""Ranges of rows, and what is known of them, against torch's."""

import pytest
import torch

from dgl_lowbit.quant import fused, make_quantizer, passes
from dgl_lowbit.quant.ranges import is_finite, ranges_of_rows
from dgl_lowbit.quant.sparse import SparseFeatures


@pytest.fixture(autouse=True)
def serve_few_values(monkeypatch):
    monkeypatch.setattr(passes, "_LEAST", 1)
    monkeypatch.setattr(fused, "_LEAST_OF_ROW", 1)


def extremes(x):
    return x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)


@pytest.mark.parametrize("fault", [None, torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (70, 40), (3, 130), (2, 3, 17)])
def test_they_are_those_of_torch(shape, fault):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if fault is not None:
        x.view(-1)[x.numel() // 2] = fault
    for values in (x, x.transpose(0, 1)):
        assert is_finite(values) == (fault is None)
        for _ in range(2):  # what the check has found, and anew
            for found, expected in zip(ranges_of_rows(values), extremes(values)):
                torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_one_pass_serves_check_and_codes(monkeypatch):
    x, quantizer, taken = torch.randn(70, 40), make_quantizer("qlr", 2, granularity="row"), []
    quantizer.observe(x)
    kernel = fused.ranges_of_rows
    monkeypatch.setattr(fused, "ranges_of_rows", lambda x: taken.append(x) or kernel(x))
    assert is_finite(x) and len(taken) == 1
    quantizer.qparams(x)
    assert len(taken) == 1
    quantizer.qparams(x)  # known for once
    assert len(taken) == 2


def test_what_is_known_holds_as_long_as_the_values():
    x = torch.randn(70, 40)
    assert is_finite(x)
    x.mul_(2)
    assert all(map(torch.equal, ranges_of_rows(x), extremes(x)))


def test_they_need_no_dense_matrix_of_sparse_features():
    x = torch.randn(30, 20) * (torch.rand(30, 20) > 0.8)
    sparse = SparseFeatures.from_dense(x)
    assert is_finite(sparse) and all(map(torch.equal, ranges_of_rows(sparse), extremes(x)))
    assert not is_finite(sparse * torch.inf)


def test_what_is_known_is_not_saved_with_the_values(tmp_path):
    x = torch.randn(70, 40)
    assert is_finite(x)
    torch.save(x, tmp_path / "x.pt")
    assert not vars(x) and (tmp_path / "x.pt").stat().st_size < 4 * 70 * 40 + 2000
