"""Sound as a mel spectrogram, and back through a vocoder.

Shape legend: B clips, S samples, T steps, M mel bands, Q frequencies.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from polydit.data.video.clips import Sound
from polydit.platform.errors import ConfigurationError, require

EXTRA = "audio"

FLOOR = 1e-2
"""Magnitude that counts as silence, some 80 dB below a full tone."""


class Vocoder(ABC):
    """Makes sound of magnitudes of mel bands; a neural one is given by its class path."""

    @abstractmethod
    def decode(self, magnitudes: NDArray[np.float32], mel: MelSpectrogram, samples: int) -> Sound:
        """The sound [S].

        Args:
            magnitudes: [M, T] of the mel bands.
            mel: what made them.
            samples: S.
        """


class GriffinLim(Vocoder):
    """Phases that fit the magnitudes best, by librosa (Griffin and Lim 1984; fast, Perraudin et al. 2013).

    Args:
        iterations: how many.
        momentum: of the fast version; 0: the original.
        seed: of the phases it starts from.
    """

    def __init__(self, iterations: int = 32, momentum: float = 0.99, seed: int = 0) -> None:
        if iterations < 1 or not 0 <= momentum < 1:
            raise ConfigurationError(f"iterations {iterations}, momentum {momentum}: give at least 1, and 0 to below 1")
        self.iterations, self.momentum, self.seed = iterations, momentum, seed

    def decode(self, magnitudes: NDArray[np.float32], mel: MelSpectrogram, samples: int) -> Sound:
        """The sound [S] of magnitudes [M, T]."""
        librosa: Any = require("librosa", EXTRA)
        # librosa's transform has one more step, at the very end
        longer = np.pad(magnitudes, ((0, 0), (0, 1 + samples // mel.hop - magnitudes.shape[1])), mode="edge")
        frequencies = librosa.util.nnls(mel.filters.cpu().numpy(), longer)
        sound = librosa.griffinlim(
            frequencies, n_iter=self.iterations, hop_length=mel.hop, win_length=mel.window, n_fft=mel.window,
            momentum=self.momentum, random_state=self.seed, length=samples,
        )
        return np.clip(np.asarray(sound, np.float32), -1, 1)


class MelSpectrogram(nn.Module):
    """Logarithms of the magnitudes of mel bands, standardised by the training split; step n is centred at n hop.

    Args:
        sample_rate: samples per second.
        bands: M.
        hop: samples from one step to the next.
        window: samples of the Hann window; the shorter, the sharper in time and the blunter in pitch.
        lowest, highest: hertz; None: half the sample rate.
        vocoder: makes sound again; default `GriffinLim`.
        patch: P, steps that stand together as one token of P M channels: fewer tokens, and no less sharp in time. Where
            it does not divide the steps there are, silence fills up the last.

    Raises:
        ConfigurationError: if steps leave samples out, bands are empty, or patches hold nothing.
        MissingExtraError: if librosa is not installed.
    """

    filters: Tensor
    hann: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        sample_rate: int = 8000,
        bands: int = 32,
        hop: int = 128,
        window: int = 256,
        lowest: float = 50.0,
        highest: float | None = None,
        vocoder: Vocoder | None = None,
        patch: int = 1,
    ) -> None:
        super().__init__()
        if patch < 1:
            raise ConfigurationError(f"patch is {patch}: give the number of steps that a token holds, at least 1")
        if not 1 <= hop <= window // 2:
            raise ConfigurationError(f"a hop of {hop} and a window of {window}: windows must overlap by half or more")
        librosa: Any = require("librosa", EXTRA)
        self.sample_rate, self.bands, self.hop, self.window = sample_rate, bands, hop, window
        self.patch = patch
        self.vocoder = vocoder or GriffinLim()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of empty bands, an error below
            filters = librosa.filters.mel(
                sr=sample_rate, n_fft=window, n_mels=bands, fmin=lowest, fmax=highest or sample_rate / 2, norm=None
            )
        if not (filters.max(axis=1) > 0).all():
            raise ConfigurationError(
                f"{bands} mel bands are finer than a window of {window} samples tells apart at {sample_rate} per "
                "second: take fewer bands, or a longer window"
            )
        self.register_buffer("filters", torch.from_numpy(filters), persistent=False)
        self.register_buffer("hann", torch.hann_window(window), persistent=False)
        self.register_buffer("mean", torch.zeros(bands))
        self.register_buffer("std", torch.ones(bands))

    def steps(self, samples: int) -> int:
        """T of a sound of S samples."""
        return -(-samples // self.hop)

    def tokens(self, samples: int) -> int:
        """N of a sound of S samples."""
        return -(-self.steps(samples) // self.patch)

    def seconds(self, samples: int) -> Tensor:
        """[N] moments of the tokens, each the middle of its steps."""
        return (torch.arange(self.tokens(samples)) * self.patch + (self.patch - 1) / 2) * self.hop / self.sample_rate

    def encode(self, sound: Tensor) -> Tensor:
        """Standardised logarithms [B, N, P M] of sound [B, S]; the bands of a step are innermost."""
        missing = self.tokens(sound.shape[-1]) * self.patch * self.hop - sound.shape[-1]
        logs = self.analyse(functional.pad(sound, (0, max(missing, 0))))
        return ((logs - self.mean) / self.std).unflatten(1, (-1, self.patch)).flatten(2)

    def analyse(self, sound: Tensor) -> Tensor:
        """Logarithms [B, T, M] of sound [B, S]."""
        spectrum = torch.stft(
            sound.float(), self.window, self.hop, window=self.hann, center=True, pad_mode="constant",
            return_complex=True,
        ).abs()
        bands = torch.einsum("mq,bqt->btm", self.filters, spectrum[..., : self.steps(sound.shape[-1])])
        return bands.clamp(min=FLOOR).log()

    def fit(self, sounds: Tensor) -> None:
        """Take mean and standard deviation over all of some sounds [B, S], one number each for all bands."""
        logs = self.analyse(sounds)
        self.mean.fill_(float(logs.mean()))
        self.std.fill_(max(float(logs.std()), 1e-3))

    def decode(self, mel: Tensor, samples: int) -> list[Sound]:
        """Sounds [S] of standardised logarithms [B, N, P M]."""
        steps = mel.float().cpu().unflatten(2, (self.patch, self.bands)).flatten(1, 2)[:, : self.steps(samples)]
        logs = steps * self.std.cpu() + self.mean.cpu()
        # what is quieter than silence, or louder than any sound there was, is the model's error and not the sound's
        magnitudes = logs.clamp(max=float(np.log(self.window / 2))).exp().numpy() - FLOOR
        return [
            self.vocoder.decode(np.ascontiguousarray(each.T.clip(0)), self, samples)
            for each in cast(list[NDArray[np.float32]], list(magnitudes))
        ]
