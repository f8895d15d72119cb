"""A pose model as a system: trained like any diffusion, asked for sets of hypotheses."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from polydit.data.pose.wishes import PoseWishes
from polydit.platform.requests import Request, Sample
from polydit.platform.systems.diffusion import DiffusionSystem

from .codec import PoseCodec


class PoseSystem(DiffusionSystem):
    """A diffusion over poses that answers a request with all its hypotheses at once.

    The arguments are those of `DiffusionSystem`; the codec is a `PoseCodec`, and ``hypotheses`` (200 in the published
    evaluation) also counts for requests that do not say how many they want.
    """

    codec: PoseCodec

    @torch.no_grad()
    def generate(self, requests: Sequence[Request]) -> list[Sample]:
        """`PoseHypotheses` for each request, in their order; the first hypothesis has the request's own seed."""
        wanted = [PoseWishes.parse(request.wishes).hypotheses or self.hypotheses for request in requests]
        device = next(self.denoiser.parameters()).device
        samples: dict[int, Sample] = {}
        for count in sorted(set(wanted)):
            places = [place for place, each in enumerate(wanted) if each == count]
            together = max(1, self.sample_batch_size // count)
            for start in range(0, len(places), together):
                chosen = places[start : start + together]
                layout = self.codec.layout([requests[place] for place in chosen]).to(device)
                answers = self.answer(layout, count)
                with torch.autocast(device.type, enabled=False):
                    items = self.codec.gather(answers, layout)
                samples |= {place: Sample(requests[place], item) for place, item in zip(chosen, items, strict=True)}
        return [samples[place] for place in range(len(requests))]
