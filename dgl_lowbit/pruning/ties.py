"""Which channels are read where, and which can only leave together: found by trying, not by reading code."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..quant.evaluation import evaluating, forget
from ..trees import leaves, mapped
from .layers import layers_of

FEATURES = "features"
_OUTPUT = "what the model returns"


class Ties:
    """Groups of a model's channels and of its input's columns.

    Layers whose channels are known are replaced by what they returned; what one of them returns, or the model is given,
    is changed channel by channel, and what others read is watched. Each digit of the channels' numbers takes two runs,
    in which the channels with the digit 1, and those with 0, are changed: a column that follows from one channel alone
    changes in one of the two, and says that channel's number; one that several are mixed in changes in both.

    Attributes
    ----------
    layers : dict
        Layer and anatomy by name, of those whose channels are known.
    outs, ins : dict
        By layer the group of each channel, of each column that it reads, (count,) int64; ``outs["features"]`` those of
        the model's features.
    fixed : torch.Tensor
        (groups,) bool: those that cannot leave.
    spaces : dict of str to torch.Tensor
        Groups that can, by what they are channels of: "features", or layers, comma-separated.
    reasons : dict
        Why channels of layers cannot leave.
    """

    def __init__(self, model: nn.Module, graph, feat: torch.Tensor):
        self.model, self._example = copy.deepcopy(model), (graph, feat)  # it may keep what it computes
        forget(self.model)
        found = list(layers_of(self.model))
        self._opaque = {name: layer for name, layer, known in found if known is None}
        self.layers = {name: (layer, known) for name, layer, known in found if known is not None}
        self.reasons: dict[str, str] = {}
        self._record()
        self._tie()
        self.layers = {name: (model.get_submodule(name), known) for name, (_, known) in self.layers.items()}
        del self.model, self._returned, self._base

    # -- runs -------------------------------------------------------------------------------------------
    def _record(self):
        calls: dict[str, list] = {}
        every = {**{name: layer for name, (layer, _) in self.layers.items()}, **self._opaque}
        hooks = [
            layer.register_forward_hook(
                lambda _, args, kwargs, out, name=name: calls.setdefault(name, []).append((args, kwargs, out)),
                with_kwargs=True,
            )
            for name, layer in every.items()
        ]
        try:
            with evaluating(self.model), torch.no_grad():
                self.model(*self._example)
        finally:
            for hook in hooks:
                hook.remove()
        for name in [name for name in self.layers if len(calls.get(name, ())) != 1]:  # shared, or not met
            self._opaque[name] = self.layers.pop(name)[0]
        self._opaque = {name: layer for name, layer in self._opaque.items() if name in calls}
        self._returned = {name: calls[name] for name in (*self.layers, *self._opaque)}
        self._base = self._run({})

    def _run(self, shifts: dict) -> dict[str, list[torch.Tensor]]:
        """What each layer reads, and the model returns, where ``shifts`` are added to what layers return."""
        seen: dict[str, list] = {}
        graph, feat = self._example
        with evaluating(self.model), torch.no_grad(), self._replaced(seen, shifts):
            seen[_OUTPUT] = list(_tensors(self.model(graph, feat + shifts.get(FEATURES, 0))))
        return seen

    @contextmanager
    def _replaced(self, seen, shifts):
        every = {**{name: layer for name, (layer, _) in self.layers.items()}, **self._opaque}
        kept = {name: layer.__dict__.get("forward") for name, layer in every.items()}
        try:
            for name, layer in every.items():
                turns = iter(self._returned[name])
                layer.forward = functools.partial(self._replay, name, turns, seen, shifts)
            yield
        finally:
            for name, layer in every.items():
                del layer.forward
                if kept[name] is not None:
                    layer.forward = kept[name]

    def _replay(self, name, turns, seen, shifts, *args, **kwargs):
        given: tuple = (args, kwargs)
        if name in self.layers:
            layer, known = self.layers[name]
            by_name = {**dict(zip(inspect.signature(type(layer).forward).parameters, (layer, *args))), **kwargs}
            given = by_name.pop(known.features)
            others = {key: value for key, value in by_name.items() if value is not layer}
            seen.setdefault(f"{name}, beside its features", []).extend(_tensors(others))
        seen.setdefault(name, []).extend(_tensors(given))
        out, shift = next(turns)[2], shifts.get(name)
        return out if shift is None else mapped(out, lambda leaf: leaf + shift if _is_floating(leaf) else leaf)

    # -- what follows from what ---------------------------------------------------------------------------
    def _follows(self, source, count, width) -> dict[str, torch.Tensor]:
        """For each reader which channel of ``source`` each of its columns follows from: −1 none, −2 several."""
        numbers, changes = torch.arange(1, count + 1), []
        for digit in range(count.bit_length()):
            is_one = (numbers >> digit & 1).bool()
            for chosen in (is_one, ~is_one):
                changes.append(self._changed(source, chosen.repeat_interleave(width)))
        result = {}
        for name in self._base:
            both = torch.stack([change[name] for change in changes]).view(-1, 2, changes[0][name].numel())
            number = (both[:, 0].long() << torch.arange(len(both))[:, None]).sum(0)
            is_one_alone = (both[:, 0] ^ both[:, 1]).all(0) & (number > 0)
            result[name] = torch.where(is_one_alone, number - 1, torch.where(both.any(1).any(0), -2, -1))
        return result

    def _changed(self, source, chosen):
        """Columns of what is read that change with channels of ``source``."""
        returned = [self._example[1]] if source == FEATURES else _tensors(self._returned[source][0][2])
        size = 1 + max((float(part.abs().max()) for part in returned if part.numel()), default=0.0)
        like = next(iter(_tensors(self._returned[source][0][2])), None) if source != FEATURES else None
        shift = size * chosen.float().to(self._example[1].device)
        if like is not None and len(shift) != like.shape[-1]:  # heads have a dimension of their own
            shift = shift.view(like.shape[1:])
        seen = self._run({source: shift})
        return {name: _columns(self._base[name], seen.get(name, [])) for name in self._base}

    def _tie(self):
        start, self.outs, self.ins = 0, {}, {}
        counts = {FEATURES: self._example[1].shape[1]}
        counts.update({name: known.channels for name, (_, known) in self.layers.items()})
        for name, count in counts.items():
            self.outs[name], start = torch.arange(start, start + count), start + count
        for name, (_, known) in self.layers.items():
            self.ins[name], start = torch.arange(start, start + known.columns), start + known.columns
        groups, fixed = _Groups(start), set()
        for name, (_, known) in self.layers.items():
            if known.channelwise:
                groups.unite(self.outs[name], self.ins[name])
        is_read = {name: torch.zeros(len(group), dtype=torch.bool) for name, group in self.ins.items()}
        for source, count in counts.items():
            follows = self._follows(source, count, 1 if source == FEATURES else self.layers[source][1].width)
            for reader, channel in follows.items():
                if reader not in self.ins:
                    if bool((channel != -1).any()):
                        what = reader if reader == _OUTPUT else f"{reader}, whose channels are as they are"
                        self._fix(source, f"they are read by {what}", fixed)
                    continue
                one = channel >= 0
                groups.unite(self.outs[source][channel[one]], self.ins[reader][one])
                is_read[reader] |= one
                if bool((channel == -2).any()):
                    self._fix(source, f"they come mixed to {reader}", fixed)
                    fixed.update(self.ins[reader][channel == -2].tolist())
        for source in self._opaque:  # what these return stays, and so does what it is added to
            for reader, changed in self._from_opaque(source).items():
                fixed.update(self.ins[reader][changed].tolist())
        for reader, read in is_read.items():
            fixed.update(self.ins[reader][~read].tolist())
        self._number(groups, fixed)

    def _fix(self, source, reason, fixed):
        self.reasons.setdefault(source, reason)
        fixed.update(self.outs[source].tolist())

    def _from_opaque(self, source):
        shifts = [torch.ones((), device=self._example[1].device) * (1 + 10 * n) for n in range(2)]
        runs = [self._run({source: shift}) for shift in shifts]
        return {
            reader: torch.stack([_columns(self._base[reader], seen.get(reader, [])) for seen in runs]).any(0)
            for reader in self.ins
        }

    def _number(self, groups, fixed):
        """Groups by numbers from 0 on, what is fixed, and the spaces of those that can leave."""
        roots, count = groups.numbers()
        for table in (self.outs, self.ins):
            for name in table:
                table[name] = roots[table[name]]
        self.fixed = torch.zeros(count, dtype=torch.bool)
        self.fixed[roots[torch.tensor(sorted(fixed), dtype=torch.long)]] = True
        makers: list[list[str]] = [[] for _ in range(count)]
        for name, group in self.outs.items():
            if name == FEATURES or not self.layers[name][1].channelwise:
                for number in group.tolist():
                    makers[number].append(name)
        is_read = torch.zeros(count, dtype=torch.bool)
        for name, group in self.ins.items():
            if not self.layers[name][1].channelwise:
                is_read[group] = True
        for number, names in enumerate(makers):
            if FEATURES in names and len(names) > 1:
                self.fixed[number] = True
                self.reasons.setdefault(names[-1], "they are added to features")
        self.fixed |= ~is_read
        spaces: dict[str, list[int]] = {}
        for number in (~self.fixed).nonzero().flatten().tolist():
            spaces.setdefault(", ".join(dict.fromkeys(makers[number])), []).append(number)
        self.spaces = {name: torch.tensor(numbers) for name, numbers in spaces.items()}


class _Groups:
    """Sets of numbers that are united."""

    def __init__(self, count):
        self.parent = list(range(count))

    def root(self, number):
        while self.parent[number] != number:
            self.parent[number] = self.parent[self.parent[number]]
            number = self.parent[number]
        return number

    def unite(self, firsts, seconds):
        for first, second in zip(firsts.tolist(), seconds.tolist()):
            first, second = self.root(first), self.root(second)
            self.parent[max(first, second)] = min(first, second)

    def numbers(self):
        roots = torch.tensor([self.root(number) for number in range(len(self.parent))])
        known, numbers = roots.unique(return_inverse=True)
        return numbers, len(known)


def _is_floating(leaf):
    return isinstance(leaf, torch.Tensor) and leaf.is_floating_point()


def _tensors(tree) -> Iterator[torch.Tensor]:
    """The floating tensors in what is passed or returned."""
    return filter(_is_floating, leaves(tree))


def _columns(base, seen):
    """Which columns of tensors, of the same width, changed; all of them where shapes, or numbers alone, did."""
    widths = {part.shape[-1] for part in base if part.dim()}
    pairs = list(zip(base, seen))
    is_alike = len(base) == len(seen) and all(a.shape == b.shape and (a.dim() or torch.equal(a, b)) for a, b in pairs)
    if len(widths) != 1 or not is_alike:
        is_same = len(base) == len(seen) and all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)
        return torch.full((max(widths, default=1),), not is_same)
    changes = [(a != b).reshape(-1, a.shape[-1]).any(0) for a, b in pairs if a.dim()]
    return torch.stack(changes).any(0).cpu()
