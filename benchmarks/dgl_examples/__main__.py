"""Models of DGL's own examples, made low-bit, frozen and compared with the trained model on two graphs.

python benchmarks/dgl_examples CHECKOUT [--only gcn,gat] [--jobs N] [--json FILE]

CHECKOUT is a checkout of DGL's repository at v1.1.3, or its folder examples/pytorch. Each file's cases run in a process
of their own; where one ends it or takes too long, the next case goes on in another.
"""

import argparse
import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from dgl_examples.cases import CASES, DEVELOPED_ON
from dgl_examples.judge import OUTCOMES, judge_named
from dgl_examples.processes import Processes

from dgl_lowbit.report import table


def _selected(only):
    if not only:
        return CASES
    wanted = only.split(",")
    chosen = [case for case in CASES if case.name in wanted or _below(case, wanted)]
    if not chosen:
        raise SystemExit(f"no case of {only}; folders are {', '.join(sorted({case.folder for case in CASES}))}.")
    return chosen


def _below(case, folders):
    """Whether a case's file is one of ``folders`` or in one."""
    return any(f"{case.file}/".startswith(f"{folder}/") for folder in folders)


def _print(cases, verdicts):
    rows = []
    for case in cases:
        verdict = verdicts[case.name]
        numbers = [verdict.get("equal"), verdict.get("difference"), verdict.get("to_float")]
        shown = ["-" if n is None else f"{n:.1e}" for n in numbers[1:]]
        equal = "-" if numbers[0] is None else f"{100 * numbers[0]:.2f} %"
        rows.append([case.name, verdict["outcome"], equal, *shown, f"{verdict.get('seconds', 0):.1f} s"])
    print(table(["model", "outcome", "equal", "difference", "8 bits to float", "time"], rows), end="\n\n")
    developed_on = [case for case in cases if _below(case, DEVELOPED_ON)]
    groups = {"developed on": developed_on, "others": [c for c in cases if c not in developed_on], "all": cases}
    counts = {name: [verdicts[case.name]["outcome"] for case in group] for name, group in groups.items()}
    rows = [[f"{outcome}: {said}", *(c.count(outcome) for c in counts.values())] for outcome, said in OUTCOMES.items()]
    print(table(["outcome", *counts], [*rows, ["cases", *map(len, counts.values())]]), end="\n\n")
    causes: dict = {}
    for case in cases:
        if verdicts[case.name]["reason"]:
            causes.setdefault(_cause(verdicts[case.name]), []).append(case.name)
    for cause, names in sorted(causes.items(), key=lambda item: -len(item[1])):
        print(f"{len(names)} x {cause}", *(f"    {name}: {verdicts[name]['reason']}" for name in names), sep="\n")


def _cause(verdict):
    """A verdict's reason without the names, numbers and lines that only this case has."""
    reason = re.sub(r" at /.*$| \[\w+\.py:\d+\]", "", verdict["reason"])
    reason = re.sub(r"\([^()]*\)|\[[^][]*\]|\b\w+(?=\.forward)|\d+|(?<=and )\S*(?= is missing)", "…", reason)
    return f"{verdict['outcome']} ({verdict['step']}): {reason[:200]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--only", metavar="NAMES", help="folders, files or cases, by commas")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--limit", type=float, default=120, metavar="SECONDS", help="for one case")
    parser.add_argument("--json", type=Path, metavar="FILE", help="verdicts with their reasons, as they come")
    options = parser.parse_args()
    inner = options.checkout / "examples" / "pytorch"
    checkout = inner if inner.is_dir() else options.checkout
    cases = _selected(options.only)
    missing = sorted({case.file for case in cases if not (checkout / case.file).is_file()})
    if missing:
        raise SystemExit(f"{checkout} holds no {missing[0]}; expected DGL's examples/pytorch at v1.1.3.")
    processes = Processes(partial(judge_named, checkout), options.limit, [judge_named.__module__])
    files = [[case.name for case in group] for _, group in groupby(cases, key=lambda case: case.file)]
    verdicts = {}
    with ThreadPoolExecutor(options.jobs) as threads:
        for result in threads.map(processes.judge, files):
            verdicts.update(result)
            for name, verdict in result.items():
                print(f"{verdict['outcome']:8} {name}", file=sys.stderr)
            if options.json:
                options.json.write_text(json.dumps(verdicts, indent=1))
    _print(cases, verdicts)


if __name__ == "__main__":
    main()
