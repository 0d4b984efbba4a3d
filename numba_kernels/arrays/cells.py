"""Recurrent cells and layers, in torch's order of weights."""

from __future__ import annotations

import numpy as np

from .activations import relu, sigmoid
from .kinds import ARRAY, ARRAYS, BOOL, INT, NUMBER, optional
from .products import linear
from .registry import function, register


@function(input=ARRAY, hx=ARRAY, w_ih=ARRAY, w_hh=ARRAY, b_ih=optional(ARRAY), b_hh=optional(ARRAY))
def gru_cell(input, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    of_input, of_state = (np.split(linear(x, w, b), 3, axis=-1) for x, w, b in ((input, w_ih, b_ih), (hx, w_hh, b_hh)))
    reset, update = (sigmoid(one + two) for one, two in zip(of_input[:2], of_state[:2]))
    new = np.tanh(of_input[2] + reset * of_state[2])
    return new + update * (hx - new)


@function(input=ARRAY, hx=ARRAYS, w_ih=ARRAY, w_hh=ARRAY, b_ih=optional(ARRAY), b_hh=optional(ARRAY))
def lstm_cell(input, hx, w_ih, w_hh, b_ih=None, b_hh=None):
    state, memory = hx
    gates = linear(input, w_ih, b_ih) + linear(state, w_hh, b_hh)
    enter, forget, candidate, leave = np.split(gates, 4, axis=-1)
    memory = sigmoid(forget) * memory + sigmoid(enter) * np.tanh(candidate)
    return sigmoid(leave) * np.tanh(memory), memory


def _plain(name, activation):
    def call(input, hx, w_ih, w_hh, b_ih=None, b_hh=None):
        return activation(linear(input, w_ih, b_ih) + linear(hx, w_hh, b_hh))

    register(
        name, call, input=ARRAY, hx=ARRAY, w_ih=ARRAY, w_hh=ARRAY, b_ih=optional(ARRAY), b_hh=optional(ARRAY)
    )  # fmt: skip
    return call


rnn_tanh_cell = _plain("rnn_tanh_cell", np.tanh)
rnn_relu_cell = _plain("rnn_relu_cell", relu)


def _over_time(step, sequence, state, weights, is_backwards):
    """The states of one direction of one layer, (T, B, H), and the last one; a state is a list of arrays."""
    states = [None] * len(sequence)
    for time in reversed(range(len(sequence))) if is_backwards else range(len(sequence)):
        state = step(sequence[time], state, weights)
        states[time] = state[0]
    return np.array(states).reshape(len(sequence), *state[0].shape), state


def _layered(name, step, parts, hx_kind):
    """A layer of cells over sequences; its state has so many parts."""

    def call(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first=False):
        starts, sequence = (hx if isinstance(hx, list) else [hx]), input
        is_batched = input.ndim == 3
        if not is_batched:
            sequence, starts = input[:, None], [start[:, None] for start in starts]
        elif batch_first:
            sequence = np.swapaxes(input, 0, 1)
        directions, per_cell = 2 if bidirectional else 1, 4 if has_biases else 2
        if len(params) < num_layers * directions * per_cell:
            raise ValueError(f"{len(params)} weights for {num_layers} layers")
        ends = []
        for layer in range(num_layers):
            outputs = []
            for direction in range(directions):
                number = layer * directions + direction
                weights = params[number * per_cell : (number + 1) * per_cell]
                state = [start[number] for start in starts]
                states, end = _over_time(step, sequence, state, weights, direction == 1)
                outputs.append(states)
                ends.append(end)
            sequence = np.concatenate(outputs, axis=-1)
        last = [np.stack([end[part] for end in ends]) for part in range(parts)]
        if not is_batched:
            return sequence[:, 0], *(part[:, 0] for part in last)
        return np.swapaxes(sequence, 0, 1) if batch_first else sequence, *last

    register(
        name, call, input=ARRAY, hx=hx_kind, params=ARRAYS, has_biases=BOOL, num_layers=INT, dropout=NUMBER, train=BOOL,
        bidirectional=BOOL, batch_first=BOOL,
    )  # fmt: skip


_layered("lstm", lambda x, state, weights: lstm_cell(x, state, *weights), 2, ARRAYS)
_layered("gru", lambda x, state, weights: [gru_cell(x, *state, *weights)], 1, ARRAY)
_layered("rnn_tanh", lambda x, state, weights: [rnn_tanh_cell(x, *state, *weights)], 1, ARRAY)
_layered("rnn_relu", lambda x, state, weights: [rnn_relu_cell(x, *state, *weights)], 1, ARRAY)
