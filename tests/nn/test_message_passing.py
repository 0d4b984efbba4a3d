"""What is coded of message passing of a user's own."""

import dgl
import dgl.function as fn
import dgl.ops
import pytest
import torch
from dgl.nn.functional import edge_softmax
from dgl.ops import segment_reduce

import dgl_lowbit as lowbit
from dgl_lowbit.quant import Quantizer

from ..conftest import features
from .own_modules import WAYS, Calls, OwnGAT, OwnGCN, low_bit, updated, weighted

pytestmark = pytest.mark.filterwarnings("ignore::dgl_lowbit.FloatModuleWarning")


@pytest.mark.parametrize("way", WAYS)
def test_sums_are_of_codes_however_they_are_written(way, graph):
    feat = features(graph, 12)
    model = low_bit(OwnGCN(12, 5, WAYS[way]), graph, feat)
    rows, quantizer = model.linear(feat), model.update_all_0["messages"]
    codes = quantizer.codes(rows).double() - quantizer.qparams(rows).zero_point
    adjacency = torch.zeros(graph.num_dst_nodes(), graph.num_src_nodes(), dtype=torch.double)
    source, target = graph.edges()
    adjacency.index_put_((target.long(), source.long()), torch.ones(len(source)).double(), accumulate=True)
    expected = (adjacency @ codes).float() * quantizer.qparams(rows).scale
    assert torch.equal(model(graph, feat), expected)
    assert not torch.equal(expected, OwnGCN.forward(model, graph, feat))  # outside a forward nothing is coded


# -- what is coded ----------------------------------------------------------------------------------------
def operand(rows, *shape, seed=0):
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(seed))


SITES = {
    "sum": (lambda g, u, v, e: dgl.ops.copy_u_sum(g, u), "update_all_0.messages u"),
    "mean": (lambda g, u, v, e: dgl.ops.copy_u_mean(g, u), "update_all_0.messages u"),
    "max": (lambda g, u, v, e: dgl.ops.copy_u_max(g, u), "update_all_0.messages u"),
    "of edges": (lambda g, u, v, e: dgl.ops.copy_e_sum(g, e), "update_all_0.messages e"),
    "weighted": (lambda g, u, v, e: dgl.ops.u_mul_e_sum(g, u, e[..., :1]), "update_all_0.messages u"),
    "divided": (lambda g, u, v, e: dgl.ops.u_div_e_sum(g, u, 1 + e[..., :1].abs()), "update_all_0.messages u"),
    "plus edges": (lambda g, u, v, e: dgl.ops.u_add_e_sum(g, u, e), "update_all_0.messages ue"),
    "minus edges": (lambda g, u, v, e: dgl.ops.u_sub_e_max(g, u, e), "update_all_0.messages ue"),
    "plus narrow edges": (lambda g, u, v, e: dgl.ops.u_add_e_sum(g, u, e[..., :1]), "update_all_0.messages ue"),
    "u add v": (lambda g, u, v, e: dgl.ops.u_add_v(g, u, v), "apply_edges_0.scores uv"),
    "v sub u": (lambda g, u, v, e: dgl.ops.v_sub_u(g, v, u), "apply_edges_0.scores uv"),
    "u mul v": (lambda g, u, v, e: dgl.ops.u_mul_v(g, u, v), "apply_edges_0.scores uv"),
    "u dot v": (lambda g, u, v, e: dgl.ops.u_dot_v(g, u, v), "apply_edges_0.scores uv"),
    "u div v": (lambda g, u, v, e: dgl.ops.u_div_v(g, u, 1 + v.abs()), "apply_edges_0.scores u"),
    "e add u": (lambda g, u, v, e: dgl.ops.e_add_u(g, e, u), "apply_edges_0.scores ue"),
    "e mul u": (lambda g, u, v, e: dgl.ops.e_mul_u(g, e, u), ""),
    "copy": (lambda g, u, v, e: dgl.ops.copy_u(g, u), ""),
    "softmax": (lambda g, u, v, e: edge_softmax(g, e), ""),
    "segments": (lambda g, u, v, e: segment_reduce(torch.tensor([30, 0, 10]), u, "sum"), ""),
    "softmax of segments": (lambda g, u, v, e: dgl.ops.segment_softmax(torch.tensor([30, 10]), u), ""),
}  # fmt: skip


