"""From a `MaskSpec` to what an attention back end wants: the one place that does it.

Shape legend: B batch, N query tokens, M key tokens, P prepended tokens, G groups.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..state import MaskSpec, Tokens


def visible_keys(mask: MaskSpec | None, queries: int, keys: int, device: torch.device) -> Tensor | None:
    """Which keys each query sees: bool, broadcastable to [B, 1, N, M], or None when nothing is masked.

    A query that would see nothing, such as a padded one whose group is empty, sees everything instead: a softmax over
    no keys is not a number, and one such row would spoil the gradient of the batch.

    Args:
        mask: what may attend to what; None: all to all.
        queries: N.
        keys: M.
        device: where the mask is wanted.

    Raises:
        ValueError: if groups come without a table or the other way round, or if groups, a window or causality are asked
            of attention between different sequences, where they have no meaning.
    """
    if mask is None:
        return None
    if (mask.groups is None) != (mask.table is None):
        raise ValueError("a mask has groups without a table or a table without groups: give both or neither")
    if queries != keys and (mask.groups is not None or mask.window is not None or mask.causal):
        raise ValueError(
            f"groups, windows and causality need queries and keys of one sequence, not {queries} and {keys} tokens: "
            "give cross-attention a key mask only"
        )
    visible: Tensor | None = None
    if mask.keys is not None:
        visible = mask.keys[:, None, None, :]
    if mask.groups is not None and mask.table is not None:
        allowed = mask.table[mask.groups[:, :, None], mask.groups[:, None, :]][:, None]
        visible = allowed if visible is None else visible & allowed
    if mask.window is not None:
        index = torch.arange(keys, device=device)
        near = (index[:, None] - index[None, :]).abs() <= mask.window
        visible = near[None, None] if visible is None else visible & near
    if mask.causal:
        earlier = torch.ones(keys, keys, dtype=torch.bool, device=device).tril()
        visible = earlier[None, None] if visible is None else visible & earlier
    if visible is None:
        return None
    return visible | ~visible.any(-1, keepdim=True)


def logit_mask(mask: MaskSpec | None, queries: int, keys: int, like: Tensor) -> Tensor | None:
    """What a fused kernel wants: bool where all is said by who sees whom, else what to add to the logits, as `like`.

    Args:
        mask: what may attend to what, and its bias; None: all to all.
        queries: N.
        keys: M.
        like: the queries, whose type and device the result has if it is added.
    """
    visible = visible_keys(mask, queries, keys, like.device)
    if mask is None or mask.bias is None:
        return visible
    bias = mask.bias.to(like.dtype)
    return bias if visible is None else torch.where(visible, bias, torch.finfo(like.dtype).min)


def real_tokens(group: Tokens) -> Tensor:
    """[B, M] bool, True where a token of the group is real."""
    return group.features.new_ones(group.features.shape[:2], dtype=torch.bool) if group.mask is None else group.mask


def prepend_visible(mask: MaskSpec | None, real: Tensor, tokens: int) -> MaskSpec:
    """Mask of a sequence with P tokens put before its own.

    Args:
        mask: the sequence's own mask; None: all real.
        real: [B, P] bool, which of the prepended tokens are real.
        tokens: N, length of the sequence itself.

    Raises:
        ValueError: if the sequence has groups or a window: the prepended tokens have no place in either.
    """
    if mask is not None and (mask.groups is not None or mask.window is not None):
        raise ValueError(
            "tokens cannot be prepended to a sequence masked by groups or a window: "
            "use cross-attention for the condition, or leave the mask to keys"
        )
    bias = None
    if mask is not None and mask.bias is not None:
        bias = pad(mask.bias, (real.shape[1], 0, real.shape[1], 0))  # what pairs are to each other, new tokens are not
    own = mask.keys if mask is not None and mask.keys is not None else real.new_ones(real.shape[0], tokens)
    return replace(mask or MaskSpec(), keys=torch.cat([real, own], dim=1), bias=bias)
