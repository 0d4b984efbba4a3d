"""Summaries of studies and their Markdown tables."""

from __future__ import annotations

import statistics

from ...allocation import MEASURES
from ...report import mean_std, table
from .relatives import METHODS

# The authors' log on Cora's public split, one run (arXiv:2308.14949), by our labels.
AUTHORS = {
    "float32": "82.8", "INT8 QLR alone": "82.1", "INT4 QLR alone": "81.0", "INT2 QLR alone": "73.3", "INT2 BT": "75.6",
    "INT2 BT*": "77.8",
}  # fmt: skip
# Further figures of entries: headers, and how a mean is written; then those that ratios are taken of.
_BYTES = "bytes", "{:,.0f}"
_FIGURES = {
    "weight_error": ("weight error", "{:.4f}"),
    "hidden": ("bytes of hidden states", "{:,.0f}"),
    "mean_bits": ("mean bits", "{:.2f}"),
    "kl": ("KL untrained", "{:.4f}"),
    "ms": ("ms", "{:.2f}"),
    "ms_whole": ("ms, all columns given", "{:.2f}"),
    "ms_sums": ("ms of a sum", "{:.2f}"),
    "identical": ("equal to the bit", "{:.2%}"),
    "seconds": ("calibration, s", "{:.0f}"),
    "sum_error": ("error of sums", "{:.4f}"),
    "inputs": ("nodes a batch", "{:,.0f}"),
    "memory": ("history, part of float32", "{:.4f}"),
    "silent": ("silent rows by step, %", "{:.0f}"),
}
_COMPARED = ("weight_error", "hidden", "kl", "ms", "ms_whole", "ms_sums", "sum_error", "bytes")
_LAST = 10  # epochs at the end of training that violations are averaged over


def summarise(name: str, settings: dict, runs: list[dict]) -> dict:
    """Runs grouped by graph, setting and variant; lists are over seeds."""
    groups = {}
    for run in runs:
        spec = run["spec"]
        for entry in run["results"]:
            key = spec["graph"], spec["label"], spec["options"].get("num_layers"), entry["label"]
            group = groups.setdefault(key, {
                "graph": spec["graph"], "setting": spec["label"], "layers": key[2], "label": entry["label"],
                "options": spec["options"], "runs": [],
            })  # fmt: skip
            group["runs"].append({"seed": spec["seed"], **{k: v for k, v in entry.items() if k != "label"}})
    for group in groups.values():
        group["runs"].sort(key=lambda run: run["seed"])
    return {"study": name, "settings": settings, "groups": list(groups.values())}


def file_stem(study: str, settings: dict) -> str:
    """What the files of a study's report are called: those of each relative have its name."""
    return f"{study}-{settings['method']}" if study == "relatives" else study


def format_study(report: dict) -> str:
    """A study's Markdown table."""
    formats = {
        "bounds": _bounds, "depth": _depth, "schedules": _schedules, "allocate": _allocate, "relatives": _relatives,
    }  # fmt: skip
    text, columns = [], formats.get(report["study"], _accuracy)
    if report["study"] == "relatives":
        name, method = report["settings"]["method"], METHODS[report["settings"]["method"]]
        text.append(f"{name}, [arXiv:{method.source}](https://arxiv.org/abs/{method.source}): {method.claim}")
    for graph in dict.fromkeys(group["graph"] for group in report["groups"]):
        groups = [group for group in report["groups"] if group["graph"] == graph]
        header, rows = columns(groups, report)
        text.append(f"{graph}, {max(len(group['runs']) for group in groups)} seeds\n\n" + table(header, rows))
        if report["study"] == "depth":
            text.append(_per_layer(groups))
    return "\n\n".join(text)


def format_by_bits(report: dict) -> str:
    """A Markdown table of test accuracies of the study of accuracy: a row a graph and model, a column a width."""
    groups, again = report["groups"], "float32, second phase"
    widths = list(dict.fromkeys(group["label"] for group in groups if "float32" not in group["label"]))
    rows: dict[tuple, dict] = {}
    for group in groups:
        rows.setdefault((group["graph"], group["setting"]), {})[group["label"]] = _tests(group)
    cells = [[*key, *(row.get(label, "-") for label in (again, *widths))] for key, row in rows.items()]
    return table(["graph", "model", "float32", *widths], cells)


