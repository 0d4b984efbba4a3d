"""Functions of torch that are recorded as what they are made of.

What they leave out of torch's arguments shows in the result, which is compared with torch's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from ..errors import FreezeError
from .lines import line
from .recording import leaves

_TOLERANCE = 1e-3


def recorded(capture: Any, function: Callable, name: str, args: tuple, kwargs: dict) -> Any:
    """Call what ``function``, of a name in ``COMPOSED``, is made of, with ``capture`` recording it.

    Raises
    ------
    FreezeError
        When that is not what the function gives of these arguments, or does not know one of them.
    """
    expected = function(*args, **kwargs)
    try:
        with capture:
            result = COMPOSED[name](*args, **kwargs)
    except TypeError as error:
        raise _refusal(f"{name}, called so that {error},") from error
    pairs = zip(leaves(result), leaves(expected))
    if not all(_is_close(ours, theirs) for ours, theirs in pairs if isinstance(theirs, torch.Tensor)):
        raise _refusal(f"{name} with these arguments")
    return result


def _is_close(ours, theirs):
    scale = float(theirs[theirs.isfinite()].abs().amax()) if theirs.isfinite().any() else 0.0
    return torch.allclose(ours, theirs, rtol=0, atol=_TOLERANCE * scale, equal_nan=True)


def scaled_dot_product_attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None):
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:  # here it says what is read
        attn_mask = ~attn_mask
    return torch.softmax(_masked(scores, attn_mask), dim=-1) @ value


def multi_head_attention(
    query, key, value, embed_dim, num_heads, in_proj_weight, in_proj_bias, bias_k, bias_v, add_zero_attn, dropout_p,
    out_proj_weight, out_proj_bias, training=True, key_padding_mask=None, need_weights=True, attn_mask=None,
    use_separate_proj_weight=False, q_proj_weight=None, k_proj_weight=None, v_proj_weight=None, static_k=None,
    static_v=None, average_attn_weights=True, is_causal=False,
):  # fmt: skip
    """Of (length, batch, width), or (length, width)."""
    is_single = query.dim() == 2
    if is_single:
        query, key, value = (x.unsqueeze(1) for x in (query, key, value))
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    weights = (q_proj_weight, k_proj_weight, v_proj_weight)
    weights = weights if use_separate_proj_weight else in_proj_weight.chunk(3)
    biases = (None, None, None) if in_proj_bias is None else in_proj_bias.chunk(3)

    def heads(x):  # (batch, heads, length, width of a head)
        return x.reshape(x.shape[0], x.shape[1], num_heads, embed_dim // num_heads).permute(1, 2, 0, 3)

    q, k, v = (heads(F.linear(x, *of)) for x, of in zip((query, key, value), zip(weights, biases)))
    scores = _masked(q @ k.transpose(-2, -1) * (1 / math.sqrt(embed_dim // num_heads)), attn_mask)
    if key_padding_mask is not None:
        scores = _masked(scores, key_padding_mask.unsqueeze(1).unsqueeze(1))
    attention = torch.softmax(scores, dim=-1)
    together = (attention @ v).permute(2, 0, 1, 3).reshape(query.shape[0], query.shape[1], embed_dim)
    result = F.linear(together, out_proj_weight, out_proj_bias)
    attention = attention.mean(1) if average_attn_weights else attention
    if is_single:
        result, attention = result.squeeze(1), attention.squeeze(0)
    return result, attention if need_weights else None


def _masked(scores, mask):
    """Scores with −∞ where a mask is True, or with a mask of numbers added."""
    if mask is None:
        return scores
    return scores.masked_fill(mask, -math.inf) if mask.dtype == torch.bool else scores + mask


# -- losses, which some forwards return ---------------------------------------------------------------------
def cross_entropy(
    input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean", label_smoothing=0.0
):
    if label_smoothing:
        raise _refusal("cross_entropy with label_smoothing")
    scores = F.log_softmax(input, dim=1)
    return nll_loss(scores, target, weight, ignore_index=ignore_index, reduction=reduction)


def nll_loss(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean"):
    if weight is not None or input.dim() != 2 or target.dim() != 1:
        raise _refusal("a loss with weights of classes, or of scores that are no matrix,")
    losses = -input.gather(1, target.clamp(min=0).unsqueeze(1)).squeeze(1)
    counted = (target != ignore_index).to(losses.dtype)
    if reduction == "none":
        return losses * counted
    total = (losses * counted).sum()
    return total / counted.sum() if reduction == "mean" else total


def mse_loss(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    return _reduced((input - target) ** 2, reduction)


def l1_loss(input, target, size_average=None, reduce=None, reduction="mean", weight=None):
    return _reduced((input - target).abs(), reduction)


def binary_cross_entropy_with_logits(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None
):
    if weight is not None or pos_weight is not None:
        raise _refusal("a loss with weights of classes")
    return _reduced(F.softplus(input) - input * target, reduction)


def _refusal(what):
    return FreezeError(f"{what} has no packed form{line()}; compute it outside of forward.")


def _reduced(losses, reduction):
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


COMPOSED: dict[str, Callable[..., Any]] = {
    **{
        function.__name__: function
        for function in (
            scaled_dot_product_attention,
            cross_entropy,
            nll_loss,
            mse_loss,
            l1_loss,
            binary_cross_entropy_with_logits,
        )
    },
    "multi_head_attention_forward": multi_head_attention,
}