@pytest.mark.parametrize("shape", [(5,), (3, 4)])
@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("name", SITES)
def test_a_call_is_dgls_function_of_the_coded_values(name, bits, shape, graph):
    call, place = SITES[name]
    values = {"u": operand(40, *shape), "v": operand(40, *shape, seed=1), "e": operand(graph.num_edges(), *shape)}
    model = (
        lowbit.quantize(Calls(call), lowbit.QuantConfig(bits, scores=bits), graph, *values.values()) if place else None
    )
    if model is None:
        with pytest.raises(ValueError, match="holds no layer"):
            lowbit.quantize(Calls(call), lowbit.QuantConfig(bits), graph, *values.values())
        return
    lowbit.calibrate(model, graph, *values.values())
    site, coded = place.split()
    (quantizer,) = (q for q in model.modules() if isinstance(q, Quantizer))
    assert dict(model.named_modules())[site] is quantizer
    narrow = {"e": values["e"][..., :1]} if name == "plus narrow edges" else {}
    together = [{**values, **narrow}[key] for key in coded]
    by_channel = quantizer.granularity == "channel"
    rows = torch.cat([x.flatten(1) if by_channel else x.reshape(-1, 1) for x in together])
    rounded = quantizer.fake_quantize(rows).split([len(x) if by_channel else x.numel() for x in together])
    known = {key: part.view(x.shape) for key, part, x in zip(coded, rounded, together)}
    assert any(not torch.equal(known[key], x) for key, x in zip(coded, together))
    torch.testing.assert_close(model(graph, *values.values()), call(graph, *{**values, **known}.values()))


def test_attention_is_coded_where_it_meets_a_sum(graph):
    feat = features(graph, 12)
    model = low_bit(OwnGAT(12, 4), graph, feat, bits=4)
    names = [row["quantizer"] for row in lowbit.diagnose(model, graph, feat)]
    assert names[2:] == ["apply_edges_0.scores", "update_all_2.messages", "update_all_2.attention"]
    attention = model.update_all_2["attention"]
    assert attention.format.bits == 8 and not attention.half_grid and attention.granularity == "tensor"
    assert model.update_all_2["messages"].log_alpha.shape == (8,)
    assert model.apply_edges_0["scores"].log_alpha.shape == (2,)


def test_products_by_type_are_of_codes():
    feat, types = operand(50, 12), torch.arange(50) % 4
    for width in (9, 6):  # beyond 8 columns DGL sorts rows by type and multiplies segments
        model = low_bit(dgl.nn.TypedLinear(width, width, 4), feat[:, :width], types, bits=4)
        site, weight = model.segment_mm_0, model.get_weight()
        codes = site["weights"].fake_quantize(weight.transpose(0, 1).reshape(width, -1)).view(width, 4, width)
        expected = torch.einsum("ni,ino->no", site["inputs"].fake_quantize(feat[:, :width]), codes[:, types])
        torch.testing.assert_close(model(feat[:, :width], types), expected)
        assert not torch.allclose(expected, torch.einsum("ni,nio->no", feat[:, :width], weight[types]), atol=1e-3)


def test_shifts_serve_plain_sums_alone(graph):
    feat = features(graph, 12)
    for way, granularity in ((updated, "shift"), (weighted, "channel")):
        model = low_bit(OwnGCN(12, 5, way), graph, feat, messages_granularity="shift")
        assert model.update_all_0["messages"].granularity == granularity


# -- graphs ------------------------------------------------------------------------------------------------
def two_types():
    generator = torch.Generator().manual_seed(0)
    edges = {("a", name, "a"): tuple(torch.randint(20, (2, 60), generator=generator)) for name in ("x", "y")}
    edges["b", "z", "a"] = tuple(torch.randint(20, (2, 40), generator=generator))
    return dgl.heterograph(edges, num_nodes_dict={"a": 20, "b": 20})


def over_all_types(graph, rows):
    with graph.local_scope():
        graph.ndata["h"] = rows
        graph.update_all(fn.copy_u("h", "m"), fn.sum("m", "n"))
        return graph.nodes["a"].data["n"]


def type_by_type(graph, rows):
    with graph.local_scope():
        graph.ndata["h"] = rows
        passes = fn.copy_u("h", "m"), fn.sum("m", "n")
        graph.multi_update_all(dict.fromkeys(("x", "y", "z"), passes), "sum")
        return graph.nodes["a"].data["n"]


