"""What the rows of :func:`dgl_lowbit.diagnose` say, in words; docs/guides/diagnose.md explains them."""

from __future__ import annotations

import re
from typing import NamedTuple

# Signal-to-noise ratio in dB of the even grid that is best for normally distributed values, by bits (J. Max, 1960).
USUAL_SNR = {1: 4.4, 2: 9.3, 3: 14.3, 4: 19.4, 5: 24.6, 6: 29.8, 7: 35.2, 8: 40.3}
NEAR, FAR = 3.0, 6.0  # dB below it up to which a row is good, and beyond which it is poor
CROWDED = 0.9  # share of all values that one code has
CLIPPED_FEW_BITS, CLIPPED = 0.1, 0.01  # shares of values beyond the range, of up to four bits and of more
_MORE_BITS = {1: 2, 2: 4, 3: 4, 4: 8}


class Verdict(NamedTuple):
    """What is to be thought of one quantiser.

    Attributes
    ----------
    grade : str
        "good", "fair" or "poor", by the signal-to-noise ratio.
    reasons : tuple of str
        What is seen in its codes.
    advice : str
        What to try; empty where it is good.
    """

    grade: str
    reasons: tuple[str, ...]
    advice: str

    def __str__(self):
        return ": ".join(filter(None, [self.grade, "; ".join(self.reasons)]))


def expected_snr(bits: int) -> float:
    """The signal-to-noise ratio in dB that is usual for so many bits."""
    return USUAL_SNR[min(bits, max(USUAL_SNR))]


def judge(row: dict) -> Verdict:
    """The verdict on a row of :func:`dgl_lowbit.diagnose`.

    Parameters
    ----------
    row : dict

    Returns
    -------
    Verdict

    Examples
    --------
    >>> row = {"quantizer": "conv1.quantizers.messages", "bits": 2, "shares": [0.97, 0.02, 0.01, 0.0], "dead": 1}
    >>> print(judge({**row, "clipped": 0.0, "snr": 2.0}))
    poor: 7 dB below the usual; 1 of 4 codes unused; one code has 97 % of the values; nothing is clipped
    >>> print(judge({**row, "clipped": 0.0, "snr": float("inf")}))
    good: nothing is lost; 1 of 4 codes unused; one code has 97 % of the values
    """
    bits, below = row["bits"], expected_snr(row["bits"]) - row["snr"]
    grade = "good" if below <= NEAR else "fair" if below <= FAR else "poor"
    is_good, few = grade == "good", bits <= 4
    much_clipped = row["clipped"] > (CLIPPED_FEW_BITS if few else CLIPPED)
    unclipped = few and row["clipped"] == 0 and not is_good
    crowded = max(row["shares"]) > CROWDED
    seen = {
        "nothing is lost": below == -float("inf"),
        f"{below:.0f} dB below the usual": not is_good,
        f"{row['dead']} of {len(row['shares'])} codes unused": few and row["dead"] > 0,
        f"one code has {100 * max(row['shares']):.0f} % of the values": crowded,
        f"{100 * row['clipped']:.0f} % of the values are clipped": much_clipped,
        "nothing is clipped": unclipped,
    }
    return Verdict(grade, tuple(reason for reason, holds in seen.items() if holds), "" if is_good else _advice(
        row, much_clipped, crowded or unclipped))  # fmt: skip


def _advice(row, much_clipped, is_wide):
    if much_clipped:
        return "its range is narrow: calibrate anew, or train with a lower quantizer_lr"
    if is_wide:
        return 'outliers set its range: train, which learns ranges, or calibrate with observer="percentile"'
    more = _MORE_BITS.get(row["bits"], 32)
    return f"give it more bits: overrides={{{component(row['quantizer'])!r}: {more}}}"


def component(name: str) -> str:
    """What overrides of a config call the quantiser of a name.

    >>> component("conv1.quantizers.messages"), component("propagate.quantizers.messages_3")
    ('conv1.messages', 'propagate.messages')
    """
    return re.sub(r"[._]\d+$", "", name.replace("quantizers.", ""))


def advise(rows: list[dict]) -> list[str]:
    """What to try, of the rows that are poor: the poorest first, each advice once, with where it is for.

    Parameters
    ----------
    rows : list of dict
        Of :func:`dgl_lowbit.diagnose`.

    Returns
    -------
    list of str
    """
    found: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: row["snr"] - expected_snr(row["bits"])):
        verdict = judge(row)
        if verdict.grade == "poor":
            names = found.setdefault(verdict.advice, [])
            names += [name for name in [component(row["quantizer"])] if name not in names]
    return [f"{', '.join(names)}: {advice}" for advice, names in found.items()]
