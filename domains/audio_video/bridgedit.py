"""BridgeDiT (arXiv 2510.03117): a tower for frames and one for sound, with bridges between their blocks.

Shape legend: B clips, F frames, T steps of sound, M mel bands, N tokens of a tower, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal, cast

from torch import Tensor, nn

from polydit.platform.conditioning.bridges import Bridge, Stream
from polydit.platform.context import Context
from polydit.platform.denoisers import Denoiser, DiT
from polydit.platform.denoisers.dit import Opened
from polydit.platform.errors import ConfigurationError
from polydit.platform.state import Condition, State, Time, time_of

VIDEO, SOUND = "video", "sound"
"""Fields: frames [B, F, C, Y, X], and the mel spectrogram [B, T, M]."""

TOWERS = (VIDEO, SOUND)

Positions = Literal["seconds", "index"]


class BridgeDiT(Denoiser):
    """Two transformers denoise frames and sound side by side; at some blocks both stop, and a bridge updates both.

    Published are bridges after early to middle blocks between two large trained towers, of which only the first blocks
    learn along; any two transformers of the core will do. Published too are positions by each stream's token number,
    which leaves the bridge to guess which frame and which moment of the sound belong together: here tokens stand at
    their second. Before training the bridges change no bit of either tower.

    Args:
        video: the tower of frames; its embedding reads the field ``video``.
        sound: that of sound; its embedding reads the field ``sound``.
        sites: pairs of blocks, of the first and of the second tower, after which a bridge stands; None: after every
            block of the shallower tower but the last, spread alike over the deeper one. Empty: two separate towers.
        heads: of the bridges; None: one per 64 of the width.
        positions: ``seconds``, or ``index`` as published.
        unit: seconds that turn the fastest part of queries and keys by one radian; token numbers do by one.
        focus: how much bridges by seconds attend to equal seconds before they have learnt anything, see `Bridge`; 0:
            not at all, as published.
        base: ratio of the slowest part to the fastest. With 100 and 20 milliseconds wavelengths are 0.13 to 13 seconds,
            those of clips; published is 10,000 on token numbers.
        trained: ``all``, or ``bridges``: these and the first blocks of each tower, the rest stays as it is.
        first_blocks: of the first and of the second tower, that learn along with the bridges.
        cut: take the bridges out of every pass, weights and all else unchanged: a control that must fail.

    Raises:
        ConfigurationError: if a site is none, or out of order.
    """

    def __init__(
        self,
        video: DiT,
        sound: DiT,
        sites: Sequence[Sequence[int]] | None = None,
        heads: int | None = None,
        positions: Positions = "seconds",
        unit: float = 0.02,
        base: float = 100.0,
        focus: float = 1.4,
        trained: Literal["all", "bridges"] = "all",
        first_blocks: Sequence[int] = (5, 5),
        cut: bool = False,
    ) -> None:
        super().__init__()
        self.towers = nn.ModuleDict({VIDEO: video, SOUND: sound})
        self.sites = check_sites(sites, video.depth, sound.depth)
        if not unit > 0 or not base > 1:
            raise ConfigurationError(f"unit is {unit} and base {base}: give seconds above 0, and a ratio above 1")
        self.by_seconds, self.cut = positions == "seconds", cut
        self.bridges = nn.ModuleList([
            Bridge(
                (video.width, sound.width), heads, unit=unit if self.by_seconds else 1.0, base=base,
                focus=focus if self.by_seconds else 0.0, name=f"bridge.{number}",
            )
            for number in range(len(self.sites))
        ])
        if trained == "bridges":
            self._freeze(first_blocks)

    @property
    def streams(self) -> dict[str, str]:
        """Each tower has a stream of its own, called ``x`` within it."""
        return {name: name for name in TOWERS}

    def forward(self, x_t: State, t: Time, cond: Condition, ctx: Context) -> State:
        """Predictions of both fields.

        Args:
            x_t: ``video`` and ``sound``.
            t: noise level [B], or one per field.
            cond: the encoded condition, which both towers are given.
            ctx: context of this pass, with the seconds of frames [B, F] and of steps of sound [B, T] as positions.
        """
        passes = {name: self._open(name, x_t, t, cond, ctx) for name in TOWERS}
        seconds = {name: self._find_seconds(name, passes[name], ctx) for name in TOWERS}
        reached = {name: 0 for name in TOWERS}
        for site, bridge in zip(self.sites, self.bridges, strict=True):
            for name, block in zip(TOWERS, site, strict=True):
                passes[name] = self._tower(name).advance(passes[name], reached[name], block + 1)
                reached[name] = block + 1
            if not self.cut:
                passes = self._cross(cast(Bridge, bridge), passes, seconds, ctx)
        output: State = {}
        for name in TOWERS:
            tower = self._tower(name)
            done = tower.advance(passes[name], reached[name], tower.depth)
            output |= tower.close(done, {name: x_t[name]})
        return output

    def cost(self, tokens: int, condition_tokens: int = 0) -> int:
        """Operations of one pass of one sample with as many tokens in each tower.

        Args:
            tokens: N of either tower; `cost_of` takes them apart.
            condition_tokens: tokens of the condition.
        """
        return self.cost_of((tokens, tokens), condition_tokens)

    def cost_of(self, tokens: tuple[int, int], condition_tokens: int = 0) -> int:
        """Operations of one pass of one sample with these tokens in the first and in the second tower."""
        towers = sum(self._tower(name).cost(n, condition_tokens) for name, n in zip(TOWERS, tokens, strict=True))
        return towers + (0 if self.cut else sum(cast(Bridge, bridge).cost(tokens) for bridge in self.bridges))

    def _tower(self, name: str) -> DiT:
        return cast(DiT, self.towers[name])

    def _open(self, name: str, x_t: State, t: Time, cond: Condition, ctx: Context) -> Opened:
        masks = {"x": ctx.masks[name]} if name in ctx.masks else {}
        own = replace(ctx, masks=masks, positions={}, points={}, grids={})
        return self._tower(name).open({name: x_t[name]}, time_of(t, name), cond, own)

    def _find_seconds(self, name: str, opened: Opened, ctx: Context) -> Tensor | None:
        """[B, N] seconds of a tower's tokens; None: they count by number."""
        if not self.by_seconds:
            return None
        if name not in ctx.positions:
            raise ConfigurationError(
                f"bridges by seconds need the layout's positions of {sorted(self.streams)} in seconds, it has those of "
                f"{sorted(ctx.positions)}: use a codec that gives them, such as SoundClipCodec, or positions: index"
            )
        seconds, tokens = ctx.positions[name], opened.h["x"].shape[1]
        frames = opened.context.grids.get("x", (tokens,))[0]
        # patches may span several frames, and then stand in their middle
        return seconds.unflatten(1, (frames, -1)).mean(dim=-1).repeat_interleave(tokens // frames, dim=1)

    def _cross(
        self, bridge: Bridge, passes: dict[str, Opened], seconds: dict[str, Tensor | None], ctx: Context
    ) -> dict[str, Opened]:
        ends = []
        for name in TOWERS:
            time = passes[name].context.time
            assert time is not None
            ends.append(Stream(passes[name].h["x"], time, seconds[name]))
        crossed = zip(TOWERS, bridge(*ends, ctx), strict=True)
        return {name: replace(passes[name], h={**passes[name].h, "x": h}) for name, h in crossed}

    def _freeze(self, first_blocks: Sequence[int]) -> None:
        for name, count in zip(TOWERS, first_blocks, strict=True):
            tower = self._tower(name).requires_grad_(False)
            tower.blocks[:count].requires_grad_(True)


def check_sites(sites: Sequence[Sequence[int]] | None, video: int, sound: int) -> list[tuple[int, int]]:
    """Pairs of blocks after which bridges stand, see `BridgeDiT`.

    Args:
        sites: as given; None: chosen.
        video, sound: depths of the towers.

    Raises:
        ConfigurationError: if one is no pair of blocks there are, or lies before its predecessor.
    """
    if sites is None:
        count = min(video, sound)
        return [(video * (i + 1) // count - 1, sound * (i + 1) // count - 1) for i in range(count - 1)]
    pairs = [(int(first), int(second)) for first, second in sites]
    ordered = all(a < c and b < d for (a, b), (c, d) in pairwise(pairs))
    if not ordered or any(not (0 <= first < video and 0 <= second < sound) for first, second in pairs):
        raise ConfigurationError(
            f"sites {[list(pair) for pair in pairs]} must be pairs of blocks in rising order, below {video} and {sound}"
        )
    return pairs