def test_types_of_a_heterograph():
    graph = two_types()
    rows = {"a": operand(20, 6), "b": operand(20, 6, seed=1)}
    together = low_bit(Calls(over_all_types), graph, rows)
    apart = low_bit(Calls(type_by_type), graph, rows)
    assert [name for name, _ in together.named_children()] == ["update_all_0"]
    assert [name for name, _ in apart.named_children()] == ["update_all_0", "update_all_1", "update_all_2"]
    rounded = together.update_all_0["messages"].fake_quantize(torch.cat([rows["a"], rows["b"]]))
    known = dict(zip("ab", rounded.split(20)))
    torch.testing.assert_close(together(graph, rows), over_all_types(graph, known))
    sites = [apart.get_submodule(f"update_all_{number}")["messages"] for number in range(3)]
    expected = sum(
        updated(graph[etype], rows[etype[0]] if site is None else site.fake_quantize(rows[etype[0]]))
        for etype, site in zip(graph.canonical_etypes, sites)
    )
    torch.testing.assert_close(apart(graph, rows), expected)


def test_blocks_and_batches(graph):
    feat = features(graph, 12)
    model = low_bit(OwnGCN(12, 5, WAYS["from dgl.ops import copy_u_sum"]), graph, feat)
    both = model(dgl.batch([graph, graph]), torch.cat([feat, feat]))
    assert torch.equal(both, model(graph, feat).repeat(2, 1))
    sampler = dgl.dataloading.MultiLayerFullNeighborSampler(1)
    sources, seeds, blocks = sampler.sample_blocks(graph, torch.arange(0, 40, 3))
    torch.testing.assert_close(model(blocks[0], feat[sources]), model(graph, feat)[seeds])


# -- many messages -----------------------------------------------------------------------------------------
def coded(quantizer, *parts):
    """Centred codes of each of the parts in float64, and their scale."""
    centered, scale = quantizer.split(torch.cat(parts))
    return [part.double() for part in centered.split([len(part) for part in parts])], scale


def test_sums_over_a_hub_are_exact_in_a_heterograph():
    """A node that gets 60,000 messages of each type; float32 alone errs."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(3000, (2, 60_000), generator=generator)
    edges = {("a", "x", "a"): source[0], ("b", "y", "a"): source[1]}
    graph = dgl.heterograph(
        {etype: (ends, torch.zeros_like(ends)) for etype, ends in edges.items()}, {"a": 3000, "b": 3000}
    )
    rows = {name: torch.rand(3000, 5, generator=generator) + 0.5 for name in "ab"}
    model = low_bit(Calls(over_all_types), graph, rows, bits=8)
    codes, scale = coded(model.update_all_0["messages"], rows["a"], rows["b"])
    exact = over_all_types(graph, dict(zip("ab", codes)))
    assert torch.equal(model(graph, rows), exact.float() * scale)
    assert not torch.equal(over_all_types(graph, {name: x.float() for name, x in zip("ab", codes)}), exact.float())


def with_attention(graph, rows, scores):
    return dgl.ops.u_mul_e_sum(graph, rows, edge_softmax(graph, scores))


@pytest.mark.parametrize("call", [dgl.ops.u_add_e_sum, with_attention])
def test_sums_of_two_codes_over_a_hub_are_exact(call):
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(3000, (100_000,), generator=generator)
    graph = dgl.graph((source, torch.zeros_like(source)), num_nodes=3000)
    rows, on_edges = (torch.rand(len(source) if there else 3000, 5, generator=generator) + 0.5 for there in (0, 1))
    model = lowbit.quantize(Calls(call), lowbit.QuantConfig(8), graph, rows, on_edges)
    (site,) = lowbit.calibrate(model, graph, rows, on_edges).children()
    if call is with_attention:
        ((u,), scale), ((e,), of_edges) = (
            coded(site["messages"], rows),
            coded(site["attention"], edge_softmax(graph, on_edges)),
        )
        scale, plain = scale * of_edges, dgl.ops.u_mul_e_sum
    else:
        ((u, e), scale), plain = coded(site["messages"], rows, on_edges), call
    exact = plain(graph, u, e).float()
    assert torch.equal(model(graph, rows, on_edges), exact * scale)
    assert not torch.equal(plain(graph, u.float(), e.float()), exact)
