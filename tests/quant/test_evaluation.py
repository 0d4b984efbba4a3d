"""What looks at a model leaves it as it was, whether its forward succeeds or fails."""

import dgl.nn
import pytest
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.quant import Observer, Quantizer
from dgl_lowbit.training import predict
from tests.conftest import features


class Failing(nn.Module):
    """Fails after its first layer, as long as it is told to."""

    def __init__(self):
        super().__init__()
        self.conv, self.head, self.fails = dgl.nn.GraphConv(12, 12), nn.Linear(12, 3), False

    def forward(self, graph, feat):
        h = self.conv(graph, feat)
        if self.fails:
            raise RuntimeError("halfway")
        return self.head(h)


LOOKS = {
    "calibrate": lowbit.calibrate,
    "diagnose": lowbit.diagnose,
    "predict": predict,
    "freeze": lambda model, graph, feat: lowbit.freeze(model),
    "measure": lambda model, graph, feat: lowbit.SmoothnessRegularizer.attached(model).measure(graph, feat),
    "sensitivity": lowbit.sensitivity,
}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("look", LOOKS)
def test_modes_and_observers_are_left_as_found(look, fails, graph):
    model, feat = Failing().train(), features(graph, 12)
    lowbit.SmoothnessRegularizer(model, threshold=1.0)
    if look != "sensitivity":
        model = lowbit.calibrate(lowbit.quantize(model, lowbit.QuantConfig(4)), graph, feat)
    model.conv.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    model.fails = fails
    if fails:
        with pytest.raises((RuntimeError, lowbit.FreezeError)):
            LOOKS[look](model, graph, feat)
    else:
        LOOKS[look](model, graph, feat)
    assert {name: module.training for name, module in model.named_modules()} == modes
    quantizers = [module for module in model.modules() if isinstance(module, Quantizer)]
    assert not any(q.observing or q.watch for q in quantizers)
    assert all(q.observer == Observer() for q in quantizers)
    assert model.conv.smoothness.watching is None
