"""Instructions as labels: what turns a sentence into numbers before any weight of the policy sees it.

Shape legend: B batch, M words or tokens of a sentence, K features of an encoded token.
"""

from __future__ import annotations

import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from polydit.platform.errors import ConfigurationError, require

UNKNOWN = 0
"""Label of a place without a word."""


class InstructionLabels(ABC):
    """Turns sentences into labels that an axis of the conditioner embeds."""

    @abstractmethod
    def __call__(self, instructions: Sequence[str]) -> Tensor:
        """Labels with leading dimension B; an empty sentence tells nothing."""


class WordHashes(InstructionLabels):
    """Words by their hash, for an embedding trained from scratch: [B, M] long, 1..buckets, 0 where there is no word.

    M is the number of words of the longest sentence, at least 1, so that few tokens are padding.

    No vocabulary has to be collected or kept with the weights, and a word never seen in training does no harm. Two
    words share a bucket with probability 1 / buckets.

    Args:
        buckets: number of embeddings.
        words: most words of a sentence; longer ones are refused, not cut.
    """

    def __init__(self, buckets: int = 4096, words: int = 24) -> None:
        if buckets < 1 or words < 1:
            raise ConfigurationError(f"buckets {buckets} and words {words} must be positive")
        self.buckets = buckets
        self.words = words

    def __call__(self, instructions: Sequence[str]) -> Tensor:
        """Labels [B, M].

        Raises:
            ConfigurationError: if a sentence has more words than it may.
        """
        sentences = [split_words(sentence) for sentence in instructions]
        for words, sentence in zip(sentences, instructions, strict=True):
            if len(words) > self.words:
                raise ConfigurationError(
                    f"the instruction {sentence!r} has {len(words)} words, more than {self.words}: raise `words`"
                )
        labels = torch.zeros(len(sentences), max(map(len, sentences), default=0) or 1, dtype=torch.long)
        for row, words in enumerate(sentences):
            for place, word in enumerate(words):
                labels[row, place] = 1 + zlib.crc32(word.encode()) % self.buckets
        return labels


class PretrainedText(InstructionLabels):
    """Features of a text encoder of the transformers library, from a local folder: [B, M, K], NaN where padded.

    The encoder is frozen and not part of the policy; a sentence is encoded once and remembered.

    Args:
        folder: what `AutoModel.from_pretrained` and `AutoTokenizer.from_pretrained` read; nothing is downloaded.
        tokens: M; longer sentences are refused.
        remembered: most sentences to remember.
    """

    def __init__(self, folder: str, tokens: int = 32, remembered: int = 4096) -> None:
        self.folder = folder
        self.tokens = tokens
        self._encode = lru_cache(remembered)(self._encode_one)
        self._loaded: tuple[Any, Any] | None = None

    def __call__(self, instructions: Sequence[str]) -> Tensor:
        """Labels [B, M, K].

        Raises:
            ConfigurationError: if a sentence is longer than M tokens, or the folder holds no such model.
        """
        return torch.stack([self._encode(sentence) for sentence in instructions])

    @torch.no_grad()
    def _encode_one(self, sentence: str) -> Tensor:
        tokenizer, model = self._load()
        tokens = tokenizer(sentence, return_tensors="pt")
        count = tokens["input_ids"].shape[1]
        if count > self.tokens:
            raise ConfigurationError(
                f"the instruction {sentence!r} has {count} tokens, more than {self.tokens}: raise `tokens`"
            )
        features = model(**tokens).last_hidden_state[0].float()
        padded = features.new_full((self.tokens, features.shape[1]), torch.nan)
        if sentence.strip():
            padded[:count] = features
        return padded

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            transformers = require("transformers", "pretrained")
            try:
                tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
                model = transformers.AutoModel.from_pretrained(self.folder, local_files_only=True)
            except (OSError, ValueError) as error:
                problem = f"{self.folder} holds no text encoder that transformers reads: {error}"
                raise ConfigurationError(problem) from error
            model = getattr(model, "text_model", None) or getattr(model, "encoder", None) or model
            self._loaded = tokenizer, model.eval().requires_grad_(False)
        return self._loaded


def split_words(sentence: str) -> list[str]:
    """Lower-case words and numbers of a sentence."""
    return re.findall(r"[^\W_]+", sentence.lower())
