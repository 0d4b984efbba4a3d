import inspect

import dgl
import pytest
import torch

import dgl_lowbit as lowbit
from dgl_lowbit.data import load_graph
from dgl_lowbit.experiments import data
from dgl_lowbit.experiments.models import MODELS
from dgl_lowbit.experiments.planted import planted_graph
from dgl_lowbit.quant import QLRQuantizer
from dgl_lowbit.training import (
    PATIENCE,
    accuracy,
    distillation_loss,
    history,
    parameter_groups,
    predict,
    stage,
    train,
)

from .models import build


def test_fit_keeps_the_best_validation_epoch_and_repeats(planted):
    runs = []
    for _ in range(2):
        torch.manual_seed(1)
        model = MODELS["gcn"](1433, 7, hidden=16)
        runs.append((train(model, planted, epochs=12, seed=1, progress=False), predict(model, planted)))
    (history, logits), (again, logits_again) = runs
    assert history == again and torch.equal(logits, logits_again)
    assert history.best["val_accuracy"] == max(epoch["val_accuracy"] for epoch in history.epochs)
    assert accuracy(logits, planted) == history.best["test_accuracy"]
    assert accuracy(logits, planted) > 0.4


@pytest.mark.parametrize(
    "name", [name if name == "gcn" else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_a_student_learns_from_its_teacher_and_freezes(name, monkeypatch):
    monkeypatch.setattr(data, "planted_graph", planted_graph)  # of its own size
    planted = dgl.add_self_loop(load_graph())
    torch.manual_seed(0)
    teacher = MODELS[name](1433, 7, hidden=16, dropout=0.2, **({"num_layers": 6} if name == "deep" else {}))
    train(teacher, planted, epochs=25, progress=False)
    student = lowbit.quantize(teacher, lowbit.QuantConfig(4))
    ranges = {n: p.clone() for n, p in student.named_parameters() if "drift" in n}
    train(student, planted, teacher=teacher, epochs=8, progress=False)
    assert any(not torch.equal(p, ranges[n]) for n, p in student.named_parameters() if n in ranges)
    logits = predict(student, planted)
    assert accuracy(logits, planted) > accuracy(predict(teacher, planted), planted) - 0.06
    packed = lowbit.freeze(student)(planted, planted.ndata["feat"])
    assert (packed.argmax(1) == logits.argmax(1)).float().mean() >= 0.999


def test_ranges_have_an_optimiser_group_of_their_own():
    model = lowbit.quantize(MODELS["gcn"](12, 3))
    weights, ranges = parameter_groups(model, lr=0.1, weight_decay=0.2, quantizer_lr=0.3)
    assert len(weights["params"]) == 4 and weights["weight_decay"] == 0.2 and weights["lr"] == 0.1
    assert len(ranges["params"]) == 8 and ranges["weight_decay"] == 0 and ranges["lr"] * QLRQuantizer.range_rate == 0.3
    assert len(parameter_groups(MODELS["gcn"](12, 3))) == 1


def test_distillation_loss_is_the_divergence():
    student, teacher = torch.randn(2, 6, 4)
    p, q = teacher.softmax(-1), student.softmax(-1)
    torch.testing.assert_close(distillation_loss(student, teacher), (p * (p / q).log()).sum(-1).mean())
    assert distillation_loss(teacher, teacher).abs() < 1e-6


def test_fit_is_a_float_stage_and_a_low_bit_one_taught_by_it(planted):
    fitted = lowbit.fit(build(), planted, lowbit.QuantConfig(2), epochs=3, float_epochs=5, progress=False)
    assert len(fitted.teacher_history.epochs) == 5 and len(fitted.history.epochs) == 3
    assert accuracy(predict(fitted.model, planted), planted) == fitted.history.best["test_accuracy"]
    assert accuracy(predict(fitted.teacher, planted), planted) == fitted.teacher_history.best["test_accuracy"]
    by_hand = build()
    train(by_hand, planted, epochs=5, progress=False)
    student = lowbit.quantize(by_hand, lowbit.QuantConfig(2))
    assert train(student, planted, teacher=by_hand, epochs=3, progress=False) == fitted.history


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, (4, 4)), ({"patience": 1}, (4, 2)), ({"float_patience": 1}, (2, 4)), ({"patience": None}, (4, 6))],
)
def test_patience_is_that_of_a_stage(given, expected, planted, monkeypatch):
    monkeypatch.setattr(history, "_rank", lambda record: 0)  # no epoch is better than the first
    defaults = {"patience": 3, "float_patience": 3}
    assert all(inspect.signature(lowbit.fit).parameters[name].default == PATIENCE for name in defaults)
    given = {**defaults, **given}
    fitted = lowbit.fit(build(), planted, lowbit.QuantConfig(4), epochs=6, progress=False, **given)
    assert (len(fitted.teacher_history.epochs), len(fitted.history.epochs)) == expected


