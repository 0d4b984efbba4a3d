"""Boosting over scales: learner after learner on features that were propagated further, then all of them together."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple, cast

import dgl
import torch
import torch.nn.functional as F
from torch import nn

from ..calibration import calibrate
from ..config import QuantConfig, checked_config
from ..convert import quantize
from ..nn.boosted import BoostedMLP
from ..nn.ops import TorchOps
from ..progress import progress_bar
from .batches import check_graph
from .options import WITHOUT_PRICE, check_counts, parameter_groups
from .sampling import seed_torch
from .stage import accuracy, distillation_loss, predict

# Rows without a label that a step of the low-bit stage learns from.
_OTHERS = 256
_ALIGNING_STEPS = 100


class Boosted(NamedTuple):
    """What :func:`boost` returns.

    Attributes
    ----------
    model : BoostedMLP
        Low-bit, or, with 32 bits, the float model.
    teacher : BoostedMLP
        The float model, all of it trained together after boosting.
    learners : list of dict
        Of each round, as boosting left it: ``error``, the weighted share of training nodes that its learner gets wrong;
        ``vote``, a_t; ``val_accuracy`` and ``test_accuracy`` of the learners so far.
    val_accuracy, test_accuracy : float
        Of ``model``, at its best epoch on validation nodes.
    """

    model: BoostedMLP
    teacher: BoostedMLP
    learners: list
    val_accuracy: float
    test_accuracy: float


def boost(
    graph: dgl.DGLGraph,
    rounds: int = 8,
    hidden: int = 64,
    bits: int = 2,
    propagate: str = "adj",
    *,
    config: QuantConfig | None = None,
    epochs: int = 100,
    finetune: int = 100,
    lr: float = 0.01,
    weight_decay: float = 5e-4,
    quantizer_lr: float = 0.003,
    distillation: float = 0.5,
    seed: int = 0,
    progress: bool | str = True,
    **options,
) -> Boosted:
    r"""Train a :class:`~dgl_lowbit.nn.BoostedMLP` by boosting (arXiv:2006.08550), all of it together, then at few bits.

    1. *Boosting.* Learner t is trained on X_t with a weight a training node, w. With its weighted error ε_t it gets the
       vote a_t = ln((1 − ε_t)/ε_t) + ln(C − 1), C classes, 0 where it is no better than chance, and nodes that it gets
       wrong weigh exp(a_t) as much from then on. ε_t counts as half a node at least, as a learner that fits all of few
       nodes would otherwise decide alone. For "kta" θ_t is where the kernel of the propagated training rows is aligned
       best with that of their labels.
    2. *Fine-tuning.* All weights and votes together, in float32.
    3. *Low-bit.* A copy with ranges from one look, taught by the float model. What is propagated does not depend on
       weights: with the ranges of messages as they are, its codes are made once, and a step only works on rows that
       have a label and on some others.

    It is next to :class:`~dgl_lowbit.nn.SMPConv` when labels are few: less accurate on Cora, and its learners each have
    a weight as wide as the features. Take it where depth harms and one scale does not do.

    Parameters
    ----------
    graph : DGLGraph
        With self-loops, and ``ndata`` as :func:`dgl_lowbit.experiments.data.load_graph` gives it.
    rounds, hidden, propagate
        See :class:`~dgl_lowbit.nn.BoostedMLP`.
    bits : int
        1, 2, 3, 4, 8, or 32 for the float model alone.
    config : QuantConfig, optional
        In the place of ``bits``.
    epochs : int
        For each learner.
    finetune : int
        For each of the other two stages; 0 leaves out fine-tuning, and the low-bit copy is only calibrated.
    lr, weight_decay, quantizer_lr
        Adam's, see :func:`parameter_groups`.
    distillation : float
        Which part of the low-bit stage's loss is learning from the float model, from 0 to 1.
    seed : int
        Of weights, dropout and rows; torch's global state is left as found.
    progress : bool or str
        Whether to show a progress bar, and its label.
    **options
        Others of :class:`~dgl_lowbit.nn.BoostedMLP`: share, dropout, messages, allow_zero_in_degree.

    Returns
    -------
    Boosted

    Raises
    ------
    ValueError
        When the graph lacks features, labels or masks, for counts that are not positive, and as
        :class:`~dgl_lowbit.nn.BoostedMLP` and :class:`QuantConfig`.
    DGLError
        For nodes without in-edges: add self-loops.
    """
    check_graph(graph)
    check_counts(epochs=epochs, finetune=finetune or None)
    if not 0 <= distillation <= 1:
        raise ValueError(f"distillation is a part of the loss, from 0 to 1, got {distillation!r}.")
    config = QuantConfig(bits) if config is None else checked_config(config)
    if config.quantizer == "hgq":
        raise ValueError(WITHOUT_PRICE)
    feat, classes = graph.ndata["feat"], int(graph.ndata["label"].max()) + 1
    if classes < 2:
        raise ValueError('learners vote for classes, and graph.ndata["label"] has one; give labels of at least two.')
    label = progress if isinstance(progress, str) else "boosting"
    with torch.random.fork_rng(devices=[graph.device] if graph.device.type == "cuda" else []):
        seed_torch(seed, graph.device)
        model = BoostedMLP(feat.shape[1], classes, rounds, hidden, propagate, **options).to(graph.device)
        model.validate(graph, feat)
        total = rounds * epochs + finetune * (1 + (not config.is_float))
        with progress_bar(progress, label, total=total) as bar:
            rates = {"lr": lr, "weight_decay": weight_decay, "quantizer_lr": quantizer_lr}
            stage = _Stage(graph, rates, bar)
            scales, learners = stage.boost(model, epochs)
            stage.together(model, scales, finetune)
            low_bit: BoostedMLP = model
            if not config.is_float:
                low_bit = cast(BoostedMLP, calibrate(quantize(model, config), graph, feat))
                with torch.no_grad():
                    coded = low_bit.eval().scales(low_bit._operations(), graph, feat)
                    teacher = predict(model, graph)
                stage.together(low_bit, coded, finetune, teacher, distillation)
    scores = predict(low_bit, graph)
    val, test = (accuracy(scores, graph, mask) for mask in ("val_mask", "test_mask"))
    return Boosted(low_bit, model, learners, val, test)


class _Stage:
    """Trains learners on rows of features that were propagated before."""

    def __init__(self, graph, rates, bar):
        self.graph, self.labels, self.rates, self.bar = graph, graph.ndata["label"], rates, bar
        self.train, self.val = (graph.ndata[mask].nonzero().flatten() for mask in ("train_mask", "val_mask"))

    @torch.no_grad()
    def boost(self, model, epochs):
        """Train one learner after another; the features at all scales, and what is known of each learner."""
        device = self.labels.device
        weights, learners = torch.full((len(self.train),), 1 / len(self.train), device=device), []
        votes = torch.zeros(len(self.labels), model.num_classes, device=device)

        def learn(t, scales, spread=None):
            with torch.enable_grad():
                self._learner(model, scales[t], t, weights, epochs)
            logits = model.logits(TorchOps(), scales[t], t)
            wrong = logits[self.train].argmax(1) != self.labels[self.train]
            least, chance = 0.5 / len(self.train), 1 - 1 / model.num_classes
            error = min(max(float(weights[wrong].sum()), least), chance)
            vote = math.log((1 - error) / error) + math.log(max(model.num_classes - 1, 1))
            model.votes[t] = vote
            weights.mul_(torch.where(wrong, math.exp(vote), 1.0)).div_(weights.sum())
            votes.add_(vote * logits.softmax(-1))
            known = {mask: accuracy(votes, self.graph, f"{mask}_mask") for mask in ("val", "test")}
            learners.append({"error": error, "vote": vote, **{f"{m}_accuracy": value for m, value in known.items()}})
            if spread is not None and model.propagate == "kta":
                with torch.enable_grad():
                    model.mixing[t] = aligned([z[self.train] for z in spread], self.labels[self.train])

        scales = model.scales(TorchOps(), self.graph, self.graph.ndata["feat"], learn)
        learn(model.rounds - 1, scales)
        return scales, learners

    def _learner(self, model, x, t, weights, epochs):
        # Adam would decay those of all learners, which stand in the same tensors: here the loss does what it does.
        rates, decay = {**self.rates, "weight_decay": 0.0}, self.rates["weight_decay"] / 2

        def loss():
            logits, own = model.logits(TorchOps(), x[self.train], t), model.learner(t)
            each = F.cross_entropy(logits, self.labels[self.train], reduction="none")
            return (weights * each).sum() + decay * sum(part.square().sum() for part in own)

        self._best(model, epochs, loss, lambda: model.logits(TorchOps(), x[self.val], t), rates)

    def together(self, model, scales, epochs, teacher=None, distillation=0.0):
        """Train all learners and their votes at once, with a ``teacher``'s scores of all nodes to learn from."""
        ops, train, known = model._operations(), len(self.train), [x[self.val] for x in scales]

        def made(rows):
            return model.finish(ops, model.scores(ops, rows))

        def loss():
            rows = self.train
            if teacher is not None:
                rows = torch.cat([rows, torch.randint(len(self.labels), (_OTHERS,)).to(rows.device)])
            scores = made([x[rows] for x in scales])
            total = F.cross_entropy(scores[:train], self.labels[self.train])
            if teacher is not None:
                total = (1 - distillation) * total + distillation * distillation_loss(scores, teacher[rows])
            return total

        self._best(model, epochs, loss, lambda: made(known))

    def _best(self, model: nn.Module, epochs, loss, on_val, rates=None):
        """Steps of Adam, after which the model has the weights of its best epoch on validation nodes."""
        optimizer = torch.optim.Adam(parameter_groups(model, **(rates or self.rates)))
        best, state = (-1.0, -math.inf), None
        for _ in range(epochs):
            model.train()
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
            model.eval()
            with torch.no_grad():
                logits, labels = on_val(), self.labels[self.val]
                found = (logits.argmax(1) == labels).float().mean().item(), -F.cross_entropy(logits, labels).item()
            if found > best:
                best, state = found, copy.deepcopy(model.state_dict())
            self.bar.update()
        if state is not None:
            model.load_state_dict(state)
        model.eval()


