"""Clips with sound: BridgeDiT, AV-DiT, the mel codec with its vocoder, and how well sight and sound agree in time."""
