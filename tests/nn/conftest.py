"""Fixtures of tests of layers."""

import pytest

from dgl_lowbit.quant import Quantizer


@pytest.fixture
def masks(monkeypatch):
    """The masks that quantisers are given, in order."""
    seen, quantized = [], Quantizer.quantized

    def spy(self, x, observed=None, protected=None):
        if self.training and protected is not None:
            seen.append(protected)
        return quantized(self, x, observed, protected)

    monkeypatch.setattr(Quantizer, "quantized", spy)
    return seen
