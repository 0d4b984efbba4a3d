import dgl
import pytest
import torch

import dgl_lowbit as lowbit
from dgl_lowbit.data import load_graph
from dgl_lowbit.models import MODELS
from dgl_lowbit.training import accuracy, distillation_loss, parameter_groups, predict, train


@pytest.fixture(scope="module")
def planted():
    return dgl.add_self_loop(load_graph())


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


@pytest.mark.parametrize("name", MODELS)
def test_a_student_learns_from_its_teacher_and_freezes(name, planted):
    torch.manual_seed(0)
    teacher = MODELS[name](1433, 7, hidden=16, dropout=0.2)
    train(teacher, planted, epochs=40, progress=False)
    student = lowbit.quantize(teacher, lowbit.QuantConfig(4))
    ranges = {n: p.clone() for n, p in student.named_parameters() if "log_alpha" in n}
    train(student, planted, teacher=teacher, epochs=15, progress=False)
    assert any(not torch.equal(p, ranges[n]) for n, p in student.named_parameters() if n in ranges)
    logits = predict(student, planted)
    assert accuracy(logits, planted) > accuracy(predict(teacher, planted), planted) - 0.06
    packed = lowbit.freeze(student)(planted, planted.ndata["feat"])
    assert (packed.argmax(1) == logits.argmax(1)).float().mean() >= 0.999


def test_ranges_have_an_optimiser_group_of_their_own():
    model = lowbit.quantize(MODELS["gcn"](12, 3))
    weights, ranges = parameter_groups(model, lr=0.1, weight_decay=0.2, quantizer_lr=0.3)
    assert len(weights["params"]) == 4 and weights["weight_decay"] == 0.2 and weights["lr"] == 0.1
    assert len(ranges["params"]) == 8 and ranges["weight_decay"] == 0 and ranges["lr"] == 0.3
    assert len(parameter_groups(MODELS["gcn"](12, 3))) == 1


def test_distillation_loss_is_the_divergence():
    student, teacher = torch.randn(2, 6, 4)
    p, q = teacher.softmax(-1), student.softmax(-1)
    torch.testing.assert_close(distillation_loss(student, teacher), (p * (p / q).log()).sum(-1).mean())
    assert distillation_loss(teacher, teacher).abs() < 1e-6


def test_graphs_without_labels_are_refused():
    with pytest.raises(ValueError, match="lacks feat, label, train_mask, val_mask, test_mask"):
        train(MODELS["gcn"](3, 2), dgl.rand_graph(4, 4))
