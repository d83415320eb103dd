"""A chat endpoint that speaks the OpenAI protocol: asked politely, resumable, and silent about its key.

Answers are kept in the store under a hash of the question, so a run that was stopped asks only what is missing.  The API key is
read from the environment when a client is made and goes into one request header; it is in no record, message or file.
"""

from __future__ import annotations

import email.utils
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Self, TypeVar

import httpx
from pydantic import SecretStr

from dm_utils.base.errors import ParameterError, shown
from dm_utils.engine.store import Store

log = logging.getLogger(__name__)

#: Environment variables that may hold the key, in the order in which they are tried.
KEY_VARIABLES = ("DM_OPENAI_API_KEY", "OPENAI_API_KEY")
RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})

Answer = TypeVar("Answer")
Message = dict[str, str]


class EndpointError(RuntimeError):
    """The endpoint cannot be used as configured, or gave no answer within the retries."""


class MalformedAnswer(ValueError):
    """An answer came, but not one that the question allows."""


class _Transient(Exception):
    """A failure worth another try; ``wait`` is how many seconds the endpoint asked for, if it did."""

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class EndpointConfig:
    """Where and how to ask; nothing here is secret.

    Attributes
    ----------
    base_url : up to but without ``/chat/completions``, for example ``http://localhost:8000/v1``.
    model : the name under which the endpoint serves its model.
    concurrency : requests in flight at once.
    timeout : seconds to wait for the endpoint to send something.
    max_retries : tries after the first for lost connections, rate limits (429) and server errors (5xx).
    malformed_retries : further tries when an answer cannot be read.
    longest_wait : seconds; upper limit on one pause, whatever the endpoint asks for.
    """

    base_url: str
    model: str
    concurrency: int = 4
    timeout: float = 60.0
    max_retries: int = 6
    malformed_retries: int = 1
    longest_wait: float = 60.0

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.base_url)
        except httpx.InvalidURL as error:
            raise ParameterError(f"endpoint = {shown(self.base_url)}: {error}") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise ParameterError(
                "endpoint: base_url must look like 'https://host/v1'; the one given has no http(s) scheme or no host"
            )
        if url.userinfo or url.query:
            raise ParameterError(
                "endpoint: base_url must not carry a user name, a password or a query: they would be stored and printed; "
                f"put the key into the environment variable {KEY_VARIABLES[0]}"
            )
        if not self.model:
            raise ParameterError("endpoint_model: model is empty; give the name under which the endpoint serves it")
        if self.concurrency < 1 or self.max_retries < 0 or self.malformed_retries < 0 or self.timeout <= 0:
            raise ParameterError(
                f"concurrency {self.concurrency} and timeout {self.timeout} must be positive, max_retries "
                f"{self.max_retries} and malformed_retries {self.malformed_retries} at least 0"
            )


