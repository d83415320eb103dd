"""Explaining and scoring latents with a language model behind a chat endpoint (the paper's way; Section 5.2).

The questions are plain: the explainer sees the strongest contexts with the active tokens marked and answers in one sentence; the
scorer sees that sentence and numbered contexts, nothing marked, and answers with a list of zeros and ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from dm_utils.chapters.s05_2_saes_on_error.endpoint import (
    ChatEndpoint,
    EndpointConfig,
    EndpointError,
    MalformedAnswer,
    Message,
)
from dm_utils.engine.autointerp import (
    Explainer,
    Explanation,
    RuleExplainer,
    RuleScorer,
    Scorer,
    Scores,
    dealt_wrong,
    interpret,
)
from dm_utils.engine.store import Store
from dm_utils.engine.text_windows import Activity, Examples, WindowPlan, marked

EXPLAIN = (
    "You study one unit of a neural network that reads text. Below are excerpts in which the unit is active, strongest first. "
    "The tokens on which it is active stand between << and >>. Say in one sentence what makes the unit active, as specifically as the "
    "excerpts allow: a meaning, a word, a part of a word, a position or a format. Answer with that sentence alone."
)
DETECT = (
    "A unit of a neural network that reads text is described in one sentence. For each numbered excerpt decide whether the unit is "
    "active somewhere in it. Answer only with a JSON list of {n} numbers, 1 for active and 0 for not, in the order of the excerpts."
)
EXPLAIN_TOKENS = 120
CHARACTERS_PER_TOKEN = 3.5  # of a typical tokenizer on prose with code; used for the estimate only


class LMExplainer:
    """Explains a latent in one sentence; `vocabulary` holds the text of every token id."""

    def __init__(self, endpoint: ChatEndpoint, vocabulary: Sequence[str]):
        self.endpoint, self.vocabulary = endpoint, vocabulary

    def explain(self, examples: Examples) -> Explanation:
        """One sentence; its text is None when the endpoint gave no readable answer."""
        return Explanation(self.endpoint.ask(self.messages(examples), read_sentence, EXPLAIN_TOKENS))

    def messages(self, examples: Examples) -> list[Message]:
        """The question about these examples."""
        rows = zip(examples.tokens, examples.activation, strict=True)
        return _conversation(EXPLAIN, [marked(tokens, active > 0, self.vocabulary) for tokens, active in rows])


class LMScorer:
    """Detects a described latent in windows of text, `per_request` windows to a question."""

    def __init__(self, endpoint: ChatEndpoint, vocabulary: Sequence[str], per_request: int = 10):
        if per_request < 1:
            raise ValueError(f"per_request is {per_request}; it must be at least 1")
        self.endpoint, self.vocabulary, self.per_request = endpoint, vocabulary, per_request

    def score(self, explanation: Explanation, tokens: np.ndarray) -> list[bool | None]:
        """One decision per window [window, position]; None for the windows of a question without a readable answer."""
        decisions: list[bool | None] = []
        for start in range(0, len(tokens), self.per_request):
            part = tokens[start : start + self.per_request]
            read = partial(read_decisions, n=len(part))
            answer = self.endpoint.ask(self.messages(explanation, part), read, answer_tokens(len(part)))
            decisions += [None] * len(part) if answer is None else answer
        return decisions

    def messages(self, explanation: Explanation, tokens: np.ndarray) -> list[Message]:
        """The question about these windows."""
        excerpts = ["".join(self.vocabulary[t] for t in row) for row in tokens]
        return _conversation(f"{DETECT.format(n=len(tokens))}\n\nThe unit: {explanation.text}", excerpts)


def _conversation(task: str, excerpts: Sequence[str]) -> list[Message]:
    numbered = "\n".join(f"{i + 1}. {json.dumps(text, ensure_ascii=False)}" for i, text in enumerate(excerpts))
    return [{"role": "system", "content": task}, {"role": "user", "content": numbered}]


def read_sentence(text: str) -> str:
    """The explanation in an answer: one line, not empty, at most 600 characters; else `MalformedAnswer`."""
    sentence = " ".join(text.split())
    if not sentence or len(sentence) > 600:
        raise MalformedAnswer(f"expected one sentence, got {len(sentence)} characters")
    return sentence


def read_decisions(text: str, n: int) -> list[bool]:
    """The `n` decisions in an answer: exactly one JSON list of zeros and ones (or true/false); else `MalformedAnswer`."""
    lists = re.findall(r"\[[^\[\]]*\]", text)
    if len(lists) != 1:
        raise MalformedAnswer(f"expected one list, got {len(lists)} in {text[:80]!r}")
    try:
        values = json.loads(lists[0].lower())
    except json.JSONDecodeError:
        raise MalformedAnswer(f"the list is not JSON: {lists[0][:80]!r}") from None
    if len(values) != n or any(value not in (0, 1) for value in values):
        raise MalformedAnswer(f"expected {n} zeros and ones, got {lists[0][:80]!r}")
    return [bool(value) for value in values]


def answer_tokens(n: int) -> int:
    """Room for an answer of `n` decisions, with some to spare."""
    return 3 * n + 20


@dataclass(frozen=True)
class Cost:
    """What a run will ask at most, before it starts: requests, and tokens estimated from the length of the questions."""

    requests: int
    prompt_tokens: int
    completion_tokens: int

    def __str__(self) -> str:
        return (
            f"{self.requests:,} requests, about {self.prompt_tokens:,} prompt tokens and at most "
            f"{self.completion_tokens:,} completion tokens (less what the store already holds)"
        )


def estimate_cost(plan: WindowPlan, n_latents: int, scorer: LMScorer) -> Cost:
    """Upper limit for explaining and testing `n_latents` latents, from the plan and the mean length of a token."""
    characters = float(np.mean([len(word) for word in scorer.vocabulary])) * plan.window + 12
    detect = -(-plan.n_test // scorer.per_request)
    asked = len(EXPLAIN) + plan.n_explain * (characters + 8) + detect * (len(DETECT) + 200) + plan.n_test * characters
    answered = EXPLAIN_TOKENS + sum(
        answer_tokens(min(scorer.per_request, plan.n_test - i * scorer.per_request)) for i in range(detect)
    )
    return Cost(n_latents * (1 + detect), round(n_latents * asked / CHARACTERS_PER_TOKEN), n_latents * answered)


#: What a reader should know about each kind of judge; the key is whether a language model ran.
LIMITS = {
    False: (
        "An explanation is a list of patterns: the active token (itself, its ending or beginning, how it is written), alone or with "
        "the one or two tokens before it. It is learned from the explanation windows only and can be read below. Rules see no "
        "meaning and no longer context."
    ),
    True: (
        "A sentence is written from the strongest windows and judged on others. The result depends on the model and on the wording "
        "of the questions, which are in this chapter's `lm_interp.py`."
    ),
}


@dataclass(frozen=True)
class Judge:
    """An explainer and the scorer that belongs to it, with what a chapter says about them."""

    name: str
    explainer: Explainer
    scorer: Scorer
    workers: int = 1
    endpoint: ChatEndpoint | None = None

    def interpret(self, activity: Activity, latents: np.ndarray) -> Scores:
        """Explain and test latents (see `autointerp.interpret`); an endpoint without one readable decision is an error."""
        scores = interpret(activity, self.explainer, self.scorer, latents, self.workers)
        asked = len(scores.latents) * activity.plan.n_test
        if scores.n_unanswered == asked:
            raise EndpointError(
                f"none of {asked} decisions by {self.name} could be read, so there is nothing to report"
            )
        return scores

    def dealt_wrong(self, activity: Activity, scores: Scores) -> Scores:
        """Test the same latents with each other's explanations (see `autointerp.dealt_wrong`)."""
        return dealt_wrong(activity, self.scorer, scores, self.workers)

    def cost(self, plan: WindowPlan, n_latents: int) -> str:
        """What testing `n_latents` latents will ask for, before it starts."""
        if not isinstance(self.scorer, LMScorer):
            return "no request, since rules are learned and scored here"
        return str(estimate_cost(plan, n_latents, self.scorer))


def make_judge(vocabulary: Sequence[str], store: Store, config: EndpointConfig | None = None) -> Judge:
    """The language model at an endpoint, or the embedded rules where there is none."""
    if config is None:
        return Judge("token rules (no language model)", RuleExplainer(vocabulary), RuleScorer())
    endpoint = ChatEndpoint(config, store)
    explainer, scorer = LMExplainer(endpoint, vocabulary), LMScorer(endpoint, vocabulary)
    return Judge(f"the language model {config.model}", explainer, scorer, config.concurrency, endpoint)
