"""Training from features that are codes: as from what they stand for, by the rows of batches."""

import math
from types import SimpleNamespace

import dgl
import psutil
import pytest
import torch

import dgl_lowbit as lowbit
from dgl_lowbit.training import features, in_batches, predict, stage, train

from .models import build

SAMPLER = {"sampler": dgl.dataloading.NeighborSampler([5, 5]), "batch_size": 60}
STORE = object()  # stands for one
BUDGET = {"budget": {"model": 20_000}, "bits_epochs": 2}


@pytest.fixture(scope="module")
def store(planted):
    return lowbit.compress(planted.ndata["feat"], 2)


@pytest.fixture
def graph(planted):
    """Without features."""
    graph = planted.local_var()
    del graph.ndata["feat"]
    return graph


def decoded(graph, store):
    graph = graph.local_var()
    graph.ndata["feat"] = store[:]
    return graph


def same(first, second):
    first, second = first.state_dict(), second.state_dict()
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize(
    "options",
    [
        SAMPLER,
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({**SAMPLER, "history": True}, marks=pytest.mark.slow),
        pytest.param({**SAMPLER, **BUDGET}, marks=pytest.mark.slow),
    ],
)
def test_a_store_trains_as_what_it_stands_for(options, graph, store):
    options = {"epochs": 2, "sparse": False, "progress": False, **options}
    on_floats = lowbit.fit(build("sage"), decoded(graph, store), lowbit.QuantConfig(4), **options)
    on_store = lowbit.fit(build("sage"), graph, lowbit.QuantConfig(4), feat=store, **options)
    assert on_store.history.epochs == on_floats.history.epochs
    assert same(on_store.model, on_floats.model) and same(on_store.teacher, on_floats.teacher)


def test_features_beside_the_graph_are_those_in_it(planted, graph):
    inside, beside = build(), build()
    train(inside, planted, epochs=2, progress=False)
    train(beside, graph, feat=planted.ndata["feat"], epochs=2, progress=False)
    assert same(inside, beside)


def test_rows_of_batches_alone_are_fetched(graph, store):
    data = stage.WholeGraph(graph, feat=store, **SAMPLER)
    store.bytes_fetched, rows = 0, 0
    for batch in data.batches(with_others=True):
        sources = batch.graph[0].srcdata[dgl.NID]
        assert torch.equal(batch.feat, store[:][sources])
        store.bytes_fetched -= store.nbytes  # of the line before
        rows += len(sources)
    assert store.bytes_fetched == rows * store.row_bytes


def test_of_many_rows_some_are_decoded_at_a_time(graph, store, monkeypatch, tmp_path):
    """Scores are those of the whole graph; what is not better than before is not tested."""
    whole = train(build("sage"), graph, feat=store, epochs=3, progress=False, **SAMPLER)
    fetched = []

    def codes(self, rows=None):
        fetched.append(rows)
        return kept(self, rows)

    kept = lowbit.FeatureStore.codes
    monkeypatch.setattr(lowbit.FeatureStore, "codes", codes)
    monkeypatch.setattr(features, "MOST_DECODED", 0)
    parts = train(build("sage"), graph, feat=store, epochs=3, progress=False, **SAMPLER)
    assert fetched and not any(rows is None or isinstance(rows, slice) for rows in fetched)
    for before, after in zip(whole.epochs, parts.epochs):
        assert after["loss"] == before["loss"]
        assert after["val_loss"] == pytest.approx(before["val_loss"], rel=1e-4)
        if not math.isnan(after["test_accuracy"]):
            assert after["test_accuracy"] == pytest.approx(before["test_accuracy"])
    assert parts.best == pytest.approx(whole.best, rel=1e-4)


@pytest.mark.slow
def test_of_many_rows_a_low_bit_model_learns(graph, store, monkeypatch):
    monkeypatch.setattr(features, "MOST_DECODED", 0)
    config = lowbit.QuantConfig(4, protect=(0.0, 0.2))
    fitted = lowbit.fit(build("sage"), graph, config, feat=store, epochs=8, progress=False, **SAMPLER)
    assert fitted.history.best["val_accuracy"] > 0.35  # one in seven by chance


def test_a_run_goes_on_with_its_own_store(graph, store, planted, tmp_path):
    def run(feat, **options):
        return train(
            build("sage"), graph, feat=feat, epochs=2, progress=False, checkpoint=tmp_path / "run", **SAMPLER, **options
        )

    assert run(store).epochs == run(lowbit.FeatureStore(store.coded), resume=True).epochs
    for other in (lowbit.compress(planted.ndata["feat"] + 1, 2), store[:]):
        with pytest.raises(ValueError, match="graph was '560 nodes.*features"):
            run(other, resume=True)


@pytest.mark.parametrize(
    ("feat", "options", "message"),
    [
        ({"a": None}, {}, "feat is a dict; training reads graphs of one node type"),
        ([1.0], {}, "feat must be a FeatureStore.*got list"),
        (torch.ones(560, 3).long(), {}, r"feat must be in floating point, got torch.int64; pass feat.float\(\)"),
        (torch.ones(559, 3), {}, "feat must have a row for each of 560 nodes, got 559 rows"),
        (STORE, {"sparse": True, **SAMPLER}, "sparse=True keeps features as floats"),
        (STORE, {"history": True, **SAMPLER}, "GiB decoded, too much for history=, which passes over the whole graph"),
        (STORE, {"budget": {"model": 1}, **SAMPLER}, "too much for budget="),
        (STORE, {}, "the store take 0.0 GiB decoded, and 0.0 GiB of memory are free; pass sampler="),
    ],
)
def test_what_cannot_be_trained_from_is_said_before(feat, options, message, graph, store, monkeypatch):
    monkeypatch.setattr(features, "MOST_DECODED", 0)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    with pytest.raises(ValueError, match=message):
        lowbit.fit(torch.nn.Linear(1433, 7), graph, feat=store if feat is STORE else feat, **options)


def test_what_teaches_from_blocks_is_the_model_that_was_trained(graph, store, monkeypatch):
    """With the degrees of the graph, which a block of all neighbours of some nodes does not have."""
    monkeypatch.setattr(features, "MOST_DECODED", 0)
    monkeypatch.setattr(in_batches, "_EVALUATED", 20)
    taught = []
    prepare = stage.Run.prepare
    monkeypatch.setattr(stage.Run, "prepare", lambda run, teacher: prepare(run, teacher) or taught.append(run))
    fitted = lowbit.fit(build("gcn"), graph, lowbit.QuantConfig(4), feat=store, epochs=2, progress=False, **SAMPLER)
    whole = predict(fitted.teacher, [graph, graph], store).log_softmax(-1)
    assert (taught[-1].teacher_log_probs - whole).norm() < 0.05 * whole.norm()
