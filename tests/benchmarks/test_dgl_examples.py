"""The yardstick measures: models are loaded without their scripts, and each outcome is told from the others."""

import sys
from pathlib import Path

import pytest
import torch

import dgl_lowbit as lowbit

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from dgl_examples import judge as judging
from dgl_examples.case import Case, holding
from dgl_examples.cases import CASES
from dgl_examples.draw import Draw
from dgl_examples.judge import compare, judge

SCRIPT = """
import dgl.function as fn
import ogb.nodeproppred as data
from pytorch_lightning import LightningModule
from torchmetrics import Accuracy
import torch
from torch import nn
from dgl.nn import GraphConv
from beside import double

message = fn.copy_u("h", "m")
options = parser.parse_args()
graph = open("made", "w")

class GCN(LightningModule):
    def __init__(self, columns, classes):
        super().__init__()
        self.save_hyperparameters()
        self.accuracy = Accuracy()
        self.conv1, self.conv2 = GraphConv(columns, width), GraphConv(width, classes)

    def forward(self, g, x):
        return self.conv2(g, double(torch.relu(self.conv1(g, x))))

class Holds(GCN):
    def __init__(self, g):
        super().__init__(6, 3)
        self.g = g

    def forward(self, x):
        return super().forward(self.g, x)

class Fails(GCN):
    def forward(self, g, x):
        raise RuntimeError("not a case")

print("trained")
open("trained", "w")
"""
GRAPH = {"example": lambda d: (d.graph(), d.feat(6)), "constants": {"width": 8}}


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    for name in ("path", "path_hooks", "meta_path"):
        monkeypatch.setattr(sys, name, list(getattr(sys, name)))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "gcn"
    folder.mkdir()
    (folder / "train.py").write_text(SCRIPT)
    (folder / "beside.py").write_text("def double(x):\n    return 2 * x\n\nraise SystemExit\n")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_only_the_definitions_of_a_script_are_run(checkout):
    case = Case("gcn/train.py", "GCN", (6, 3), **GRAPH)
    model = case.build(judging.load(checkout, case.file, case.constants))
    assert model.conv1.weight.shape == (6, 8)
    assert {file.name for file in checkout.rglob("*")} == {"gcn", "train.py", "beside.py"}


def test_a_model_that_freezes_is_whole(checkout):
    verdict = judge(Case("gcn/train.py", "GCN", (6, 3), **GRAPH), checkout)
    assert (verdict["outcome"], verdict["equal"], verdict["reason"]) == ("whole", 1.0, "")


def test_a_float_model_that_fails_is_the_cases_fault(checkout):
    verdict = judge(Case("gcn/train.py", "Fails", (6, 3), **GRAPH), checkout)
    assert verdict["outcome"] == "broken" and "not a case" in verdict["reason"]


def test_held_graphs_are_those_of_the_example(checkout):
    example = {"example": lambda d: holding(d.feat(6), g=d.graph()), "constants": {"width": 8}}
    case = Case("gcn/train.py", "Holds", lambda d: (d.graph(),), **example)
    model = case.build(judging.load(checkout, case.file, case.constants)).eval()
    outputs = [judging._run(model, case, second) for second in (False, True)]
    assert [len(output) for output in outputs] == [60, 83]


@pytest.mark.parametrize(
    ("freeze", "outcome", "reason"),
    [
        (lambda model, *args, partial=False: lambda g, x: -model(g, x), "wrong", "equal"),
        (lambda model, *args, partial=False: lambda g, x: model(g), "crash", "missing 1 required"),
        (lambda model, *args, partial=False: 1 / 0, "crash", "ZeroDivisionError"),
        (lambda model, *args, partial=False: lowbit.quantize(model), "refused", "is low-bit already"),
    ],
)
def test_outcomes_of_freezing(checkout, monkeypatch, freeze, outcome, reason):
    monkeypatch.setattr(lowbit, "freeze", freeze)
    verdict = judge(Case("gcn/train.py", "GCN", (6, 3), **GRAPH), checkout)
    assert verdict["outcome"] == outcome and reason in verdict["reason"]


def test_a_model_frozen_in_part_says_why_not_whole(checkout, monkeypatch):
    def freeze(model, *args, partial=False):
        if not partial:
            raise lowbit.FreezeError("no packed form")
        return model

    monkeypatch.setattr(lowbit, "freeze", freeze)
    verdict = judge(Case("gcn/train.py", "GCN", (6, 3), **GRAPH), checkout)
    assert verdict["outcome"] == "part" and "no packed form" in verdict["reason"]


def test_outputs_are_compared_by_their_choice_and_their_values():
    scores = torch.tensor([[1.0, 0.5], [0.5, 0.500001]])
    assert compare(scores, scores) == (1.0, 0.0)
    assert compare(scores, scores.flip(1))[0] == 0.5, "ties are equal"
    assert compare(scores, scores + 0.1)[0] == 0, "the same choice of other values"
    assert compare({"a": scores, "b": [scores]}, {"b": (scores.numpy(),), "a": scores}) == (1.0, 0.0)
    assert compare(scores, scores[:1]) == (0.0, float("inf"))
    assert compare(scores, scores * float("nan"))[0] == 0
    assert compare(torch.tensor([1, 2]), torch.tensor([1, 3]))[0] == 0.5


def test_drawings_depend_on_the_seed_and_their_own_arguments_alone():
    first, again, other = Draw(0, 20), Draw(0, 20), Draw(1, 20)
    again.feat(3)
    assert torch.equal(first.graph().edges()[0], again.graph().edges()[0])
    assert not torch.equal(first.feat(4), other.feat(4))
    assert (first.graph().in_degrees() > 0).all()
    blocks, feat = first.sampled(2, 5)
    assert len(feat) == blocks[0].num_src_nodes() and blocks[0].num_dst_nodes() == blocks[1].num_src_nodes()


def test_cases_have_names_of_their_own_and_files_side_by_side():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert [case.file for case in CASES] == sorted(case.file for case in CASES)