def aligned(spread: list, labels: torch.Tensor) -> torch.Tensor:
    """θ, on the simplex, where the centred kernel of Σ θ_k Z_k is aligned best with the labels' (arXiv:1203.0550).

    Parameters
    ----------
    spread : list of torch.Tensor
        Z_k, (rows, columns) each.
    labels : (rows,) int64 tensor

    Returns
    -------
    torch.Tensor
        (len(spread),).
    """
    target, spread = _centered(F.one_hot(labels)), [_centered(z) for z in spread]
    of_labels = torch.stack([target.T @ z for z in spread]).flatten(1)
    gains, norms = of_labels @ of_labels.T, _norms(spread)
    most = (target.T @ target).norm()
    free = torch.zeros(len(spread), dtype=gains.dtype, device=labels.device, requires_grad=True)
    optimizer = torch.optim.Adam([free], lr=0.1)
    for _ in range(_ALIGNING_STEPS):
        theta = free.softmax(0)
        norm = torch.einsum("i,j,k,l,ijkl->", theta, theta, theta, theta, norms).clamp_min(0).sqrt()
        alignment = theta @ gains @ theta / (norm * most).clamp_min(1e-12)
        optimizer.zero_grad()
        (-alignment).backward()
        optimizer.step()
    return free.detach().softmax(0).float()


def _centered(x):
    x = x.double()
    return x - x.mean(0)


def _norms(spread):
    """⟨Z_i Z_jᵀ, Z_k Z_lᵀ⟩ of all i, j, k and l, from products of rows, or of columns where these are fewer."""
    count, (rows, columns) = len(spread), spread[0].shape
    if rows > columns:  # ⟨Z_kᵀ Z_i, Z_lᵀ Z_j⟩
        of_pairs = torch.stack([a.T @ b for a in spread for b in spread]).flatten(1)
        return (of_pairs @ of_pairs.T).view([count] * 4).permute(1, 3, 0, 2)
    of_pairs = torch.stack([a @ b.T for a in spread for b in spread]).flatten(1)
    return (of_pairs @ of_pairs.T).view([count] * 4)
