"""Training under a budget: bits are learned between the float stage and the low-bit one."""

import math

import dgl
import pytest
import torch

import dgl_lowbit as lowbit
from dgl_lowbit.allocation import LearnedBits, cost
from dgl_lowbit.data import load_graph
from dgl_lowbit.experiments.models import MODELS
from dgl_lowbit.quant import LearnedBitsQuantizer
from dgl_lowbit.training import predict, resume, stage, train


@pytest.fixture(scope="module")
def planted(small_planted):
    graph = dgl.add_self_loop(load_graph())
    graph.ndata["feat"] = graph.ndata["feat"][:, :64]
    return graph


def build():
    torch.manual_seed(0)
    return MODELS["gcn"](64, 7, hidden=16)


def run(graph, **options):
    options = {"epochs": 2, "float_epochs": 2, "bits_epochs": 4, "progress": False, **options}
    return lowbit.fit(build(), graph, **{"budget": {"bits": 2.5}, **options})


def test_the_budget_is_kept_by_a_model_of_the_config_that_is_returned(planted):
    fitted = run(planted, bits_epochs=12)
    call = planted, planted.ndata["feat"]
    assert cost(fitted.teacher, fitted.config, *call)["bits"] <= 2.5
    assert len({bits for _, bits in fitted.config.overrides}) > 1
    assert not any(isinstance(module, LearnedBitsQuantizer) for module in fitted.model.modules())
    again = lowbit.quantize(fitted.teacher, fitted.config)
    again.load_state_dict(fitted.model.state_dict())
    assert torch.equal(predict(again, planted), predict(fitted.model, planted))
    logits = lowbit.freeze(fitted.model)(*call)
    assert torch.equal(logits.argmax(1), predict(fitted.model, planted).argmax(1))


def test_weights_stay_while_bits_are_learned(planted):
    model = build()
    train(model, planted, epochs=6, progress=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learned = LearnedBits(model, planted, planted.ndata["feat"], budget={"bits": 2})
    begun = learned.bits
    history = train(learned.model, planted, teacher=model, epochs=4, bits=learned, progress=False)
    assert len(history.epochs) == 4 and learned.bits != begun
    for state in (model.state_dict(), learned.model.state_dict()):
        assert all(torch.equal(state[name], value) for name, value in before.items())
    weights = dict(learned.settled().named_parameters())
    assert all(weights[name].requires_grad for name in before)


class Interrupt(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [5, 7], ids=["while bits are learned", "after it"])
def test_an_interrupted_fit_resumes_to_the_same_result(epoch, planted, tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "_SHARE", math.inf)
    expected, path = run(planted), tmp_path / "run.pt"
    original, seen = stage.Run.epoch, []

    def interrupted(self, number):
        seen.append(number)
        if len(seen) > epoch:
            raise Interrupt
        return original(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(stage.Run, "epoch", interrupted)
        with pytest.raises(Interrupt):
            run(planted, checkpoint=path)
    again = run(planted, checkpoint=path, resume=True)
    assert again.config == expected.config and again.history == expected.history
    assert torch.equal(predict(again.model, planted), predict(expected.model, planted))
    with pytest.raises(ValueError, match="belongs to another run: .*budget.* was 2.5, is 3.0"):
        run(planted, checkpoint=path, resume=True, budget={"bits": 3})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": {"bits": 0.5}}, "the budget cannot be kept"),
        ({"budget": {"speed": 2}}, "budget maps measures"),
        ({"budget": {"bits": 2}, "config": lowbit.QuantConfig(quantizer="bt")}, "learned ranges"),
        ({"budget": {"bits": 2}, "bits_epochs": 0}, "bits_epochs must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(options, message, planted, monkeypatch):
    monkeypatch.setattr(stage.Run, "epoch", lambda self, number: pytest.fail("trained"))
    with pytest.raises(ValueError, match=message):
        lowbit.fit(build(), planted, epochs=2, progress=False, **options)


def test_bits_of_another_model_are_refused(planted):
    learned = LearnedBits(build(), planted, planted.ndata["feat"], budget={"bits": 2})
    with pytest.raises(ValueError, match="bits is a LearnedBits, whose bits.model is what is trained"):
        train(build(), planted, bits=learned, progress=False)


def test_bits_are_not_learned_without_a_price(planted):
    config = lowbit.QuantConfig(2, quantizer="hgq")
    for learn in (
        lambda: lowbit.fit(build(), planted, config, epochs=1, progress=False),
        lambda: train(lowbit.quantize(build(), config), planted, epochs=1, progress=False),
    ):
        with pytest.raises(ValueError, match="bits that are learned need a price: pass budget= to fit"):
            learn()


def test_reconstruction_leaves_numbers_of_bits(planted):
    call = planted, planted.ndata["feat"]
    model = lowbit.quantize(build(), lowbit.QuantConfig(2, quantizer="hgq"))
    lowbit.calibrate(model, *call, rounding="reconstruct", steps=3, progress=False)
    assert {m.bits.item() for m in model.modules() if isinstance(m, LearnedBitsQuantizer)} == {2.0, 32.0}
