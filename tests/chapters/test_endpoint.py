"""The chat endpoint against a real HTTP server on this machine: slow, failing, nonsensical, refusing, killed."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from functools import partial

import numpy as np
import pytest
from chat_server import Server, completion

from dm_utils.chapters.s05_2_saes_on_error.endpoint import (
    KEY_VARIABLES,
    ChatEndpoint,
    EndpointConfig,
    EndpointError,
    MalformedAnswer,
    key_from_environment,
)
from dm_utils.chapters.s05_2_saes_on_error.lm_interp import (
    LIMITS,
    LMExplainer,
    LMScorer,
    estimate_cost,
    make_judge,
    read_decisions,
    read_sentence,
)
from dm_utils.engine.autointerp import Explanation, balanced, interpret
from dm_utils.engine.store import Store
from dm_utils.engine.text_windows import Activity, Examples, WindowPlan

KEY = "sk-secret-1234567890"
QUESTION = [{"role": "user", "content": "hello"}]


@pytest.fixture
def serve():
    """Start servers; stop them afterwards."""
    servers = []

    def start(reply):
        servers.append(Server(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    for name in KEY_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def no_pauses(monkeypatch):
    """Let the client try again at once."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.0)


def client(server, path, **options):
    return ChatEndpoint(EndpointConfig(server.url, "tiny", **options), Store(path))


def ask(endpoint, text="hello"):
    return endpoint.ask([{"role": "user", "content": text}], str.upper, 20)


