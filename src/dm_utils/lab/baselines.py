"""What counting alone achieves: unigram and interpolated trigram models, fitted on the lab's training tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dm_utils.lab.text import BOS_ID


@dataclass(frozen=True)
class NgramModel:
    """An interpolated trigram model over ``n_tokens`` entries.

    p(c | a, b) = λ₃(n_ab) f(c | a, b) + λ₂(n_ab) f(c | b) + λ₁(n_ab) f(c) + λ₀(n_ab) / n_tokens, where f is a relative
    frequency and the weights λ (sum 1) depend on the size of the count n_ab of the history, in powers of two.
    """

    n_tokens: int
    unigram: np.ndarray
    bigram: tuple[np.ndarray, np.ndarray]
    trigram: tuple[np.ndarray, np.ndarray]
    history: tuple[np.ndarray, np.ndarray]
    bigram_history: np.ndarray
    weights: np.ndarray

    def nats(self, contexts: np.ndarray) -> np.ndarray:
        """Return −log p of tokens 1 … ctx_len − 1 of each context: float64 [context, ctx_len − 1]."""
        parts, bucket = _parts(self, contexts)
        probability = (parts * self.weights[bucket]).sum(1)
        return -np.log(probability).reshape(len(contexts), -1)

    def unigram_nats(self, contexts: np.ndarray) -> np.ndarray:
        """Return −log of the (add-one) relative frequency of the same tokens: float64 [context, ctx_len − 1]."""
        frequency = (self.unigram + 1) / (self.unigram.sum() + self.n_tokens)
        return -np.log(frequency[contexts[:, 1:].astype(np.int64)])


def fit_ngrams(contexts: np.ndarray, n_tokens: int, held_out: int = 400, rounds: int = 20) -> NgramModel:
    """Count n-grams, and fit the interpolation weights by expectation maximisation on contexts kept out of the counts.

    Parameters
    ----------
    contexts : ndarray of integers, [context, ctx_len]
        Training contexts, BOS first.
    n_tokens : int
        Size of the vocabulary.
    held_out : int
        Number of contexts, spread evenly, that fit the weights and are not counted.
    rounds : int
        Iterations of expectation maximisation.
    """
    aside = np.zeros(len(contexts), dtype=bool)
    aside[np.linspace(0, len(contexts) - 1, min(held_out, max(1, len(contexts) // 10))).astype(int)] = True
    first, second, third = _triples(contexts[~aside], n_tokens)
    pair = second * n_tokens + third
    model = NgramModel(
        n_tokens=n_tokens,
        unigram=np.bincount(third, minlength=n_tokens),
        bigram=np.unique(pair, return_counts=True),
        trigram=np.unique(first * n_tokens**2 + pair, return_counts=True),
        history=np.unique(first * n_tokens + second, return_counts=True),
        bigram_history=np.bincount(second, minlength=n_tokens),
        weights=np.full((32, 4), 0.25),
    )
    parts, bucket = _parts(model, contexts[aside])
    for _ in range(rounds):
        share = parts * model.weights[bucket]  # [token, 4]
        share /= share.sum(1, keepdims=True)
        total = np.full((32, 4), 0.1)  # a bucket that is never seen keeps an even mixture
        np.add.at(total, bucket, share)
        model.weights[:] = total / total.sum(1, keepdims=True)
    return model


def _triples(contexts: np.ndarray, n_tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for each predicted token, the token two before, the one before and itself; BOS stands before BOS."""
    rows = contexts.astype(np.int64)
    padded = np.concatenate([np.full((len(rows), 1), BOS_ID), rows], axis=1)
    return padded[:, :-2].ravel(), padded[:, 1:-1].ravel(), padded[:, 2:].ravel()


def _parts(model: NgramModel, contexts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the four distributions' probabilities [token, 4] and the bucket of each token's history [token]."""
    n = model.n_tokens
    first, second, third = _triples(contexts, n)
    n_history = _lookup(model.history, first * n + second)
    n_second = model.bigram_history[second]
    trigram = _lookup(model.trigram, first * n**2 + second * n + third) / np.maximum(n_history, 1)
    bigram = _lookup(model.bigram, second * n + third) / np.maximum(n_second, 1)
    unigram = model.unigram[third] / model.unigram.sum()
    parts = np.stack([trigram, bigram, unigram, np.full(len(third), 1 / n)], axis=1)
    return parts, np.frexp(n_history)[1].clip(0, 31)


def _lookup(table: tuple[np.ndarray, np.ndarray], keys: np.ndarray) -> np.ndarray:
    known, counts = table
    place = np.searchsorted(known, keys).clip(0, len(known) - 1)
    return np.where(known[place] == keys, counts[place], 0)
