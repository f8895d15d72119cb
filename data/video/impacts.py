"""What impacts sound like: every body rings in modes of its own, and a wall rings with it.

Shape legend: S samples, n bodies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .clips import Sound
from .simulation import WALL, Contact

PITCH = 90.0
"""Metres times hertz: a body of radius r rings at PITCH / r, 560 to 1,100 Hz for radii of 16 to 8 centimetres."""

MODES = ((1.0, 1.0, 0.060), (2.76, 0.5, 0.035), (5.40, 0.25, 0.020))
"""Frequency as a multiple of the lowest, amplitude and decay in seconds of a body's modes: those of a free bar."""

WALL_MODES = ((180.0, 1.2, 0.030), (310.0, 0.6, 0.020))
"""Frequency in hertz, amplitude and decay in seconds of a wall."""

LOUDNESS = 0.25
"""Amplitude at an approach of one metre per second."""

ATTACK = 0.001
"""Seconds that a sound takes to rise, so that it does not click."""


def synthesise(
    contacts: Sequence[Contact], radii: NDArray[np.float64], samples: int, sample_rate: int
) -> Sound:
    """The sound [S] of some contacts, within [-1, 1]; each begins with the sample nearest after it.

    Args:
        contacts: what touches, when and how fast.
        radii: [n] of the bodies in metres.
        samples: S.
        sample_rate: samples per second; modes above half of it are left out.
    """
    sound = np.zeros(samples)
    for contact in contacts:
        start = int(np.ceil(contact.time * sample_rate))
        if start >= samples:
            continue
        time = np.arange(samples - start) / sample_rate + (start / sample_rate - contact.time)
        rising = np.clip(time / ATTACK, 0, 1)
        for frequency, amplitude, decay in list_modes(contact, radii):
            if frequency < sample_rate / 2:
                ringing = np.exp(-time / decay) * np.sin(2 * np.pi * frequency * time)
                sound[start:] += LOUDNESS * contact.speed * amplitude * rising * ringing
    return np.tanh(sound).astype(np.float32)


def list_modes(contact: Contact, radii: NDArray[np.float64]) -> list[tuple[float, float, float]]:
    """Frequency, amplitude and decay of all that rings at a contact."""
    bodies = [contact.first] if contact.second == WALL else [contact.first, contact.second]
    modes = [
        (PITCH / float(radii[body]) * multiple, amplitude, decay)
        for body in bodies for multiple, amplitude, decay in MODES
    ]
    return [*modes, *WALL_MODES] if contact.second == WALL else modes