def _of(group, key):
    return [run[key] for run in group["runs"] if key in run]


def _tests(group):
    return mean_std(_of(group, "test"))


def _packed(group):
    equal = _of(group, "equal")
    return [mean_std(_of(group, "packed")), f"{100 * statistics.mean(equal):.2f} %"] if equal else ["-", "-"]


def _to_float(group, groups):
    """Difference of the means to the float model that had the same second phase."""
    again = [g for g in groups if g["setting"] == group["setting"] and g["label"] == "float32, second phase"]
    if not again or "float32" in group["label"]:
        return "-"
    return f"{100 * (statistics.mean(_of(group, 'test')) - statistics.mean(_of(again[0], 'test'))):+.1f}"


def _accuracy(groups, report):
    header = ["setting", "variant", "test accuracy", "to float32", "packed", "equal", "bytes"]
    rows = []
    for group in groups:
        size = f"{_of(group, 'bytes')[0]:,}" if _of(group, "bytes") else "-"
        row = [group["setting"], group["label"], _tests(group), _to_float(group, groups), *_packed(group), size]
        rows.append(row)
    if report["study"] == "ablation":
        header.append("authors' log")
        rows = [[*row, AUTHORS.get(group["label"], "-")] for row, group in zip(rows, groups)]
    return header, rows


def _schedules(groups, report):
    header = ["model", "variant", "test accuracy", "validation accuracy", "epochs", "seconds"]
    rows = []
    for group in groups:
        epochs, seconds = (statistics.mean(_of(group, key)) for key in ("epochs", "seconds"))
        accuracies = _tests(group), mean_std(_of(group, "val"))
        rows.append([group["setting"], group["label"], *accuracies, f"{epochs:.0f}", f"{seconds:.1f}"])
    return header, rows


def _allocate(groups, report):
    header = ["model", "variant", "test accuracy", "packed", "equal", "KL untrained", *MEASURES.values()]
    rows = []
    for group in groups:
        costs = _of(group, "cost")
        means = [f"{statistics.mean(cost[measure] for cost in costs):,.4g}" for measure in MEASURES if costs]
        kl = f"{statistics.mean(_of(group, 'kl')):.4f}" if costs else "-"
        rows.append(
            [group["setting"], group["label"], _tests(group), *_packed(group), kl, *(means or "-" * len(MEASURES))]
        )
    return header, rows


def reference(group, groups):
    """The float model that a variant is held against: with the second phase where it had one itself."""
    own = [g for g in groups if g["setting"] == group["setting"]]
    again = [g for g in own if g["label"] == "float32, second phase" and any(_of(group, "epochs"))]
    return (again or [g for g in own if g["label"] == "float32"])[0]


def _relatives(groups, report):
    """Rows of low-bit variants; figures of one that is compared with another are followed by how many times its."""
    numbers = METHODS[report["settings"]["method"]].numbers.get(groups[0]["graph"], {})
    low_bit = [group for group in groups if _of(group, "packed")]
    figures = {key: header for key, (header, _) in _FIGURES.items() if any(_of(group, key) for group in low_bit)}
    header = ["setting", "variant", "packed", "float32", "to float32", "beside", *figures.values(), "equal", "bytes"]
    rows = []
    for group in low_bit:
        same = [g for g in low_bit if (g["setting"], g["label"]) == (group["setting"], _of(group, "beside")[0])]
        base = reference(group, groups)
        beside = f"{_difference(group, same[0]):+.1f} to {same[0]['label']}" if same else "-"
        rows.append([
            group["setting"], group["label"], mean_std(_of(group, "packed")), _tests(base),
            f"{_difference(group, base):+.1f}", beside,
            *(_figure(group, same[0] if same else None, key) for key in figures),
            f"{100 * statistics.mean(_of(group, 'equal')):.2f} %", _figure(group, same[0] if same else None, "bytes"),
            numbers.get(f"{group['setting']}, {group['label']}", "-"),
        ])  # fmt: skip
    return [*header, "paper"], rows


