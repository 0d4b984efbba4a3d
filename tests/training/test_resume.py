"""Runs that are interrupted go on to the same result, and only with what they were begun with."""

import functools
import math

import dgl
import numpy as np
import pytest
import torch

import dgl_lowbit as lowbit
from dgl_lowbit.training import history, predict, resume, stage, train
from dgl_lowbit.training.identity import identity_of

from .models import build


class Interrupt(BaseException):
    pass


@pytest.mark.parametrize(
    ("finished", "schedule"), [pytest.param(0, None, marks=pytest.mark.slow), (1, None), (1, "one-cycle")]
)
def test_an_interrupted_fit_resumes_to_the_same_result(finished, schedule, planted, tmp_path, monkeypatch):
    def run(**options):
        config = lowbit.QuantConfig(2)
        return lowbit.fit(build(), planted, config, epochs=4, schedule=schedule, progress=False, **options)

    monkeypatch.setattr(resume, "_SHARE", math.inf)
    expected, path = run(), tmp_path / "run.pt"
    original, seen = stage.Run.epoch, []

    def interrupted(self, number):
        if number == 3 and len(seen) == finished:
            raise Interrupt
        seen.extend([0] * (number == 3))
        return original(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(stage.Run, "epoch", interrupted)
        with pytest.raises(Interrupt):
            run(checkpoint=path)
    assert list(tmp_path.iterdir()) == [path]
    again = run(checkpoint=path, resume=True)
    assert again.history == expected.history and again.teacher_history == expected.teacher_history
    assert torch.equal(predict(again.model, planted), predict(expected.model, planted))
    at_its_end = run(checkpoint=path, resume=True)  # nothing is left to do
    assert torch.equal(predict(at_its_end.model, planted), predict(expected.model, planted))


def test_a_stage_that_ends_early_is_kept_and_resumes(planted, tmp_path, monkeypatch):
    """Its best epoch may come after what was last written."""
    path, made = tmp_path / "run.pt", lowbit.QuantConfig(4)
    rank = iter([0, 1, 2, *[0] * 50])
    ranks = {}
    monkeypatch.setattr(history, "_rank", lambda record: ranks.setdefault(id(record), next(rank)))
    monkeypatch.setattr(resume, "_SHARE", math.inf)
    options = {"epochs": 8, "float_patience": 2, "patience": 2, "checkpoint": path, "progress": False}
    fitted = lowbit.fit(build(), planted, made, **options)
    assert len(fitted.teacher_history.epochs) == 5 and fitted.teacher_history.best_epoch == 2
    kept = list(resume.Checkpoint(path, resume=True).stages.values())
    assert [len(stage["epochs"]) for stage in kept] == [5, len(fitted.history.epochs)]
    last, best = kept[0]["model"], kept[0]["best_state"]
    assert any(not torch.equal(last[name], best[name]) for name in last)  # of the last epoch, not what came later
    again = lowbit.fit(build(), planted, made, resume=True, **options)
    assert again.history == fitted.history and again.teacher_history == fitted.teacher_history
    assert torch.equal(predict(again.model, planted), predict(fitted.model, planted))


@pytest.mark.parametrize(("share", "written"), [(math.inf, [1, 2, 3, 4]), (1e-9, [1, 4])])
def test_writing_takes_its_share_of_the_time(share, written, planted, tmp_path, monkeypatch):
    epochs, replace = [], resume.Checkpoint.write
    monkeypatch.setattr(resume, "_SHARE", share)
    monkeypatch.setattr(
        resume.Checkpoint, "write", lambda *args: [epochs.append(len(args[2]["epochs"])), replace(*args)]
    )
    train(build(), planted, epochs=4, checkpoint=tmp_path / "run.pt", progress=False)
    assert epochs == written


def test_settings_of_any_kind_resume(planted, tmp_path):
    cosine = functools.partial(torch.optim.lr_scheduler.CosineAnnealingLR, eta_min=1e-4)
    options = {
        "seed": np.int64(3),
        "lr": np.float64(0.01),
        "epochs": np.int64(2),
        "schedule": cosine,
        "progress": False,
    }
    path = tmp_path / "run.pt"
    runs = [train(build(), planted, checkpoint=path, resume=bool(k), **options) for k in range(2)]
    assert runs[0] == runs[1]
    other = functools.partial(torch.optim.lr_scheduler.CosineAnnealingLR, eta_min=1e-3)
    with pytest.raises(ValueError, match="belongs to another run: schedule was"):
        train(build(), planted, checkpoint=path, resume=True, **{**options, "schedule": other})


def test_checkpoints_of_other_runs_are_refused(planted, tmp_path):
    path = tmp_path / "run.pt"
    train(build(), planted, epochs=2, checkpoint=path, progress=False)
    with pytest.raises(ValueError, match="belongs to another run: epochs was 2, is 3; seed was 0, is 1"):
        train(build(), planted, epochs=3, seed=1, checkpoint=path, resume=True, progress=False)
    with pytest.raises(ValueError, match="belongs to another model"):
        train(build("sage"), planted, epochs=2, checkpoint=path, resume=True, progress=False)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        train(build(), planted, epochs=2, checkpoint=path, resume=True, progress=False)
    with pytest.raises(ValueError, match="needs checkpoint="):
        train(build(), planted, epochs=2, resume=True, progress=False)


def low_bit(**options):
    return lowbit.quantize(build(), lowbit.QuantConfig(4, **options))


def changed(graph, key, value=None):
    """``graph`` with another edge, or with something else on its nodes."""
    other = dgl.add_edges(graph, [0], [1]) if key == "edges" else graph.local_var()
    if key != "edges":
        other.ndata[key] = graph.ndata[key].roll(1, 0) if value is None else value
    return other


def drop(share):
    return dgl.transforms.Compose([dgl.DropEdge(share), dgl.RemoveSelfLoop(), dgl.AddSelfLoop()])


OTHER_RUNS = {
    "bits": ({"model": lambda: low_bit(overrides={"layers.1.messages": 8})}, "config of layers.1 of messages was None"),
    "granularity": (
        {"model": lambda: low_bit(messages_granularity="tensor")},
        "config of layers.0 of messages_granularity was None",
    ),
    "overrides": ({"model": lambda: low_bit(ends=8)}, "config of layers.0 of bits was 4, is 8; config of layers.1 of"),
    "edges": ({"graph": lambda g: changed(g, "edges")}, "graph was '560 nodes, .* edges, content .*', is '560 nodes"),
    **{key: ({"graph": lambda g, key=key: changed(g, key)}, "graph was") for key in ("feat", "label", "train_mask")},
    "teacher": ({"teacher": lambda: build(seed=1)}, "teacher was 'GCN, state .*', is 'GCN, state"),
    "architecture": ({"teacher": lambda: build("sage")}, "teacher was 'GCN, state .*', is '(?!GCN)"),
    "no teacher": ({"teacher": lambda: None}, "teacher was 'GCN, state .*', is None"),
    "transform": ({"transform": drop(0.2)}, r"transform was .*DropEdge\(p=0.1\).*, is .*DropEdge\(p=0.2\)"),
}


@pytest.mark.parametrize("what", OTHER_RUNS)
def test_a_run_resumes_with_its_config_graph_and_teacher_only(what, planted, tmp_path):
    path, (options, message) = tmp_path / "run.pt", OTHER_RUNS[what]

    def run(graph=lambda g: g, model=low_bit, teacher=build, transform=None, **more):
        settings = {"epochs": 1, "checkpoint": path, "progress": False, "transform": transform, **more}
        return train(model(), graph(planted), teacher=teacher(), **settings)

    first = {"transform": drop(0.1)} if what == "transform" else {}
    history = run(**first)
    assert run(**first, resume=True) == history
    with pytest.raises(ValueError, match=f"run.pt belongs to another run: {message}"):
        run(**{**first, **options}, resume=True)


def test_a_run_of_an_earlier_version_resumes_by_the_settings_it_kept(planted, tmp_path):
    path = tmp_path / "run.pt"
    history = train(low_bit(), planted, epochs=1, checkpoint=path, progress=False)
    content = torch.load(path, weights_only=True)
    for key in ("config", "graph", "teacher", "transform", "blocks"):
        del content["stages"]["train"]["settings"][key]
    torch.save(content, path)
    assert train(low_bit(), planted, epochs=1, checkpoint=path, resume=True, progress=False) == history


def test_blocks_are_told_apart_by_their_sampler(planted):
    samplers = [dgl.dataloading.NeighborSampler(fanouts) for fanouts in ([5, 5], [5, 5], [5, 9])]
    one, same, other = (identity_of(build(), planted, None, blocks=sampler)["blocks"] for sampler in samplers)
    assert one == same != other
