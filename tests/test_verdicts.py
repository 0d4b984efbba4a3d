import math
import re
from pathlib import Path

import pytest
import torch

import dgl_lowbit as lowbit
from dgl_lowbit.verdicts import CLIPPED, CLIPPED_FEW_BITS, CROWDED, FAR, NEAR, USUAL_SNR, advise, judge

GUIDE = Path(__file__).parents[1] / "docs/guides/diagnose.md"


def row(bits=2, shares=(0.25, 0.25, 0.25, 0.25), dead=0, clipped=0.05, below=0.0, name="conv1.quantizers.messages"):
    snr = USUAL_SNR[bits] - below
    return {"quantizer": name, "bits": bits, "shares": list(shares), "dead": dead, "clipped": clipped, "snr": snr}


@pytest.mark.parametrize(
    ("below", "grade"),
    [(NEAR, "good"), (NEAR + 0.1, "fair"), (FAR, "fair"), (FAR + 0.1, "poor"), (-math.inf, "good")],
)
def test_grades_are_of_the_signal_to_noise_ratio(below, grade):
    verdict = judge(row(below=below))
    assert verdict.grade == grade and bool(verdict.advice) == (grade != "good")


@pytest.mark.parametrize(
    ("change", "reason", "advice"),
    [
        ({"clipped": 0.11}, "11 % of the values are clipped", "its range is narrow"),
        ({"bits": 8, "shares": [1 / 256] * 256, "clipped": 0.02}, "2 % of the values are clipped", "range is narrow"),
        ({"shares": (0.91, 0.05, 0.04, 0), "dead": 1}, "one code has 91 % of the values", "outliers set its range"),
        ({"shares": (0.5, 0.3, 0.2, 0), "dead": 1}, "1 of 4 codes unused", "overrides={'conv1.messages': 4}"),
        ({"clipped": 0.0}, "nothing is clipped", "outliers set its range"),
        (
            {"bits": 8, "shares": [1 / 256] * 256, "clipped": 0},
            "7 dB below the usual",
            "overrides={'conv1.messages': 32}",
        ),
    ],
)
def test_reasons_and_what_to_do(change, reason, advice):
    verdict = judge(row(**{"below": 7, **change}))
    assert reason in verdict.reasons and advice in verdict.advice


def test_advice_is_of_poor_rows_the_poorest_first_and_once():
    rows = [
        row(below=7, name="a.quantizers.messages_0"),
        row(below=7, name="a.quantizers.messages_1"),
        row(below=4, name="b.quantizers.inputs"),
        row(below=9, clipped=0.5, name="c.quantizers.weights"),
    ]
    narrow, more = advise(rows)
    assert narrow.startswith("c.weights: its range is narrow")
    assert more == "a.messages: give it more bits: overrides={'a.messages': 4}"
    assert advise([row()]) == []


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_what_is_usual_is_what_calibration_reaches_on_normal_values(bits):
    layer = lowbit.nn.Linear(64, 2, config=lowbit.QuantConfig(bits, inputs_granularity="tensor", grid="half"))
    x = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    found = lowbit.diagnose(lowbit.calibrate(layer, x), x)[0]
    assert found["snr"] == pytest.approx(USUAL_SNR[bits], abs=1.5)


def test_the_guide_says_the_thresholds():
    text = GUIDE.read_text(encoding="utf-8")
    for said in (
        f"at most {NEAR:g} dB below", f"more than {FAR:g} dB below", f"more than {100 * CROWDED:.0f} %",
        f"more than {100 * CLIPPED_FEW_BITS:.0f} %", f"more than {100 * CLIPPED:.0f} %",
    ):  # fmt: skip
        assert said in text, said
    usual = re.findall(r"(\d+) at (\d) bits?", text)
    assert usual and all(int(snr) == round(USUAL_SNR[int(bits)]) for snr, bits in usual)