def _figure(group, same, key):
    values = _of(group, key)
    if not values:
        return "-"
    if isinstance(values[0], list):  # by step
        return " ".join(_FIGURES[key][1].format(100 * statistics.mean(step)) for step in zip(*values)) or "-"
    text = {**_FIGURES, "bytes": _BYTES}[key][1].format(statistics.mean(values))
    if same is None or key not in _COMPARED:
        return text
    others = {run["seed"]: run[key] for run in same["runs"] if key in run}
    if not others:
        return text
    ratio = statistics.mean(run[key] / others[run["seed"]] for run in group["runs"])
    return text if key == "bytes" and ratio == 1 else f"{text}, {ratio:.2f}x"


def _difference(group, other):
    """Of mean accuracies, packed where that is, in points."""
    means = [statistics.mean(_of(g, "packed") or _of(g, "test")) for g in (group, other)]
    return 100 * (means[0] - means[1])


def violations(run) -> tuple[float, float]:
    """Mean and largest, over layers, of the violation in training, each averaged over the last epochs."""
    last = run["violation"][-_LAST:]
    layers = [statistics.mean(epoch[k] for epoch in last) for k in range(len(last[0]))]
    return statistics.mean(max(v, 0) for v in layers), max(layers)


def _bounds(groups, report):
    header = ["bound", "variant", "test accuracy", "mean violation", "largest", "in evaluation, mean", "largest"]
    rows = []
    for group in groups:
        mean, largest = zip(*map(violations, group["runs"]))
        final = [[max(row["violation"], 0) for row in layers] for layers in _of(group, "layers")]
        measured = [
            statistics.mean(mean),
            max(largest),
            statistics.mean(map(statistics.mean, final)),
            max(map(max, final)),
        ]
        rows.append(
            [group["setting"], group["label"], _tests(group), *(f"{100 * number:.1f} %" for number in measured)]
        )
    return header, rows


def _depth(groups, report):
    header = ["setting", "layers", "variant", "test accuracy", "to float32", "packed", "equal", "gauge", "energy"]
    rows = []
    for group in groups:
        bases = [g for g in groups if (g["setting"], g["layers"]) == (group["setting"], group["layers"])]
        base = next(g for g in bases if g["label"] == "float32")
        difference = statistics.mean(_of(group, "test")) - statistics.mean(_of(base, "test"))
        last = [layers[-1] for layers in _of(group, "layers")]
        rows.append([
            group["setting"], group["layers"], group["label"], _tests(group),
            "-" if group is base else f"{100 * difference:+.1f}", *_packed(group),
            f"{statistics.mean(row['gauge'] for row in last):.2f}",
            f"{statistics.mean(row['energy'] for row in last):.1e}",
        ])  # fmt: skip
    return header, rows


def _per_layer(groups):
    """Energy of the input and collapse gauge of the output, layer by layer, of plain and bounded float models."""
    first = min(group["layers"] for group in groups)
    chosen = [g for g in groups if g["layers"] == first and g["label"] == "float32" and "layers" in g["runs"][0]]
    chosen = [g for g in chosen if g["setting"] in ("plain", "multiplier")]
    header = ["layer", *(f"{g['setting']}: {key}" for g in chosen for key in ("energy", "gauge"))]
    count = min(len(g["runs"][0]["layers"]) for g in chosen)
    rows = []
    for k in sorted({*range(0, count, 4), count - 1}):
        row = [str(k + 1)]
        for group in chosen:
            layers = [layers[k] for layers in _of(group, "layers")]
            row.append(f"{statistics.mean(layer['energy'] for layer in layers):.1e}")
            row.append(f"{statistics.mean(layer['gauge'] for layer in layers):.3f}")
        rows.append(row)
    return table(header, rows)
