"""The operations low-bit layers are written in."""

from __future__ import annotations

from typing import Any, NoReturn, Protocol, runtime_checkable

# In training tensors, codes (:class:`~dgl_lowbit.nn.ops.Quantized`) and pairs of these; for the recorder its values.
Rows = Any


class OnlyOps:
    """Base of what runs or records :class:`Ops`: says what there is where something else is asked for."""

    def __getattr__(self, name: str) -> NoReturn:
        known = ", ".join(name for name in vars(Ops) if not name.startswith("_"))
        raise AttributeError(
            f"dgl_lowbit.nn.Ops has no operation {name!r}; it has {known}. Functions of torch that act number by "
            "number go through ops.activate(x, function)."
        )


@runtime_checkable
class Ops(Protocol):
    """What a layer's ``compute(ops, …)`` may call.

    :class:`~dgl_lowbit.nn.ops.TorchOps` runs them, fake-quantised and differentiable, through DGL's message passing;
    the recorder of :mod:`dgl_lowbit.deploy` writes them into the plan of the packed model. What trains and what is
    deployed can thus not drift apart. Rows are (rows, width) unless said otherwise, or in training (rows, …, width);
    quantisers are those that the layer's operands name.
    """

    # -- codes, products and sums over neighbours --------------------------------------------------------
    def source(self, feat) -> Rows:
        """Features of the source nodes: the first of a pair, else ``feat``."""

    def destination(self, feat, graph) -> Rows:
        """Features of the destination nodes: the second of a pair; on a block, the first rows."""

    def dropout(self, x, module) -> Rows:
        """What ``module``, a dropout, leaves of ``x``, or of each part of a pair; at inference all of it."""

    def quantize(self, quantizer, x, norm=None) -> Rows:
        """Codes of ``x`` under ``quantizer``; several parts, as of a pair, together, so that all set the range.

        With ``norm``, (graph, side, power), of :meth:`scale_by_degree` of that.
        """

    def dequantize(self, codes) -> Rows:
        """The values that codes stand for."""

    def delta_quantize(self, quantizer, x, state, dead_zone=None) -> Rows:
        """Codes of what ``x`` changed against ``state``, and the state they lead to (None: zero).

        With a ``dead_zone``, a :class:`~dgl_lowbit.quant.dead_zone.DeadZone`, rows that hardly changed send nothing:
        sums over neighbours of unweighted edges leave them out.
        """

    def product(self, codes, quantizer, weight, norm=None, bias=None, onto=None) -> Rows:
        """Matrix product of codes, (rows, in), with the quantised ``weight``, (in, out); of each part of a pair.

        The sum runs over centred codes, so it is exact; both scales follow. What is given of the others comes after:
        :meth:`scale_by_degree` with the arguments ``norm``, (graph, side, power), :meth:`bias`, and a sum with
        ``onto``, which nothing else reads: it may be written over.
        """

    def products(self, *terms) -> tuple:
        """:meth:`product` of each of ``terms``, (codes, quantizer, weight); of the same codes they are made at once."""

    def aggregate(self, graph, codes, edge_weight=None, self_codes=None, norm=None) -> Rows:
        """Sum of the codes of the in-neighbours (weighted, where weights are given) plus ``self_codes``.

        With ``norm``, (graph, side, power) or (graph, side, power, plus), :meth:`scale_by_degree` of that. In a
        layer that :attr:`~dgl_lowbit.nn.LowBitLayer.counts_neighbours`, on blocks of
        :func:`dgl_lowbit.nn.with_degrees`, the sum over k of d in-neighbours is taken d/k times.
        """

    def largest(self, graph, codes, edge_weight=None) -> Rows:
        """Largest of the in-neighbours' values, 0 where there are none."""

    def maximum(self, graph, codes, edge_weight=None) -> Rows:
        """The former name of :meth:`largest`."""

    def reduce(self, graph, codes, edge_weight, reducer, scaled=True) -> Rows:
        """DGL's ``reducer`` from mailbox "m" to "neigh" over the in-neighbours' values (or centred codes)."""

    def aggregate_edges(self, graph, codes, edge_codes) -> Rows:
        """Sum over in-neighbours of max(code of the node + code of the edge, 0), both of one quantiser."""

    def aggregate_by_type(
        self, graph, codes, weight_quantizer, weights, quantizer, edge_types, edge_weight=None
    ) -> Rows:
        """Sum over in-edges, (weighted, where weights are given), of messages by edge type, quantised by ``quantizer``.

        A message is the product of the source node's codes, (rows, in), with the matrix of the edge's type among
        ``weights``, (types, in, out), which are quantised together. It is computed once for each type and source node
        that an edge of that type leaves.
        """

    def normed(self, graph, edge_weight) -> Rows:
        """``edge_weight`` over the roots of its sums at both ends (dgl.nn.EdgeWeightNorm); None stays None."""

    def spectral_norm(self, graph, lambda_max) -> Rows:
        """2 / λ_max of the graph's Laplacian: 1 where it is not given, else a number for each node, (N, 1)."""

    def drop_edges(self, graph, edge_weight, module) -> Rows:
        """Weights of the edges that ``module``, dropout, leaves; None as long as all of them stay."""

    def kept(self, holder, name, make) -> Rows:
        """What ``make()`` gave in the first forward, kept as the attribute ``name`` of ``holder``; without gradient."""

    # -- attention ---------------------------------------------------------------------------------------
    def head_sums(self, x, vector, heads) -> Rows:
        """Σ_d x[i, h, d] · vector[h, d]: rows of (heads · D) to (rows, heads)."""

    def attention(self, graph, left, right, vector, slope, quantizer, drop, edge_weight=None) -> Rows:
        """Quantised attention weights of the edges, (E, heads, 1).

        The softmax over in-neighbours j of i of Σ_d vector[h, d] · LeakyReLU(left[j, h, d] + right[i, h, d]), in
        float32 over the values of the codes; ``drop`` acts on it, ``edge_weight`` multiplies it.
        """

    def attend(self, graph, codes, attention) -> Rows:
        """Sum of the codes of the in-neighbours, (N, heads · D), each head's weighted with its attention."""

    def split_heads(self, x, heads) -> Rows:
        """(rows, heads · D) as (rows, heads, D)."""

    # -- row by row --------------------------------------------------------------------------------------
    def concatenate(self, parts) -> Rows:
        """Values side by side."""

    def call(self, module, x) -> Rows:
        """What a module that is a layer of its own makes of ``x``."""

    def scale_by_degree(self, x, graph, side, power, plus=0, unless=None) -> Rows:
        """Multiply rows by (degree + plus)^power, degrees of 0 counting as 1; where ``unless`` is given, do not.

        ``side`` is "out" for out-degrees of source nodes, "in" for in-degrees of destination nodes; ``power``
        is −1, −½ or ½.
        """

    def combine(self, *terms) -> Rows:
        """Σ coefficient · tensor over ``terms``, pairs of a number and a tensor, summed from left to right."""

    def bias(self, x, bias) -> Rows:
        """``x`` plus ``bias``, a number a column; None adds nothing."""

    def activate(self, x, activation) -> Rows:
        """``activation`` of ``x``, a function or module of torch; None leaves it as it is."""

    def requantize(self, quantizer, x) -> Rows:
        """``x`` rounded to the quantiser's grid."""