@dataclass
class Tally:
    """What happened so far; every count is shown in the chapter."""

    answered: int = 0  # valid answers, fresh or stored
    from_store: int = 0  # of these, read from the store
    sent: int = 0  # requests sent, retries included
    retried: int = 0  # lost connections, server errors and rate limits that were tried again
    rate_limited: int = 0  # of these, rate limits
    malformed: int = 0  # answers that could not be read
    gave_up: int = 0  # questions left without a valid answer because of that
    prompt_tokens: int = 0  # as reported by the endpoint
    completion_tokens: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, **counts: int) -> None:
        """Add to the counts; safe from any thread."""
        with self._lock:
            for name, n in counts.items():
                setattr(self, name, getattr(self, name) + n)

    def as_dict(self) -> dict[str, int]:
        """The counts, for a table."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


class ChatEndpoint:
    """Asks chat questions of an OpenAI-compatible endpoint; safe to use from several threads.

    Parameters
    ----------
    config : EndpointConfig
    store : Store
        Where valid answers are kept.

    Raises
    ------
    EndpointError
        When the key cannot be a header, or would travel in clear: plain http to another machine.
    """

    def __init__(self, config: EndpointConfig, store: Store):
        self.config, self.store, self.tally = config, store, Tally()
        self._key = key_from_environment()
        url = httpx.URL(config.base_url)
        if self._key and url.scheme == "http" and not _is_this_machine(url.host):
            raise EndpointError(
                f"refusing to send a key over plain http to {url.host}: use https, or unset {' and '.join(KEY_VARIABLES)} "
                "if the endpoint needs none"
            )
        headers = {"Authorization": f"Bearer {self._key.get_secret_value()}"} if self._key else {}
        limits = httpx.Limits(max_connections=config.concurrency)
        self._client = httpx.Client(headers=headers, timeout=config.timeout, follow_redirects=False, limits=limits)
        self._resume_at, self._lock = 0.0, threading.Lock()

    def __repr__(self) -> str:
        key = "set" if self._key else "not set"
        return f"ChatEndpoint({self.config.base_url!r}, model={self.config.model!r}, key {key})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(self, messages: Sequence[Message], parse: Callable[[str], Answer], max_tokens: int) -> Answer | None:
        """The parsed answer, from the store if it was given before; None when every try was malformed.

        Parameters
        ----------
        messages : the conversation, ``{"role": ..., "content": ...}`` each.
        parse : turns the answer's text into what is wanted; raises `MalformedAnswer` when it cannot.
        max_tokens : upper limit on the answer's length.

        Raises
        ------
        EndpointError
            When the endpoint refuses the question or the key, or does not answer within the retries.
        """
        body, fresh = self._body(messages, max_tokens), []

        def fetch() -> tuple[Any, None]:
            fresh.append(True)
            return {"text": self._fetch(body, parse)}, None

        try:
            data, _ = self.store.kept("chat", self._store_key(body), fetch, sources=())
        except MalformedAnswer as fault:
            log.info("no valid answer after %d tries: %s", self.config.malformed_retries + 1, fault)
            self.tally.add(gave_up=1)
            return None
        self.tally.add(answered=1, from_store=0 if fresh else 1)
        return parse(data["text"])

    def _body(self, messages: Sequence[Message], max_tokens: int) -> dict[str, Any]:
        return {
            "model": self.config.model,
            "messages": list(messages),
            "max_tokens": max_tokens,
            "temperature": 0.0,
        }

    def _store_key(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"base_url": self.config.base_url.rstrip("/"), **body}

    def _fetch(self, body: dict[str, Any], parse: Callable[[str], Any]) -> str:
        """Send until an answer parses; count and space the tries."""
        failures = malformed = 0
        while True:
            try:
                text = self._send(body)
                parse(text)
                return text
            except MalformedAnswer:
                malformed += 1
                self.tally.add(malformed=1)
                if malformed > self.config.malformed_retries:
                    raise
            except _Transient as fault:
                failures += 1
                if failures > self.config.max_retries:
                    raise EndpointError(
                        f"{self.config.base_url} gave no answer after {failures} tries; the last: {fault}. "
                        "Answers so far are stored: run again to go on from there"
                    ) from None
                self.tally.add(retried=1)
                self._hold(failures, fault.wait)

    def _send(self, body: dict[str, Any]) -> str:
        """One request; the text of its answer, or an exception that says whether to try again."""
        self._wait_for_turn()
        self.tally.add(sent=1)
        url = self.config.base_url.rstrip("/") + "/chat/completions"
        try:
            response = self._client.post(url, json=body)
        except httpx.TransportError as fault:
            raise _Transient(f"{type(fault).__name__}: {self._clean(str(fault))}") from None
        if response.status_code == 200:
            return self._text_of(response)
        if response.status_code in (401, 403):
            raise EndpointError(self._refused_key(response.status_code))
        what = f"HTTP {response.status_code}: {self._clean(response.text)[:200]}"
        if response.status_code not in RETRIED_STATUS:
            raise EndpointError(f"{self.config.base_url} refused the request for model {self.config.model!r}: {what}")
        self.tally.add(rate_limited=int(response.status_code == 429))
        raise _Transient(what, retry_after(response.headers.get("Retry-After")))

    def _text_of(self, response: httpx.Response) -> str:
        try:
            answer = response.json()
            text = answer["choices"][0]["message"]["content"]
            usage = answer.get("usage") or {}
            tokens = {name: int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")}
        except (ValueError, LookupError, TypeError, AttributeError):
            start = self._clean(response.text)[:80]
            raise MalformedAnswer(f"the body is not a chat completion; it starts {start!r}") from None
        if not isinstance(text, str):
            raise MalformedAnswer(f"the answer holds {type(text).__name__} instead of text")
        self.tally.add(**tokens)
        return self._clean(text)

    def _refused_key(self, status: int) -> str:
        state = "the key was refused" if self._key else "no key is set"
        return (
            f"{self.config.base_url} answered HTTP {status} and {state}: put a valid key into the environment variable "
            f"{KEY_VARIABLES[0]} (or {KEY_VARIABLES[1]})"
        )

    def _clean(self, text: str) -> str:
        """The text without the key, should an endpoint send it back."""
        return text.replace(self._key.get_secret_value(), "[key]") if self._key else text

    def _hold(self, failures: int, asked_for: float | None) -> None:
        """Set when the next request may leave: every thread waits, so that one refusal slows all of them."""
        wait = random.uniform(0.5, 1.0) * 2.0 ** (failures - 1) if asked_for is None else asked_for
        with self._lock:
            self._resume_at = max(self._resume_at, time.monotonic() + min(wait, self.config.longest_wait))

    def _wait_for_turn(self) -> None:
        while (left := self._resume_at - time.monotonic()) > 0:
            time.sleep(left)


def key_from_environment() -> SecretStr | None:
    """The key from the first of `KEY_VARIABLES` that is set; its value is never shown, not even in the error."""
    name = next((name for name in KEY_VARIABLES if os.environ.get(name, "").strip()), None)
    if name is None:
        return None
    key = os.environ[name].strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise EndpointError(
            f"the key in {name} holds a character that no key has (a space, line break or accent): set it anew"
        )
    return SecretStr(key)


def retry_after(header: str | None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for: a number, or a date; None when there is none or it is unreadable."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
