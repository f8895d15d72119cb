"""Diffusion as a system: one training step and one sampling loop for every domain, process and denoiser.

Shape legend: B batch, N tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..codec import Codec
from ..conditioning import Conditioner
from ..context import Context, StackPolicy
from ..denoisers import Denoiser
from ..noise import NoiseSource
from ..objectives import Denoising, LossWeight, Objective
from ..processes import Process
from ..requests import Request, Sample
from ..samplers import Sampler
from ..samplers.guidance import Guidance, Guided, NoGuidance
from ..state import Condition, Layout, State, expand_time
from .system import System


class DiffusionSystem(System):
    """Codec, conditioner, process and denoiser, trained together and sampled by a solver.

    Args:
        codec: domain data to state and back.
        denoiser: (x_t, t, condition, context) -> one prediction per field.
        process: noising law of every field.
        sampler: walks from noise to data.
        conditioner: labels to condition; None: unconditional.
        guidance: how the condition steers sampling; default: plainly.
        processes: field -> process, for fields whose law differs from `process`.
        objectives: name -> loss beside the denoising loss, added with its own weight.
        self_conditioning: probability that a training batch sees its own first estimate as the channel
            ``"self_condition"`` (Chen et al. 2022); above 0, sampling feeds back its last estimate.
        sample_batch_size: most samples denoised at once.
        loss_weights: field -> weight of its denoising loss in the total; a field without one has 1.
    """

    def __init__(
        self,
        codec: Codec,
        denoiser: Denoiser,
        process: Process,
        sampler: Sampler,
        conditioner: Conditioner | None = None,
        guidance: Guidance | None = None,
        processes: dict[str, Process] | None = None,
        objectives: dict[str, Objective] | None = None,
        self_conditioning: float = 0.0,
        sample_batch_size: int = 256,
        loss_weights: dict[str, LossWeight] | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 <= self_conditioning <= 1.0:
            raise ValueError(f"self_conditioning is a probability, not {self_conditioning}: choose one from 0 to 1")
        self.codec = codec
        self.denoiser = denoiser
        self.conditioner = conditioner
        self.process = process
        self.processes = dict(processes or {})
        self.sampler = sampler
        self.guidance: Guidance = guidance or NoGuidance()
        self.objectives = nn.ModuleDict(dict(sorted((objectives or {}).items())))
        self.self_conditioning = self_conditioning
        self.sample_batch_size = sample_batch_size
        self.loss_weights = nn.ModuleDict(dict(sorted((loss_weights or {}).items())))

    def process_of(self, field: str) -> Process:
        """The noising law of a field."""
        return self.processes.get(field, self.process)

    def prepare(self, datamodule: Any) -> None:
        """Statistics of codec and condition axes from the training split."""
        self.codec.prepare(datamodule)
        if self.conditioner is not None and hasattr(datamodule, "property_statistics"):
            statistics = datamodule.property_statistics()
            self.conditioner.prepare({name: (mean, std) for name, (mean, std, *_) in statistics.items()})

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Denoising loss of every field, the objectives, and their sum."""
        x0, layout = self.codec.encode(batch, generator)
        first = next(iter(x0.values()))
        t = self.process.sample_time(first.shape[0], generator, first.device)
        noise = {
            field: self.process_of(field).prior(
                torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype), layout.masks.get(field)
            )
            for field, x in x0.items()
        }
        x_t = {field: self.process_of(field).corrupt(x, noise[field], t) for field, x in x0.items()}
        condition = self._condition(layout, first.device, generator)
        if self.self_conditioning > 0:
            condition = self._with_first_estimate(x_t, t, condition, layout, generator)
        context = self._context(layout, condition)
        context.wanted_taps = frozenset().union(*(objective.wanted_taps for objective in self._objectives().values()))
        prediction = self._predict(x_t, t, condition, context)

        losses = {
            field: self.process_of(field).loss(
                prediction[field], x, noise[field], t, layout.loss_masks.get(field, layout.masks.get(field))
            )
            for field, x in x0.items()
        }
        total = torch.stack([self._weigh(field, loss) for field, loss in losses.items()]).sum()
        processes = {field: self.process_of(field) for field in x0}
        denoising = Denoising(prediction, x_t, x0, t, layout, context, processes)
        for name, objective in self._objectives().items():
            losses[name] = objective.loss(denoising)
            total = total + objective.weight * losses[name]
        return {**losses, "loss": total}

    @torch.no_grad()
    def generate(self, requests: Sequence[Request]) -> list[Sample]:
        """Samples in the order of the requests; inside, they run sorted by size so that little is padded."""
        sizes = self.codec.layout(requests).sizes()
        order = sorted(range(len(requests)), key=sizes.__getitem__)
        samples: dict[int, Sample] = {}
        for start in range(0, len(order), self.sample_batch_size):
            indices = order[start : start + self.sample_batch_size]
            chosen = [requests[i] for i in indices]
            items = self._generate_batch(chosen)
            samples |= {i: Sample(r, item) for i, r, item in zip(indices, chosen, items, strict=True)}
        return [samples[i] for i in range(len(requests))]

    def present(self, item: Any) -> Any:
        """The item as an object of the field's own library."""
        return self.codec.present(item)

    def portable_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """`config` with the codec's paths to other checkpoints replaced by what they held."""
        codec = dict(config["codec"])
        codec["init_args"] = self.codec.portable_config(dict(codec.get("init_args", {})))
        return {**config, "codec": codec}

    def _generate_batch(self, requests: Sequence[Request]) -> list[Any]:
        device = next(self.denoiser.parameters()).device
        layout = self.codec.layout(requests).to(device)
        # Once per sample, and what it rounds stays in the product: never in the reduced precision of the many steps.
        state = self.sample_state(layout)
        with torch.autocast(device.type, enabled=False):
            return self.codec.decode(state, layout)

    @torch.no_grad()
    def sample_state(self, layout: Layout, guess: State | None = None, start: int = 0) -> State:
        """A clean state for `layout`, on whose device the model is.

        Args:
            layout: of the wanted samples, with a seed for each.
            guess: clean state that the samples are probably near, such as the last answer to much the same question;
                sampling then begins from it, noised to the level of the sampler's step `start`. None: from pure noise.
            start: how many of the sampler's first steps a guess saves.

        Raises:
            ValueError: if `start` is not 0 without a guess, or not a step of the sampler.
        """
        device = next(self.denoiser.parameters()).device
        condition = self._condition(layout, device, None)
        source = NoiseSource(layout.seeds)

        def draw() -> State:
            return {
                field: self.process_of(field).prior(
                    source.draw(shape, layout.masks.get(field), device), layout.masks.get(field)
                )
                for field, shape in layout.shapes.items()
            }

        denoise = SamplingDenoiser(self, layout, condition, draw)
        processes = {field: self.process_of(field) for field in layout.shapes}
        if guess is None:
            if start:
                raise ValueError(f"start {start} skips steps for which there is no guess: give one, or start from 0")
            return self.sampler.sample(denoise, draw(), processes, draw, layout.masks)
        denoise.step = start
        time = self.sampler.times(processes, start)[0].to(device, torch.float32).expand(layout.batch_size)
        noise = draw()
        x = {field: processes[field].corrupt(value, noise[field], time) for field, value in guess.items()}
        return self.sampler.walk(denoise, x, processes, draw, layout.masks, start=start)

    def _predict(self, x_t: State, t: Tensor, condition: Condition, context: Context) -> State:
        scaled = {field: x * expand_time(self.process_of(field).input_scale(t), x) for field, x in x_t.items()}
        return self.denoiser(scaled, t, condition, context)

    def clean_estimate(self, x_t: State, t: Tensor, condition: Condition, context: Context) -> State:
        """x_0 as the denoiser sees it from x_t, whatever it was trained to predict."""
        prediction = self._predict(x_t, t, condition, context)
        return {field: self.process_of(field).convert(prediction[field], x, t, to="x0") for field, x in x_t.items()}

    def _with_first_estimate(
        self, x_t: State, t: Tensor, condition: Condition, layout: Layout, generator: torch.Generator
    ) -> Condition:
        # One coin for the whole batch: a coin per sample would need the first pass for every batch.
        coin = torch.rand((), generator=generator, device=generator.device)
        if float(coin) >= self.self_conditioning:
            return condition
        with torch.no_grad():
            estimate = self.clean_estimate(x_t, t, condition, self._context(layout, condition))
        return condition.with_channels(self_condition=join_fields(estimate))

    def _condition(self, layout: Layout, device: torch.device, generator: torch.Generator | None) -> Condition:
        if self.conditioner is None:
            return Condition()
        return self.conditioner.encode(layout.labels, layout.batch_size, device, generator)

    def _context(self, layout: Layout, condition: Condition) -> Context:
        context = self.denoiser.context(layout)
        context.condition = condition
        return context

    def _weigh(self, field: str, loss: Tensor) -> Tensor:
        return self.loss_weights[field](loss) if field in self.loss_weights else loss

    def _objectives(self) -> dict[str, Objective]:
        return {name: module for name, module in self.objectives.items() if isinstance(module, Objective)}


