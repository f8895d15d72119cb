"""PAD, Prediction with Action (arXiv 2411.18179): future frames and actions denoised together, on the core's parts.

Shape legend: B batch, K future frames, T observed steps, C channels, h, w height and width, P patch size, H actions of
a chunk, A action size, S state size, N tokens, D width.

What is predicted of the world tells what to do in it: actions attend to the frames that they lead to. Not the other
way, so that video without actions teaches the frames as well as a robot's own, and frames never lean on actions that
such video lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from polydit.platform.denoisers import DiT, TimeEmbedding
from polydit.platform.denoisers.sizes import PUBLISHED_SIZES
from polydit.platform.errors import ConfigurationError
from polydit.platform.mixers import Attention, CrossAttention

from .pad_parts import Actions, JointEmbedding, JointHead, Pictures


class PAD(DiT):
    """The core's transformer under adaLN-Zero over frames and actions that share one noise level.

    Fields: ``image`` [B, K, C, h, w] and ``action`` [B, H, A], and ``depth`` [B, K, C', h, w] where asked for. The
    instruction guides as a vector of the condition (`InstructionVectorAxis`), as published, or as tokens. The published
    model also learns the variance of its noise; this one does not, and takes any prediction that the process asks for.

    Args:
        width: D, a multiple of 4.
        depth: number of blocks.
        heads: must divide the width; None: one per 64 of the width.
        frames: K.
        channels: C; 3 for pixels, 4 for the published latents.
        patch: P; 2 for latents, 8 or so for pixels.
        horizon: H.
        action_size: A.
        state_size: S of the condition channel [B, T, S] of the state; 0: none.
        state: name of that channel.
        history: T, of frames and states.
        depth_patch: patch of depth maps, 8 in the published latents; None: no depth.
        depth_channels: C'.
        one_way: whether frames do not see actions and depth.
        language: token groups of the condition that every block reads by cross-attention; empty: none.
        time: builds the time embedding from the width.
    """

    def __init__(
        self,
        width: int = 1152,
        depth: int = 28,
        heads: int | None = 16,
        frames: int = 3,
        channels: int = 4,
        patch: int = 2,
        horizon: int = 3,
        action_size: int = 4,
        state_size: int = 4,
        history: int = 1,
        depth_patch: int | None = None,
        depth_channels: int = 1,
        one_way: bool = True,
        language: Sequence[str] = (),
        time: Callable[[int], TimeEmbedding] = TimeEmbedding,
        state: str = "state",
    ) -> None:
        pictures = {"image": Pictures(frames, channels, patch, history)}
        if depth_patch is not None:
            pictures["depth"] = Pictures(frames, depth_channels, depth_patch, history)
        actions = Actions(horizon, action_size, state_size, history, state)
        super().__init__(
            embedding=partial(JointEmbedding, pictures=pictures, actions=actions, one_way=one_way),
            head=partial(JointHead, pictures=pictures, actions=actions),
            width=width,
            depth=depth,
            mixer=partial(Attention, heads=heads),
            cross_attention=partial(CrossAttention, heads=heads, axes=tuple(language)) if language else None,
            time=time,
        )


def published_pad(name: str, time: Callable[[int], TimeEmbedding] = TimeEmbedding) -> PAD:
    """PAD of a published size, on latents of 4 channels, for MetaWorld's 4 numbers of state and action.

    Args:
        name: size and patch, ``"PAD-B/2"`` to ``"PAD-XL/8"``.
        time: builds the time embedding from the width; `warm_start` wants that of its source.

    Raises:
        ConfigurationError: if there is no such size.
    """
    known = {f"PAD-{size}/{patch}": (size, patch) for size in ("B", "L", "XL") for patch in (2, 4, 8)}
    if name not in known:
        raise ConfigurationError(f"no size {name!r}: choose one of {', '.join(known)}")
    size, patch = known[name]
    depth, width, heads = PUBLISHED_SIZES[size]
    return PAD(width, depth, heads, patch=patch, time=time)