SAMPLED = {"sampler": dgl.dataloading.NeighborSampler([2, 2]), "history": True}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 0}, "^patience must be at least 1, got 0"),
        ({"float_patience": 0}, "^float_patience must be at least 1, got 0"),
        ({"epochs": 0, "float_epochs": 3}, "^epochs must be at least 1, got 0"),
        ({"epochs": 1e2}, "^epochs must be a whole number, got 100.0"),
        ({"batch_size": "64"}, "^batch_size must be a whole number, got '64'"),
        ({"config": lowbit.QuantConfig(2, overrides={"nothing": 8})}, "nothing"),
        (
            {"bits": 2},
            r"the width of codes is that of the config, as in fit\(model, graph, QuantConfig\(bits=2\)\); got 2",
        ),
        ({**SAMPLED, "config": lowbit.QuantConfig(2, protect=(0.1, 0.2))}, "takes neither arithmetic='integer' nor"),
        (
            {**SAMPLED, "config": lowbit.QuantConfig(2, messages=32)},
            "a history keeps codes, and messages of .* 32 bits",
        ),
        ({**SAMPLED, "budget": {"bits": 2}}, "a history keeps codes of fixed bits"),
    ],
)
def test_faults_of_a_later_stage_are_named_before_any_work(options, message, planted, monkeypatch):
    monkeypatch.setattr(stage.Run, "epoch", lambda *_: 1 / 0)
    with pytest.raises(ValueError, match=message):
        lowbit.fit(build(), planted, progress=False, **options)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (None, [0.01] * 4),
        ("cosine", [0.01, 0.005 * (1 + 0.5**0.5), 0.005, 0.005 * (1 - 0.5**0.5)]),
        (lambda optimizer, epochs: torch.optim.lr_scheduler.StepLR(optimizer, epochs // 2), [0.01, 0.01, 0.001, 0.001]),
    ],
)
def test_rates_follow_the_schedule(schedule, expected, planted, monkeypatch):
    original, rates = torch.optim.Adam.step, []

    def step(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    train(build(), planted, epochs=4, schedule=schedule, progress=False)
    assert rates == pytest.approx(expected)


def test_unknown_schedules_are_refused(planted):
    with pytest.raises(
        ValueError, match="schedule must be one of cosine, one-cycle, or make a scheduler, got 'linear'"
    ):
        train(build(), planted, schedule="linear", progress=False)


def test_blocks_of_int32_graphs(planted):
    """DGL 1.1.3 ends the process where it samples several blocks from int32 ids; so they are sampled from int64."""
    losses = []
    for graph in (planted.int(), planted.long()):
        torch.manual_seed(0)
        model = MODELS["sage"](1433, 7, hidden=8)
        sampler = dgl.dataloading.NeighborSampler([10**4, 10**4])  # all neighbours: nothing is drawn
        fitted = lowbit.fit(model, graph, lowbit.QuantConfig(4), epochs=2, sampler=sampler, progress=False)
        losses.append([record["loss"] for record in fitted.history.epochs])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("bits", [pytest.param(32, marks=pytest.mark.slow), 4])
@pytest.mark.parametrize("name", [pytest.param("gcn", marks=pytest.mark.slow), "sage"])
def test_sampled_blocks(name, bits, planted):
    sampler = dgl.dataloading.NeighborSampler([5, 5])
    fitted = lowbit.fit(
        build(name), planted, lowbit.QuantConfig(bits), epochs=8, sampler=sampler, batch_size=60, progress=False
    )
    assert fitted.history.best["val_accuracy"] > 0.35  # one in seven by chance
    seen = stage.Run(fitted.model, stage.WholeGraph(planted, sampler=sampler, batch_size=60))
    seen.prepare(fitted.teacher)
    steps = list(seen.data.batches(with_others=True))
    labelled = torch.cat([step.nodes[step.labelled] for step in steps])
    assert torch.equal(labelled.sort()[0], planted.ndata["train_mask"].nonzero().flatten())
    assert [len(step.nodes) for step in steps] == [120, 120, 40]
    for step in steps:
        first = step.graph[0]
        assert torch.equal(first.srcdata[dgl.NID], step.graph[0].srcdata[dgl.NID])
        assert torch.equal(step.feat.to_dense(), planted.ndata["feat"][first.srcdata[dgl.NID]])


def test_sparse_features_train_as_dense_ones(planted):
    histories = [
        train(build(dropout=0.0), planted, epochs=4, sparse=sparse, progress=False) for sparse in (True, False, None)
    ]
    losses = [[epoch["loss"] for epoch in history.epochs] for history in histories]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[2] == losses[0]


def test_patience_transform_and_the_global_generator(planted):
    seen = []

    def transform(graph):
        seen.append(graph)
        return graph

    torch.manual_seed(5)
    before = torch.get_rng_state()
    model = build()
    torch.set_rng_state(before)
    history = train(model, planted, epochs=60, lr=1e-9, patience=3, transform=transform, progress=False)
    assert len(history.epochs) < 60 and len(seen) == len(history.epochs)
    assert len(history.epochs) - 1 - history.best_epoch == 3
    assert torch.equal(torch.get_rng_state(), before)


def test_training_raises_the_multipliers_of_bounds(planted):
    model = build("smp", threshold=1e-4)
    history = train(model, planted, epochs=4, progress=False)
    first = [epoch["smoothness"][0]["multiplier"] for epoch in history.epochs]
    assert first == sorted(first) and first[-1] > first[0]


def test_history_plots(planted, tmp_path):
    history = train(build("smp"), planted, epochs=2, progress=False)
    assert history.plot(tmp_path / "history.png").stat().st_size > 1000


def test_losses_that_are_not_finite_stop_it(planted):
    with pytest.raises(ValueError, match="the loss is nan in epoch"):
        train(build(), planted, lr=1e30, epochs=20, progress=False)


def tiny(**data):
    """A small graph that can be trained on, with other ``data`` on its nodes."""
    graph, some = dgl.add_self_loop(dgl.rand_graph(6, 9)), torch.tensor([1, 0, 1, 0, 1, 0]).bool()
    graph.ndata.update(feat=torch.rand(6, 3), label=torch.tensor([0, 1, 0, 1, 0, 1]))
    graph.ndata.update(train_mask=some, val_mask=~some, test_mask=~some)
    graph.ndata.update(data)
    return graph


def without(*keys):
    graph = tiny()
    for key in keys:
        del graph.ndata[key]
    return graph


LABELS, EDGES = torch.tensor([0, 1, 0, 1, 0, 1]), torch.tensor([[0, 1], [1, 2]])
ADJACENCY = torch.sparse_coo_tensor(EDGES, torch.ones(2), (3, 3), check_invariants=True)
UNFIT = {
    "no data": (lambda: dgl.rand_graph(4, 4), "lacks feat, label, train_mask, val_mask, test_mask; it is to hold"),
    "no mask": (lambda: without("val_mask"), "lacks val_mask; it is to hold features .*, and bool masks"),
    "bytes": (lambda: tiny(val_mask=torch.ones(6).byte()), r"must be a bool mask, got torch.uint8; write .*\.bool\(\)"),
    "splits": (lambda: tiny(val_mask=torch.ones(6, 9).bool()), r"shape \(N,\), got shape \(6, 9\); write .*\[:, 0\]"),
    "empty": (lambda: tiny(val_mask=torch.zeros(6).bool()), "'val_mask'\\] must hold at least one node"),
    "column": (lambda: tiny(label=LABELS.view(6, 1)), r"shape \(N,\), got shape \(6, 1\); write .*\.flatten\(\)"),
    "one-hot": (lambda: tiny(label=torch.eye(6)), r"shape \(N,\), got shape \(6, 6\); write .*\.argmax\(1\)"),
    "int32": (lambda: tiny(label=LABELS.int()), r"int64, got torch.int32; write .* = .*\.long\(\)"),
    "float labels": (lambda: tiny(label=LABELS.float()), r"int64, got torch.float32; write .* = .*\.long\(\)"),
    "unlabelled": (lambda: tiny(label=LABELS - 1), "a class from 0 on wherever a mask is set, got -1"),
    "whole features": (
        lambda: tiny(feat=torch.ones(6, 3).long()),
        r"floating point, got torch.int64; write .*float\(\)",
    ),
    "types": (lambda: dgl.heterograph({("a", "r", "b"): ([0], [0])}), r"one node type, got \['a', 'b'\]"),
    "list": (lambda: [tiny(), tiny()], r"a DGLGraph, got list; pass one of them, or dgl.batch\(graphs\)"),
    "name": (lambda: "cora", "a DGLGraph, got str; pass a DGLGraph"),
    "scipy": (lambda: tiny().adj_external(scipy_fmt="csr"), r"got csr_.*; write dgl.from_scipy\(adj\)"),
    "torch.sparse": (lambda: ADJACENCY, r"got a sparse Tensor; write dgl.graph\(tuple\(adj.to_sparse_coo"),
    "csr": (lambda: ADJACENCY.to_sparse_csr(), r"got a sparse Tensor; write dgl.graph\(tuple\(adj.to_sparse_coo"),
    "dense": (lambda: ADJACENCY.to_dense(), r"got a dense Tensor; write dgl.graph\(tuple\(adj.to_sparse_coo"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_data_that_do_not_fit_are_refused_with_what_to_write(what):
    make, message = UNFIT[what]
    graph = make()
    for function in (train, lowbit.fit):
        with pytest.raises(ValueError, match=message):
            function(MODELS["gcn"](3, 2), graph)


def test_what_is_said_to_be_written_gives_the_graph():
    for adj in (ADJACENCY, ADJACENCY.to_sparse_csr(), ADJACENCY.to_dense()):
        graph = dgl.graph(tuple(adj.to_sparse_coo().coalesce().indices()), num_nodes=len(adj))
        assert torch.equal(torch.stack(graph.edges()), EDGES) and graph.num_nodes() == 3


class Returning(torch.nn.Module):
    """A model of two classes that returns what ``make`` makes of its logits."""

    def __init__(self, make):
        super().__init__()
        self.linear, self.make = torch.nn.Linear(3, 2), make

    def forward(self, graph, feat):
        return self.make(self.linear(feat))


@pytest.mark.parametrize(
    ("make", "label", "message"),
    [
        (lambda h: (h, h), LABELS, r"must return logits, a tensor of shape \(6, classes\), got tuple"),
        (lambda h: h[:, 0], LABELS, r"shape \(6, classes\), got \(6,\)"),
        (lambda h: h[:3], LABELS, r"shape \(6, classes\), got \(3, 2\)"),
        (lambda h: h, LABELS + 4, "Returning returns logits of 2 classes, and labels go up to 4"),
    ],
)
def test_models_whose_outputs_are_no_logits_of_the_labels(make, label, message):
    with pytest.raises(ValueError, match=message):
        train(Returning(make), tiny(label=label), epochs=1, sparse=False, progress=False)


def test_a_teacher_of_other_classes():
    teacher = Returning(lambda h: torch.cat([h, h], 1))
    with pytest.raises(ValueError, match="Returning returns logits of 2 classes, its teacher of 4"):
        train(Returning(lambda h: h), tiny(), teacher=teacher, epochs=1, sparse=False, progress=False)


def test_wrapped_models_are_sent_back(planted):
    for function in (train, lowbit.fit):
        with pytest.raises(ValueError, match="expects the model itself, got AveragedModel, .*; pass model.module"):
            function(torch.optim.swa_utils.AveragedModel(build()), planted)


def test_models_of_blocks_predict_from_the_graph_for_each(planted):
    model = MODELS["gcn"](planted.ndata["feat"].shape[1], 7)
    assert torch.equal(predict(model, [planted, planted]), predict(model, planted))