class SamplingDenoiser:
    """What a sampler sees of a system: (x, t) -> guided clean estimate, self-conditioned and with kept values kept.

    Args:
        system: the model.
        layout, condition: of the batch being sampled.
        draw: fresh noise for all fields, used to noise kept values to the level of the rest.
    """

    def __init__(self, system: DiffusionSystem, layout: Layout, condition: Condition, draw: Any) -> None:
        self.system = system
        self.layout = layout
        self.condition = condition
        self.known = system.codec.known(layout)
        self.known_noise = draw() if self.known is not None else {}
        self.previous: State | None = None
        self.step = 0
        self._repeated: dict[int, Layout] = {}

    def __call__(self, x: State, t: Tensor) -> State:
        """Clean estimate of x [B, ...] at time t (0-dim)."""
        if self.known is not None:
            x = self._with_known(x, t)
        guided = Guided(self._denoise, self.condition, self.system.conditioner, tuple(self.layout.labels))
        estimate = self.system.guidance.estimate(x, t, guided)
        if self.known is not None:
            values, keep = self.known
            estimate = {field: torch.where(keep[field], values[field], e) if field in keep else e
                        for field, e in estimate.items()}
        if self.system.self_conditioning > 0:
            self.previous = estimate
        self.step += 1
        return estimate

    def _with_known(self, x: State, t: Tensor) -> State:
        """Replace kept values by their noised selves (the replacement method of Song et al. 2021, app. I.2)."""
        assert self.known is not None
        values, keep = self.known
        result = dict(x)
        for field, kept in keep.items():
            noised = self.system.process_of(field).corrupt(
                values[field], self.known_noise[field], t.expand(x[field].shape[0]).to(x[field])
            )
            result[field] = torch.where(kept, noised, x[field])
        return result

    def _denoise(
        self, x: State, t: Tensor, conditions: Sequence[Condition], stack_policies: tuple[StackPolicy, ...] = ()
    ) -> list[State]:
        count = len(conditions)
        condition = conditions[0] if count == 1 else Condition.concatenate(list(conditions))
        if self.previous is not None:
            feedback = join_fields(self.previous)
            condition = condition.with_channels(self_condition=torch.cat([feedback] * count))
        batch = {field: value if count == 1 else torch.cat([value] * count) for field, value in x.items()}
        first = next(iter(batch.values()))
        times = t.to(first).expand(first.shape[0])
        layout = self.layout if count == 1 else self._repeated.setdefault(count, self.layout.repeat(count))
        context = self.system._context(layout, condition).at_step(self.step)
        context.stack_policies += stack_policies
        estimate = self.system.clean_estimate(batch, times, condition, context)
        parts = {field: value.chunk(count) for field, value in estimate.items()}
        return [{field: parts[field][i] for field in parts} for i in range(count)]


def join_fields(state: State) -> Tensor:
    """All fields side by side [B, N, sum C], in the order of their names."""
    return torch.cat([state[field] for field in sorted(state)], dim=-1)
