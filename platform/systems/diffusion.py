"""Diffusion as a system: one training step and one sampling loop for every domain, process and denoiser.

Shape legend: B batch, N tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from ..acceleration.step_cache import StepCache
from ..codec import Codec
from ..conditioning import Conditioner
from ..context import Context
from ..denoisers import Denoiser
from ..noise import NoiseSource
from ..objectives import Denoising, LossWeight, Objective
from ..processes import Process
from ..requests import Request, Sample
from ..samplers import Sampler
from ..samplers.guidance import Guidance, NoGuidance
from ..state import Condition, Layout, State, Time, expand_time, time_of
from .sampling import SamplingDenoiser, join_fields, show_known
from .system import System

HYPOTHESIS_STRIDE = 1_000_003
"""Between the seeds of two answers to one question."""


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
        sample_batch_size: most samples denoised at once; a batch of questions is never divided.
        loss_weights: field -> weight of its denoising loss in the total; a field without one has 1.
        separate_times: whether every field is noised to a level of its own in training, drawn by its own process; the
            denoiser then gets a dict of levels by field.
        hypotheses: answers that `test` samples to each question of a held-out batch, where the codec finds any.
        step_cache: foretells part of the denoiser at some steps of sampling; None: every step is computed in full.
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
        separate_times: bool = False,
        hypotheses: int = 1,
        step_cache: StepCache | None = None,
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
        self.step_cache = step_cache
        self.objectives = nn.ModuleDict(dict(sorted((objectives or {}).items())))
        self.self_conditioning = self_conditioning
        self.sample_batch_size = sample_batch_size
        if hypotheses < 1:
            raise ValueError(f"hypotheses is a number of answers, not {hypotheses}: give at least 1")
        self.separate_times, self.hypotheses = separate_times, hypotheses
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
        t = self._sample_time(x0, generator)
        noise = {
            field: self.process_of(field).prior(
                torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype), layout.masks.get(field)
            )
            for field, x in x0.items()
        }
        x_t = {field: self.process_of(field).corrupt(x, noise[field], time_of(t, field)) for field, x in x0.items()}
        if self.codec.shows_known:
            x_t = show_known(x_t, self.codec.known(layout))
        condition = self._condition(layout, first.device, generator)
        if self.self_conditioning > 0:
            condition = self._with_first_estimate(x_t, t, condition, layout, generator)
        context = self._context(layout, condition)
        context.wanted_taps = frozenset().union(*(objective.wanted_taps for objective in self._objectives().values()))
        prediction = self._predict(x_t, t, condition, context)

        counted = {**layout.masks, **layout.loss_masks}
        losses = {
            field: self.process_of(field).loss(
                prediction[field], x, noise[field], time_of(t, field), counted.get(field)
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
    def reconstruct(self, batch: Any) -> list[Any]:
        """Held-out items beside the system's own answers to what they ask; nothing where the codec sees no question."""
        question = self.codec.question(batch)
        if question is None:
            return []
        device = next(self.denoiser.parameters()).device
        question = question.to(device)
        answers = self.answer(question, self.hypotheses)
        with torch.autocast(device.type, enabled=False):
            return self.codec.compare(batch, answers, question)

    @torch.no_grad()
    def answer(self, question: Layout, hypotheses: int) -> list[State]:
        """Clean states that answer a question, one for each hypothesis; as many together as `sample_batch_size` allows.

        Args:
            question: of B entries with a seed each, on the device of the model.
            hypotheses: how many answers; each entry's first has the entry's own seed.
        """
        size = question.batch_size
        together = max(1, self.sample_batch_size // size)
        answers: list[State] = []
        for start in range(0, hypotheses, together):
            numbers = range(start, min(start + together, hypotheses))
            # far apart, so that no answer's seed is that of another question
            seeds = [seed + number * HYPOTHESIS_STRIDE for number in numbers for seed in question.seeds]
            state = self.sample_state(self.codec.ask(question, seeds))
            parts = {field: value.split(size) for field, value in state.items()}
            answers += [{field: parts[field][i] for field in parts} for i in range(len(numbers))]
        return answers

    @torch.no_grad()
    def generate(self, requests: Sequence[Request]) -> list[Sample]:
        """Samples in the order of the requests; inside, they run sorted by size so that little or nothing is padded."""
        samples: dict[int, Sample] = {}
        for indices in batch_by_size(self.codec.sizes(requests), self.sample_batch_size, self.codec.pads):
            chosen = [requests[i] for i in indices]
            items = self._generate_batch(chosen)
            samples |= {i: Sample(r, item) for i, r, item in zip(indices, chosen, items, strict=True)}
        return [samples[i] for i in range(len(requests))]

    def uneven_passes(self) -> str:
        """A coin is tossed for every batch, where self-conditioning is a matter of chance."""
        if 0 < self.self_conditioning < 1:
            return f"self_conditioning {self.self_conditioning:g} is a coin that each tosses alone: set it to 0 or 1"
        return ""

    def present(self, item: Any) -> Any:
        """The item as an object of the field's own library."""
        return self.codec.present(item)

    def portable_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """`config` with paths of codec and denoiser to other checkpoints replaced by what they held."""
        result = dict(config)
        for name, part in (("codec", self.codec), ("denoiser", self.denoiser)):
            entry = dict(config[name])
            result[name] = {**entry, "init_args": part.portable_config(dict(entry.get("init_args", {})))}
        return result

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

        denoise = SamplingDenoiser(self, layout, condition, draw, start)
        processes = {field: self.process_of(field) for field in layout.shapes}
        if guess is None:
            if start:
                raise ValueError(f"start {start} skips steps for which there is no guess: give one, or start from 0")
            return self.sampler.sample(denoise, draw(), processes, draw, layout.masks, denoise.begin_step)
        time = self.sampler.times(processes, start)[0].to(device, torch.float32).expand(layout.batch_size)
        noise = draw()
        x = {field: processes[field].corrupt(value, noise[field], time) for field, value in guess.items()}
        return self.sampler.walk(denoise, x, processes, draw, layout.masks, denoise.begin_step, start=start)

    def _sample_time(self, x0: State, generator: torch.Generator) -> Time:
        first = next(iter(x0.values()))
        if not self.separate_times:
            return self.process.sample_time(first.shape[0], generator, first.device)
        return {
            field: self.process_of(field).sample_time(x.shape[0], generator, first.device) for field, x in x0.items()
        }

    def _predict(self, x_t: State, t: Time, condition: Condition, context: Context) -> State:
        scaled = {
            field: x * expand_time(self.process_of(field).input_scale(time_of(t, field)), x) for field, x in x_t.items()
        }
        return self.denoiser(scaled, t, condition, context)

    def clean_estimate(self, x_t: State, t: Time, condition: Condition, context: Context) -> State:
        """x_0 as the denoiser sees it from x_t, whatever it was trained to predict."""
        return self.estimate(x_t, t, condition, context)[0]

    def estimate(self, x_t: State, t: Time, condition: Condition, context: Context) -> tuple[State, State]:
        """Clean estimates, and what the network says of the variance of its steps, for fields where it says any."""
        prediction = self._predict(x_t, t, condition, context)
        clean, spread = {}, {}
        for field, x in x_t.items():
            process = self.process_of(field)
            clean[field] = process.convert(prediction[field], x, time_of(t, field), to="x0")
            told = process.spread(prediction[field], x)
            if told is not None:
                spread[field] = told
        return clean, spread

    def _with_first_estimate(
        self, x_t: State, t: Time, condition: Condition, layout: Layout, generator: torch.Generator
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


def batch_by_size(sizes: Sequence[Any], batch_size: int, mixed: bool = True) -> list[list[int]]:
    """Places of samples in batches of at most `batch_size`, by rising size; of one size each unless `mixed`."""
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    groups = [order] if mixed else [list(group) for _, group in groupby(order, key=sizes.__getitem__)]
    return [group[start : start + batch_size] for group in groups for start in range(0, len(group), batch_size)]
