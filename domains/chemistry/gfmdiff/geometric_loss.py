"""The geometric-facilitated loss: bonds that the predicted geometry has, against the predicted valence.

Source: arXiv 2401.02683, section 4.2. From predicted coordinates and elements follows, by the table of bond lengths,
which pairs are bonded; summed over an atom that is its valence, which the predicted valence is pulled to, halfway with
the true one, so that bonds take shape in training though the state has none.

Shape legend: B molecules, N atoms, C elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from polydit.data.chemistry.wishes import parse_elements
from polydit.platform.errors import ConfigurationError
from polydit.platform.objectives import Denoising, Objective
from polydit.platform.state import masked_mean

from ..valence import bond_thresholds, different_pairs, pair_distances, soften_valences


class GeometricLoss(Objective):
    """Squared difference between the predicted valence and the mean of the geometry's and the true one.

    It is weighed by the share of data alpha at each noise level, since noise has no bonds. With ``source="clean"``, the
    published idea, everything is of the clean molecule that the prediction amounts to, and thresholds are soft, so that
    coordinates learn too. With ``source="output"``, as released, it is of the bare output, which is noise there;
    the element's part goes through a softmax, a pair counts once whatever its order, and thresholds are hard, so that
    only the valence channel learns.

    Args:
        elements, unit, element_scale, valence_scale: as the codec's.
        softness: Å over which a bond is neither there nor not.
        source: see above.
        weight: in the total; published 0.01.
    """

    thresholds: Tensor

    def __init__(
        self,
        elements: Sequence[str] = ("H", "C", "N", "O", "F"),
        unit: float = 1.0,
        element_scale: float = 0.25,
        valence_scale: float = 0.1,
        softness: float = 0.05,
        source: Literal["clean", "output"] = "clean",
        weight: float = 0.01,
    ) -> None:
        super().__init__(weight)
        if softness <= 0:
            raise ConfigurationError(f"softness {softness} Å leaves coordinates no slope: give a positive length")
        if source not in ("clean", "output"):
            raise ConfigurationError(f"source is clean or output, not {source!r}")
        self.unit, self.element_scale, self.valence_scale = unit, element_scale, valence_scale
        self.softness, self.source = softness, source
        self.register_buffer("thresholds", bond_thresholds(parse_elements(list(elements))), persistent=False)

    def loss(self, denoising: Denoising) -> Tensor:
        """Mean over atoms, in units of the valence field."""
        mask = denoising.mask("position")
        if mask is None:
            points = denoising.x0["position"]
            mask = points.new_ones(points.shape[:2], dtype=torch.bool)
        with torch.autocast(mask.device.type, enabled=False):
            compare = self._of_clean if self.source == "clean" else self._of_output
            valence, predicted, true = compare(denoising, different_pairs(mask))
            share = denoising.processes["position"].schedule.alpha(denoising.time("position"))
            return masked_mean(share[:, None] * ((valence + true) / 2 - predicted).square(), mask)

    def _of_clean(self, denoising: Denoising, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Geometry's, predicted and true valence [B, N], in units of the field."""
        distances = pair_distances(denoising.clean_estimate("position").float() * self.unit)
        # one-hot entries a whole unit apart are sure; those of an undecided atom are nearly alike
        logits = denoising.clean_estimate("element").float() / self.element_scale * SHARPNESS
        probabilities = logits.softmax(-1).detach()
        valence = soften_valences(distances, probabilities, pairs, self.thresholds, self.softness)
        predicted = denoising.clean_estimate("valence").float()[..., 0]
        return valence * self.valence_scale, predicted, denoising.x0["valence"].float()[..., 0]

    def _of_output(self, denoising: Denoising, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same of the bare output and its target."""
        distances = pair_distances(denoising.prediction["position"].float())
        probabilities = denoising.prediction["element"].float().softmax(-1).detach()
        bonded = (distances[..., None, None] < self.thresholds.amax(0)).to(distances.dtype)
        expected = torch.einsum("bijcd,bic,bjd->bij", bonded, probabilities, probabilities) / self.element_scale
        valence = torch.where(pairs, expected, 0.0).sum(-1)
        process = denoising.processes["valence"]
        t = denoising.time("valence")
        alpha, sigma = process.schedule.alpha(t), process.schedule.sigma(t)
        clean, noised = denoising.x0["valence"][..., 0], denoising.x_t["valence"][..., 0]
        noise = (noised - alpha[:, None] * clean) / sigma[:, None]
        target = process.target(clean, noise, t)
        return valence * self.valence_scale, denoising.prediction["valence"].float()[..., 0], target


SHARPNESS = 8.0
"""Logit between an element and another where the one-hot part says 1 and 0: a probability of 99.9 %."""