def test_the_request_is_what_the_protocol_says_and_the_answer_is_parsed(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = serve(lambda body, n: completion("hi"))
    endpoint = client(server, tmp_path)
    assert ask(endpoint) == "HI"
    assert server.bodies == [{"model": "tiny", "messages": QUESTION, "max_tokens": 20, "temperature": 0.0}]
    assert server.keys == [f"Bearer {KEY}"]
    assert (endpoint.tally.prompt_tokens, endpoint.tally.completion_tokens) == (11, 3)


def test_the_projects_own_variable_comes_first_and_no_key_means_no_header(serve, tmp_path, monkeypatch):
    server = serve(lambda body, n: completion("hi"))
    ask(client(server, tmp_path / "a"))
    monkeypatch.setenv("OPENAI_API_KEY", "other")
    monkeypatch.setenv("DM_OPENAI_API_KEY", f" {KEY}\n")
    ask(client(server, tmp_path / "b"))
    assert server.keys == [None, f"Bearer {KEY}"]


def test_an_answer_is_asked_for_once_and_then_read_from_the_store(serve, tmp_path):
    server = serve(lambda body, n: completion(f"answer {n}"))
    first, second = client(server, tmp_path), client(server, tmp_path)
    assert ask(first) == ask(second) == ask(second) == "ANSWER 1"
    assert len(server.bodies) == 1 and second.tally.from_store == 2 and second.tally.sent == 0
    ask(second, "another question")
    assert len(server.bodies) == 2


def test_server_errors_and_lost_connections_are_tried_again(serve, tmp_path, no_pauses):
    replies = [(500, {}, "oops"), None, (503, {}, ""), completion("hi")]
    endpoint = client(serve(lambda body, n: replies[n - 1]), tmp_path)
    assert ask(endpoint) == "HI"
    assert endpoint.tally.retried == 3 and endpoint.tally.sent == 4


def test_an_endpoint_that_keeps_failing_stops_the_run_with_its_last_words(serve, tmp_path, no_pauses):
    endpoint = client(serve(lambda body, n: (500, {}, "disk full")), tmp_path, max_retries=2)
    with pytest.raises(EndpointError, match=r"after 3 tries.*disk full.*run again"):
        ask(endpoint)


def test_nobody_there_is_an_endpoint_error(tmp_path, no_pauses):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(EndpointError, match="ConnectError"):
        ask(ChatEndpoint(EndpointConfig(url, "tiny", max_retries=1), Store(tmp_path)))


def test_a_rate_limit_is_waited_out_for_as_long_as_the_server_asks(serve, tmp_path):
    times = []

    def reply(body, n):
        times.append(time.monotonic())
        return (429, {"Retry-After": "0.4"}, "slow down") if n == 1 else completion("hi")

    endpoint = client(serve(reply), tmp_path)
    assert ask(endpoint) == "HI" and endpoint.tally.rate_limited == 1
    assert 0.4 <= times[1] - times[0] < 2


def test_a_wait_of_an_hour_is_named_and_not_waited_out(serve, tmp_path):
    endpoint = client(serve(lambda body, n: (429, {"Retry-After": "3600"}, "quota used up")), tmp_path)
    with pytest.raises(EndpointError, match=r"after 1 tries.*429 \(it asks to wait: 3600\): quota used up"):
        ask(endpoint)
    assert endpoint.tally.rate_limited == endpoint.tally.sent == 1


def test_a_slow_answer_is_waited_for_and_a_silent_server_times_out(serve, tmp_path, no_pauses):
    def reply(body, n):
        time.sleep(0.3)
        return completion("hi")

    server = serve(reply)
    assert ask(client(server, tmp_path / "a", timeout=5)) == "HI"
    with pytest.raises(EndpointError, match="ReadTimeout"):
        ask(client(server, tmp_path / "b", timeout=0.05, max_retries=1))


@pytest.mark.parametrize(
    "text", ["not json", "[]", "{}", '{"choices": []}', '{"choices": [{"message": {"content": null}}]}']
)
def test_a_body_that_is_no_completion_is_malformed_not_a_crash(serve, tmp_path, text):
    endpoint = client(serve(lambda body, n: (200, {}, text)), tmp_path, malformed_retries=1)
    assert ask(endpoint) is None
    assert (
        endpoint.tally.as_dict() | {"sent": 2, "malformed": 2, "gave_up": 1, "answered": 0} == endpoint.tally.as_dict()
    )


def test_malformed_answers_are_asked_again_and_never_stored(serve, tmp_path):
    def number(text):
        if not text.isdigit():
            raise MalformedAnswer("no number")
        return int(text)

    server = serve(lambda body, n: completion("nonsense" if n < 4 else "17"))
    endpoint = client(server, tmp_path, malformed_retries=1)
    assert endpoint.ask(QUESTION, number, 5) is None  # 1, 2
    assert endpoint.ask(QUESTION, number, 5) == 17  # 3, 4
    assert endpoint.tally.malformed == 3 and endpoint.tally.gave_up == 1
    assert "nonsense" not in "".join(p.read_text() for p in tmp_path.rglob("*.json"))


def test_answers_that_are_all_malformed_stop_the_run_after_the_stated_number_with_the_reason(serve, tmp_path):
    server = serve(lambda body, n: completion("I would rather not."))
    endpoint = client(server, tmp_path, malformed_limit=5)
    with pytest.raises(
        EndpointError, match=r"5 answers in a row .* could not be read.*the last: expected one list, got 0"
    ):
        for i in range(400):
            endpoint.ask([{"role": "user", "content": str(i)}], partial(read_decisions, n=3), 20)
    assert len(server.bodies) == 5


def test_one_answer_that_can_be_read_starts_the_count_anew(serve, tmp_path):
    server = serve(lambda body, n: completion("[1]" if n % 5 == 0 else "no"))
    endpoint = client(server, tmp_path, malformed_limit=5, malformed_retries=0)
    for i in range(20):
        endpoint.ask([{"role": "user", "content": str(i)}], partial(read_decisions, n=1), 20)
    assert endpoint.tally.malformed == 16 and endpoint.tally.answered == 4


def test_a_refused_key_stops_at_once_and_says_which_variable_to_set(serve, tmp_path, monkeypatch):
    server = serve(lambda body, n: (401, {}, f"Incorrect API key provided: {KEY[:5]}***{KEY[-4:]}"))
    with pytest.raises(EndpointError, match=r"no key is set.*DM_OPENAI_API_KEY"):
        ask(client(server, tmp_path))
    monkeypatch.setenv("DM_OPENAI_API_KEY", KEY)
    with pytest.raises(EndpointError, match="the key was refused") as caught:
        ask(client(server, tmp_path))
    assert len(server.bodies) == 2 and KEY[-4:] not in str(caught.value)


def test_a_refused_request_is_not_repeated(serve, tmp_path):
    server = serve(lambda body, n: (404, {}, "model 'tiny' not found"))
    with pytest.raises(EndpointError, match=r"refused the request for model 'tiny'.*404.*not found"):
        ask(client(server, tmp_path))
    assert len(server.bodies) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed_with_the_key(serve, tmp_path, monkeypatch, status):
    monkeypatch.setenv("DM_OPENAI_API_KEY", KEY)
    thief = serve(lambda body, n: completion("hi"))
    server = serve(lambda body, n: (status, {"Location": thief.url + "/chat/completions"}, ""))
    with pytest.raises(EndpointError, match=str(status)):
        ask(client(server, tmp_path))
    assert thief.headers == [] and server.keys == [f"Bearer {KEY}"]


def test_the_key_reaches_no_message_log_record_or_file(serve, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("DM_OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    replies = {
        1: completion(f"your key is {KEY}"),
        2: (400, {"X-Echo": KEY, "Retry-After": KEY}, f"bad key {KEY}"),
        3: (200, {}, f"echo {KEY}"),
        4: (200, {}, KEY),
    }
    endpoint = client(serve(lambda body, n: replies[n]), tmp_path)
    assert ask(endpoint, "a") == "YOUR KEY IS [KEY]"
    with pytest.raises(EndpointError) as caught:
        ask(endpoint, "b")
    assert ask(endpoint, "c") is None
    frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True).stack
    ours = str([(f.name, f.locals) for f in frames if "dm_utils" in f.filename])
    assert "_answer" in ours
    written = "".join(p.read_text() for p in tmp_path.rglob("*") if p.is_file())
    shown = [
        caplog.text,
        repr(endpoint),
        repr(vars(endpoint)),
        repr(endpoint.config),
        ours,
    ]
    assert all(KEY not in text for text in [written, *shown])


def test_a_key_that_cannot_be_a_header_is_refused_unseen(monkeypatch):
    monkeypatch.setenv("DM_OPENAI_API_KEY", "sk-secret\nX-Other: 1")
    with pytest.raises(EndpointError, match="DM_OPENAI_API_KEY") as caught:
        key_from_environment()
    assert "secret" not in str(caught.value)


def test_a_key_never_travels_in_clear_to_another_machine(tmp_path, monkeypatch):
    config = EndpointConfig("http://models.example.org/v1", "tiny")
    ChatEndpoint(config, Store(tmp_path))
    monkeypatch.setenv("DM_OPENAI_API_KEY", KEY)
    with pytest.raises(EndpointError, match=r"plain http to models\.example\.org"):
        ChatEndpoint(config, Store(tmp_path))
    ChatEndpoint(EndpointConfig("https://models.example.org/v1", "tiny"), Store(tmp_path))
    ChatEndpoint(EndpointConfig("http://[::1]:8000/v1", "tiny"), Store(tmp_path))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_proxy_sees_the_key_of_a_server_on_this_machine(serve, tmp_path, monkeypatch, host):
    proxy, server = serve(lambda body, n: completion("from the proxy")), serve(lambda body, n: completion("hi"))
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("DM_OPENAI_API_KEY", KEY)
    url = server.url.replace("127.0.0.1", host)
    assert ask(ChatEndpoint(EndpointConfig(url, "tiny"), Store(tmp_path))) == "HI"
    assert server.keys == [f"Bearer {KEY}"] and not proxy.bodies


def test_nothing_else_of_the_environment_is_sent(serve, tmp_path, monkeypatch):
    secrets = {"OPENAI_ORG_ID": "org-1", "OPENAI_PROJECT_ID": "proj-1", "OPENAI_ADMIN_KEY": "sk-admin"}
    secrets |= {"OPENAI_CUSTOM_HEADERS": "X-Token: t0ken\nAuthorization: Bearer other", "OPENAI_BASE_URL": "http://x"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    server = serve(lambda body, n: completion("hi"))
    assert ask(client(server, tmp_path)) == "HI"
    sent = str(server.headers)
    assert not [word for word in ("org-1", "proj-1", "sk-admin", "t0ken", "other", "Authorization") if word in sent]


@pytest.mark.parametrize(
    "options, name",
    [
        ({"base_url": "localhost:8000"}, "base_url"),
        ({"base_url": "ftp://host/v1"}, "base_url"),
        ({"base_url": f"https://user:{KEY}@host/v1"}, "base_url"),
        ({"base_url": f"https://host/v1?key={KEY}"}, "base_url"),
        ({"model": ""}, "model"),
        ({"concurrency": 0}, "concurrency"),
        ({"max_retries": -1}, "max_retries"),
        ({"malformed_limit": 0}, "malformed_limit"),
    ],
)
def test_a_wrong_setting_is_refused_by_name_without_repeating_secrets(options, name):
    with pytest.raises(ValueError, match=name) as caught:
        EndpointConfig(**{"base_url": "http://localhost/v1", "model": "tiny", **options})
    assert KEY not in str(caught.value)


# --- explaining and scoring through the endpoint ---------------------------------------------------------------------

VOCABULARY = [f" word{i}" for i in range(30)]


def planted(n_latents=6):
    """Latent i marks token i, in random text."""
    ids = np.random.default_rng(0).integers(0, 30, 16000)
    row = np.flatnonzero(ids < n_latents)
    place = np.tile(np.arange(80), 200)
    plan = WindowPlan(window=8, n_explain=5, n_contrast=5, per_decile=2, n_not=10)
    return Activity(
        row, ids[row], np.random.default_rng(1).uniform(1, 2, len(row)), ids, np.repeat(np.arange(200), 80), place, plan
    )


def oracle(body, _):
    """Explains by the marked word, and finds that word again: a perfect model of these planted latents."""
    system, user = (m["content"] for m in body["messages"])
    if "The unit:" not in system:
        return completion("The word " + user.split("<<")[1].split(">>")[0].strip())
    word = system.rsplit(" ", 1)[1]
    excerpts = [json.loads(line.split(". ", 1)[1]) for line in user.splitlines()]
    return completion(f"Sure! {json.dumps([int(word in text.split()) for text in excerpts])}")


def interpret_with(endpoint, activity, workers=4):
    return interpret(activity, LMExplainer(endpoint, VOCABULARY), LMScorer(endpoint, VOCABULARY), workers=workers)


def test_a_model_that_understands_scores_one_on_every_latent(serve, tmp_path):
    scores = interpret_with(client(serve(oracle), tmp_path), planted())
    assert scores.explanations == [f"The word word{i}" for i in range(6)]
    assert np.all(scores.right == 1.0)


def test_the_scorer_is_shown_no_mark_and_the_explainer_no_test_window(serve, tmp_path):
    server, activity = serve(oracle), planted()
    interpret_with(client(server, tmp_path), activity)
    detect = [b["messages"] for b in server.bodies if "The unit:" in b["messages"][0]["content"]]
    explain = [b["messages"] for b in server.bodies if "The unit:" not in b["messages"][0]["content"]]
    assert detect and "<<" not in json.dumps([m[1] for m in detect])
    shown = "".join(m[1]["content"].replace("<<", "").replace(">>", "") for m in explain)
    tests = ["".join(VOCABULARY[t] for t in row) for row in activity.tokens[~activity.explains]]
    assert not any(json.dumps(text) in shown for text in tests)


def test_concurrency_is_used_and_is_the_limit(serve, tmp_path):
    def slow(body, n):
        time.sleep(0.02)
        return oracle(body, n)

    server = serve(slow)
    interpret_with(client(server, tmp_path, concurrency=3), planted(), workers=3)
    assert 2 <= server.most_in_flight <= 3


def test_nonsense_answers_are_counted_and_left_out_of_the_accuracy(serve, tmp_path):
    def sometimes(body, n):
        third = "excerpts" not in body["messages"][0]["content"] or '"1. ' in str(body)
        return (
            completion("[1, 2, maybe]") if "word3" in body["messages"][0]["content"] and not third else oracle(body, n)
        )

    endpoint = client(serve(sometimes), tmp_path)
    scores = interpret_with(endpoint, planted())
    assert scores.n_unanswered == 30 and endpoint.tally.gave_up == 3 and endpoint.tally.malformed == 6
    assert np.isnan(scores.right[3]).all() and np.all(balanced(scores)[[0, 1, 2, 4, 5]] == 1.0)


def test_an_explanation_that_never_came_scores_nothing(serve, tmp_path):
    endpoint = client(serve(lambda body, n: completion("")), tmp_path)
    scores = interpret_with(endpoint, planted(2))
    assert scores.explanations == [None, None] and scores.n_unanswered == 60 and endpoint.tally.sent == 4


def test_a_run_that_died_goes_on_where_it_stopped(serve, tmp_path):
    working = {"limit": 10}
    server = serve(lambda body, n: oracle(body, n) if n <= working["limit"] else (500, {}, ""))
    with pytest.raises(EndpointError):
        interpret_with(client(server, tmp_path, max_retries=0), planted(), workers=1)
    working["limit"], before = 1000, len(server.bodies)
    resumed = client(server, tmp_path)
    scores = interpret_with(resumed, planted())
    assert np.all(scores.right == 1.0)
    assert resumed.tally.from_store == 10 and len(server.bodies) - before == 6 * 4 - 10


def test_a_judge_without_one_readable_decision_says_so(serve, tmp_path):
    def vague(body, n):
        return completion("Perhaps." if "The unit:" in body["messages"][0]["content"] else "A word.")

    judge = make_judge(VOCABULARY, Store(tmp_path), EndpointConfig(serve(vague).url, "tiny", 1))
    with pytest.raises(EndpointError, match=r"none of 90 decisions .* could be read"):
        judge.interpret(planted(), np.arange(3))


KILLED = """
import sys
from dm_utils.chapters.s05_2_saes_on_error.endpoint import ChatEndpoint, EndpointConfig
from dm_utils.engine.store import Store
endpoint = ChatEndpoint(EndpointConfig(sys.argv[1], "tiny"), Store(sys.argv[2]))
for i in range(1000):
    endpoint.ask([{"role": "user", "content": f"question {i}"}], str, 5)
"""


def test_a_killed_process_leaves_every_finished_answer(serve, tmp_path):
    reached = threading.Event()

    def reply(body, n):
        if n == 20:
            reached.set()
            time.sleep(5)
        return completion(str(n))

    server = serve(reply)
    command = [sys.executable, "-c", textwrap.dedent(KILLED), server.url, str(tmp_path)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert reached.wait(30)
    process.send_signal(signal.SIGKILL)
    process.wait()
    endpoint = client(server, tmp_path)
    answers = [endpoint.ask([{"role": "user", "content": f"question {i}"}], str, 5) for i in range(19)]
    assert answers == [str(i + 1) for i in range(19)]
    assert endpoint.tally.from_store == 19 and endpoint.tally.sent == 0


def test_the_estimate_bounds_what_is_sent(serve, tmp_path):
    server = serve(oracle)
    endpoint, activity = client(server, tmp_path), planted()
    cost = estimate_cost(activity.plan, 6, LMScorer(endpoint, VOCABULARY))
    interpret_with(endpoint, activity)
    characters = sum(len(m["content"]) for b in server.bodies for m in b["messages"])
    assert cost.requests == len(server.bodies) == 24
    assert characters / 3.5 <= cost.prompt_tokens <= 1.5 * characters / 3.5
    assert cost.completion_tokens == sum(b["max_tokens"] for b in server.bodies)
    assert str(cost).startswith("24 requests, about ")


def test_the_judge_is_the_model_at_the_address_or_the_rules_when_there_is_none(serve, tmp_path):
    server, activity = serve(oracle), planted()
    rules = make_judge(VOCABULARY, Store(tmp_path))
    assert rules.endpoint is None and "no request" in rules.cost(activity.plan, 6)
    assert rules.interpret(activity, np.arange(6)).explanations == [f"token ' word{i}'" for i in range(6)]
    model = make_judge(VOCABULARY, Store(tmp_path), EndpointConfig(server.url, "tiny", 2))
    assert model.cost(activity.plan, 6).startswith("24 requests") and not server.bodies
    assert np.all(model.interpret(activity, np.arange(6)).right == 1.0)
    assert model.endpoint.tally.answered == 24
    assert set(LIMITS) == {True, False}


@pytest.mark.parametrize("text", ["[1, 0]", "```json\n[true, false]\n```", "Here you are: [1,0]."])
def test_decisions_are_read_in_the_usual_dresses(text):
    assert read_decisions(text, 2) == [True, False]


@pytest.mark.parametrize(
    "text", ["", "1, 0", "[1]", "[1, 0, 1]", "[1, 2]", "[1, 0] or [0, 1]", '["1", "0"]', "[1, null]", "[1 0]"]
)
def test_decisions_that_do_not_fit_the_question_are_malformed(text):
    with pytest.raises(MalformedAnswer):
        read_decisions(text, 2)


def test_an_explanation_is_one_line_of_limited_length():
    assert read_sentence(" Names of\n cities. ") == "Names of cities."
    for text in ("", "  \n", "x" * 601):
        with pytest.raises(MalformedAnswer):
            read_sentence(text)


def test_active_tokens_are_marked_and_neighbours_joined(tmp_path):
    endpoint = ChatEndpoint(EndpointConfig("http://localhost:1/v1", "tiny"), Store(tmp_path))
    examples = Examples(np.array([[1, 2, 3]]), np.array([[0.0, 1.0, 2.0]]), np.empty((0, 3), int))
    assert "<< word2 word3>>" in LMExplainer(endpoint, VOCABULARY).messages(examples)[1]["content"]
    assert Explanation("x").rule is None
