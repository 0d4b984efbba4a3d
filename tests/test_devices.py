"""Training on a GPU, where one is: the same tests run on the CPU, so that they are themselves tested everywhere."""

import copy

import dgl
import pytest
import torch
from torch import nn

import dgl_lowbit as lowbit
from dgl_lowbit.experiments.models import MODELS
from dgl_lowbit.quant import make_quantizer
from dgl_lowbit.training import predict, stage


def _has_gpu():
    if not torch.cuda.is_available():
        return False
    try:
        dgl.graph(([0], [0])).to("cuda")
    except dgl.DGLError:  # DGL's wheels on PyPI are built for the CPU
        return False
    return True


NO_GPU = pytest.mark.skipif(not _has_gpu(), reason="no GPU that torch and DGL both know")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, NO_GPU])]
CPU = torch.device("cpu")


class Own(nn.Module):
    """Message passing of one's own, which is low-bit where DGL runs it."""

    def __init__(self, in_feats, out_feats):
        super().__init__()
        self.fc = nn.Linear(in_feats, out_feats)

    def forward(self, graph, feat):
        with graph.local_scope():
            graph.ndata["h"] = self.fc(feat)
            graph.update_all(dgl.function.copy_u("h", "m"), dgl.function.sum("m", "h"))
            return graph.ndata["h"]


LAYERS = {
    "gcn": lambda: dgl.nn.GraphConv(12, 4),
    "bounded": lambda: dgl.nn.GraphConv(12, 12),
    "sage": lambda: dgl.nn.SAGEConv(12, 4, "pool"),
    "gat": lambda: dgl.nn.GATConv(12, 2, 2),
    "gatv2": lambda: dgl.nn.GATv2Conv(12, 2, 2),
    "gin": lambda: dgl.nn.GINConv(nn.Linear(12, 4)),
    "smp": lambda: lowbit.nn.SMPConv(12, threshold=0.1),
    "deep": lambda: lowbit.nn.DeepGraphConv(12, 3),
    "own": lambda: Own(12, 4),
}


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    source, target = torch.randint(200, (2, 1200))
    graph = dgl.add_self_loop(dgl.graph((source, target), num_nodes=200))
    label = torch.arange(200) % 4
    graph.ndata["feat"] = torch.randn(200, 12) + 2 * nn.functional.one_hot(label, 12)
    graph.ndata["label"] = label
    for place, key in enumerate(("train_mask", "val_mask", "test_mask")):
        graph.ndata[key] = torch.arange(200) % 3 == place
    return graph


@pytest.mark.parametrize("granularity", ["tensor", "channel", "row", "shift"])
@pytest.mark.parametrize("name", ["qlr", "bt*"])
@pytest.mark.parametrize("device", DEVICES)
def test_quantisers_give_what_they_give_on_the_cpu(device, name, granularity):
    x, results = torch.randn(64, 12, generator=torch.Generator().manual_seed(1)), []
    if name == "bt*" and granularity == "shift":
        pytest.skip("truncation has no powers of two a row")
    for where in (CPU, device):
        quantizer = make_quantizer(name, 4, granularity=granularity, channels=12).to(where)
        leaf = x.to(where).requires_grad_()
        out = quantizer(leaf)
        (out * torch.linspace(-1, 1, 12, device=where)).sum().backward()
        assert out.device.type == leaf.grad.device.type == torch.device(where).type
        results.append([out, leaf.grad, *(p.grad for p in quantizer.parameters())])
    for one, other in zip(*results):
        torch.testing.assert_close(other.cpu(), one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("device", DEVICES)
def test_steps_of_layers_are_those_on_the_cpu(device, name, small):
    torch.manual_seed(2)
    layer, results = LAYERS[name](), []
    for where in (CPU, device):
        graph = small.to(where)
        bounded = copy.deepcopy(layer).to(where)
        if name == "bounded":
            lowbit.SmoothnessRegularizer(bounded, threshold=0.5)
        model = lowbit.quantize(bounded, lowbit.QuantConfig(8), graph, graph.ndata["feat"])
        lowbit.calibrate(model, graph, graph.ndata["feat"])
        out = model(graph, graph.ndata["feat"])
        out.square().mean().backward()
        gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
        assert gradients and all(part.device.type == torch.device(where).type for part in [out, *gradients.values()])
        if name == "bounded":
            lowbit.SmoothnessRegularizer.attached(model).step()
        results.append((out, gradients))
    (out, gradients), (other, others) = results
    most = 0.02 * float(out.detach().abs().max())  # a code at an edge falls to either side
    torch.testing.assert_close(other.cpu(), out, rtol=0, atol=most)
    for key, part in gradients.items():
        assert (others[key].cpu() - part).norm() <= 0.05 * part.norm() + 1e-6, key


@pytest.mark.parametrize("how", ["dense", "sparse", "sampled"])
@pytest.mark.parametrize("device", DEVICES)
def test_stages_train_resume_and_freeze(device, how, small, tmp_path, monkeypatch):
    graph = small.to(device)
    options = {"sampler": dgl.dataloading.NeighborSampler([5, 5]), "batch_size": 40} if how == "sampled" else {}
    if how == "sparse":
        graph.ndata["feat"], options["sparse"] = graph.ndata["feat"].relu() * (graph.ndata["feat"] > 1), True
    torch.manual_seed(3)
    teacher = (MODELS["sage"] if how == "sampled" else MODELS["gcn"])(12, 4, 8).to(device)
    lowbit.train(teacher, graph, epochs=5, progress=False, **options)
    state = torch.cuda.get_rng_state() if device == "cuda" else None
    student = lowbit.quantize(teacher, lowbit.QuantConfig(4))
    settings = {"teacher": teacher, "epochs": 12, "checkpoint": tmp_path / "run.pt", "progress": False, **options}
    again, whole = copy.deepcopy(student), lowbit.train(student, graph, **settings)
    if how == "dense":
        (tmp_path / "run.pt").unlink()
        epoch = stage.Run.epoch
        monkeypatch.setattr(stage.Run, "epoch", lambda run, number: epoch(run, number) if number < 11 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            lowbit.train(again, graph, **settings)
        monkeypatch.undo()
        assert lowbit.train(again, graph, resume=True, **settings) == whole
    assert state is None or torch.equal(state, torch.cuda.get_rng_state())
    assert all(p.device.type == device for p in student.parameters())
    if how == "dense":
        found, expected = lowbit.freeze(student)(small, small.ndata["feat"]), predict(student, graph).cpu()
        assert (found.argmax(1) == expected.argmax(1)).float().mean() > 0.98


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_models_are_pruned_and_boosted(device, small):
    graph = small.to(device)
    torch.manual_seed(4)
    model = MODELS["gcn"](12, 4, 8).to(device)
    pruner = lowbit.Pruner(model, graph, features=0.25, channels=0.5, edges=0.2, start=0, stop=2, every=1)
    lowbit.train(model, graph, epochs=4, pruner=pruner, progress=False)
    narrow = pruner.squeeze()(pruner.graph, graph.ndata["feat"])
    torch.testing.assert_close(narrow, model(graph, graph.ndata["feat"]), rtol=1e-3, atol=1e-4)
    boosted = lowbit.boost(graph, rounds=3, hidden=8, epochs=3, finetune=3, progress=False)
    assert all(part.device.type == device for part in (narrow, *boosted.model.parameters()))
