"""Models behind an API: right answer to the right prompt, faults, what a killed run keeps, and a real server."""

import asyncio
import gzip
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import tracemalloc
import zlib
from collections import Counter, defaultdict
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import openai
import pytest
from scipy.stats import chisquare

import sua
from sua.models.choice import ChoiceLM
from sua.models.letters import letter_prompt, named_option, read_answers, read_logprobs
from sua.models.remote import TEMPLATE, RemoteError, RemoteLM
from sua.models.verbalised import confidence_prompt
from sua.paths import NotAvailableError
from sua.perturb import KERNELS, OPTION_ORDER, on_first, variants
from sua.predictions import Model

QUESTIONS = [(f"what is number {i}", "one", "two", "three", "four")[:5 - i % 3] for i in range(24)]
KEY = "sk-do-not-show-me"
pytestmark = pytest.mark.filterwarnings("ignore:model 'm'. of")  # two options of five letters hold less than half


class Server(ThreadingHTTPServer):
    """A chat endpoint on a free port: `script(request, attempt) -> (status, body, headers)`, or None to hang up."""

    daemon_threads = True

    def __init__(self, script):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.lock, self.attempts, self.times = script, threading.Lock(), Counter(), defaultdict(list)
        self.busy = self.busiest = 0
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        """Silent: a client that timed out or was killed reads no answer."""

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server, body = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        request = json.loads(body)
        with server.lock:
            server.attempts[body] += 1
            server.times[prompt_of(request)].append(time.monotonic())
            server.busy += 1
            server.busiest = max(server.busy, server.busiest)
            attempt = server.attempts[body]
        answer = server.script(request, attempt)
        with server.lock:
            server.busy -= 1
        if answer is None:
            return self.connection.close()
        status, text, headers = answer
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(text), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


def prompt_of(request):
    return request["messages"][0]["content"]


def completion(text="", top=None):
    """The answer of a server that lists log-probabilities where `top`, {token: probability}, is given."""
    listed = [{"token": token, "logprob": float(np.log(p))} for token, p in (top or {}).items()]
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text},
              "logprobs": top and {"content": [{"token": text, "logprob": 0, "top_logprobs": listed}]}}
    return 200, json.dumps({"id": "0", "object": "chat.completion", "model": "m", "choices": [choice]}).encode(), {}


def letters_of(prompt):
    """What the scripted model lists for a prompt: like no other prompt's."""
    p = np.random.default_rng(zlib.crc32(prompt.encode())).dirichlet([1, 1, 1, 1, 1, 0.1])
    return dict(zip([" A", "B", "c.", "(D", "a", "the"], p.tolist()))


def expected_row(row):
    p = list(letters_of(letter_prompt(row[0], row[1:])).values())
    mass = [p[0] + p[4], *p[1:4]][:len(row) - 1]
    return np.pad(np.array(mass) / sum(mass), (0, 5 - len(row)))


def scripted(request, attempt):
    return completion(top=letters_of(prompt_of(request)))


@pytest.fixture(autouse=True)
def short_delays(monkeypatch):
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.01)


@pytest.mark.parametrize("in_a_running_loop", [False, True])
def test_answers_that_arrive_in_any_order_meet_their_prompt_and_equal_inputs_are_sent_once(in_a_running_loop):
    def slow(request, attempt):
        time.sleep(random.Random(prompt_of(request)).uniform(0, 0.1))
        return scripted(request, attempt)

    asked = [QUESTIONS[i] for i in np.random.default_rng(0).integers(len(QUESTIONS), size=60)]
    with Server(slow) as server:
        model = RemoteLM(server.url, "m", concurrency=6)

        async def in_loop():
            return model.predict_proba(asked)

        probs = asyncio.run(in_loop()) if in_a_running_loop else model.predict_proba(asked)
    np.testing.assert_allclose(probs, [expected_row(row) for row in asked], atol=1e-12)
    assert set(server.attempts.values()) == {1} and len(server.attempts) == len(set(asked))
    assert 1 < server.busiest <= 6 and isinstance(model, Model)


def test_every_form_of_input_becomes_the_prompt_that_it_says():
    with Server(scripted) as server:
        free = RemoteLM(server.url, "m")
        fixed = RemoteLM(server.url, "m", answers=("no", "yes"), template='{"x": "{question}>{options}"}')
        question, *options = QUESTIONS[0]
        as_dict = free.predict_proba([{"question": question, "choices": options}])
        assert (as_dict == free.predict_proba(QUESTIONS[:1])).all()
        assert fixed.predict_proba(["{options}", ("it", "is")]).shape == (2, 2)
        assert set(server.times) == {'{"x": "{options}>A. no\nB. yes"}', '{"x": "it\nis>A. no\nB. yes"}', (
            "what is number 0\n\nA. one\nB. two\nC. three\nD. four\n\n"
            "Answer with the letter of the right option and nothing else.")}
        predictions = sua.predict(free, QUESTIONS[:3], on_first(KERNELS["typos"]), k=2)
    assert predictions.perturbed.shape == (3, 2, 4) and np.isfinite(sua.score(predictions, "sua")).all()


def test_an_orbit_is_asked_behind_an_api_each_prompt_once():
    question = QUESTIONS[0]
    orders = [(question[0], *order) for order in itertools.permutations(question[1:])]
    with Server(scripted) as server:
        orbit = sua.OrbitModel(RemoteLM(server.url, "m"), OPTION_ORDER, k=30)  # 23 other orders, seven of them twice
        found = orbit.predict_proba([question, question])
        assert set(server.times) == {letter_prompt(order[0], order[1:]) for order in orders}
        assert all(len(times) == 1 for times in server.times.values())
    drawn = [question, *variants([question], OPTION_ORDER, 30)[0]]
    by_text = [dict(zip(order[1:], expected_row(order))) for order in drawn]
    mean = [np.mean([row[option] for row in by_text]) for option in question[1:]]
    assert found == pytest.approx(np.array([mean, mean]), abs=1e-9)


def test_faults_are_tried_again_and_retry_after_is_waited_for():
    faults = [(500, b"{}", {}), (200, b"<html>busy", {}), (200, b'{"choices": []}', {}), (200, b"[1]", {}), None,
              (429, b"{}", {"Retry-After": 1})]

    def script(request, attempt):
        return faults[attempt - 1] if attempt <= len(faults) else scripted(request, attempt)

    with Server(script) as server:
        model = RemoteLM(server.url, "m", retries=len(faults))
        np.testing.assert_allclose(model.predict_proba(QUESTIONS[:2]), [expected_row(q) for q in QUESTIONS[:2]])
    for times in server.times.values():
        gaps = np.diff(times)
        assert len(times) == len(faults) + 1 and 1 <= gaps[-1] < 2 and gaps[:-1].max() < 1


def test_a_silent_server_is_asked_again():
    with Server(lambda request, attempt: time.sleep(attempt == 1) or scripted(request, attempt)) as server:
        model = RemoteLM(server.url, "m", timeout=0.2)
        np.testing.assert_allclose(model.predict_proba(QUESTIONS[:1]), [expected_row(QUESTIONS[0])])
    assert list(server.attempts.values()) == [2]


@pytest.mark.parametrize("fault, status, attempts, said", [
    ((401, f'{{"error": {{"message": "wrong key {KEY}"}}}}'.encode(), {}), 401, 1, ["wrong key [api_key]", "api_key"]),
    ((404, b'{"error": {"message": "no model m"}}', {}), 404, 1, ["no model m", "/v1"]),
    ((422, b'{"detail": "seed?"}', {}), 422, 1, ["seed?", "parameters"]),
    ((429, b"{}", {}), 429, 3, ["lower concurrency"]),
    ((503, b"{}", {}), 503, 3, ["server's log"]),
    ((200, b'{"choices": null}', {}), None, 3, ["not a chat completion", "base_url"]),
    (None, None, 3, ["Connection error"]),
])
def test_a_final_failure_names_input_status_and_remedy_and_keeps_the_rest(tmp_path, fault, status, attempts, said):
    broken, bad = True, QUESTIONS[3]

    def script(request, attempt):
        if broken and bad[0] in prompt_of(request):
            return fault
        time.sleep(0.05 * broken)
        return scripted(request, attempt)

    with Server(script) as server:
        model = RemoteLM(server.url, "m", retries=2, concurrency=3, cache=tmp_path, api_key=KEY)
        with pytest.raises(RemoteError) as error:
            model.predict_proba(QUESTIONS)
        text = "".join(traceback.format_exception(error.value))
        assert error.value.status == status and KEY not in text and "run again" in text
        for part in (str(bad), f"status {status}", *said):
            assert part in str(error.value)
        assert len(server.times[letter_prompt(bad[0], bad[1:])]) == attempts
        kept = len(list(tmp_path.iterdir()))
        assert 3 <= kept == len(server.times) - 1 < len(QUESTIONS) - 1  # what had begun is kept, the rest not begun
        broken = False
        server.attempts.clear()
        np.testing.assert_allclose(model.predict_proba(QUESTIONS), [expected_row(q) for q in QUESTIONS])
        assert len(server.attempts) == len(QUESTIONS) - kept
    assert KEY not in "".join(file.read_text() for file in tmp_path.iterdir()) + repr(vars(model))


def test_no_server_is_a_final_failure_that_says_where_it_was_looked_for():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(RemoteError, match=f"at http://{address}/v1/ failed with status None.*refused.*cache folder"):
        RemoteLM(f"http://me:{KEY}@{address}/v1?key={KEY}", "m", retries=1).predict_proba(QUESTIONS[:1])


REFUSED = (400, b'{"error": {"message": "logprobs are not supported"}}', {})
SAID = {"A": 0, "(b)": 1, "C. three": 2, "no idea": 3, "The answer is B": 1}  # 3: names none


@pytest.mark.parametrize("first", ["ignores", "refuses", "not asked"])
def test_without_log_probabilities_answers_are_sampled_and_counted(tmp_path, first):
    given = defaultdict(list)

    def script(request, attempt):
        if "logprobs" in request:
            return completion("A") if first == "ignores" else REFUSED
        text = random.Random(request["seed"]).choice(list(SAID))
        with server.lock:
            given[prompt_of(request)].append(SAID[text])
        return completion(text)

    rows = [*QUESTIONS[:6:3], *QUESTIONS[:6:3]]
    with Server(script) as server:
        model = RemoteLM(server.url, "m", samples=30, cache=tmp_path, logprobs=first != "not asked")
        with nullcontext() if first == "not asked" else pytest.warns(UserWarning, match="30 answers per input"):
            probs = model.predict_proba(rows)
        for row, p, readable in zip(rows, probs, model.readable, strict=True):
            counts = np.bincount(given[letter_prompt(row[0], row[1:])], minlength=4)
            assert counts.sum() == 30 and (counts > 0).all() and readable == counts[:3].sum() / 30
            np.testing.assert_allclose(p, (np.append(counts[:3], 0) + 0.5) / (counts[:3].sum() + 2))
        sent = sum(server.attempts.values())
        sampled = [request for request in map(json.loads, server.attempts) if "logprobs" not in request]
        assert len({request["seed"] for request in sampled}) == 60 == sent - (first != "not asked")
        assert (model.predict_proba(rows) == probs).all()
        answers = model.sample(rows, 30, max_tokens=16)
        assert sum(server.attempts.values()) == sent  # all from the cache
        assert [Counter(SAID[text] for text in texts) for texts in answers] == [
            Counter(given[letter_prompt(row[0], row[1:])]) for row in rows]
        assert len(model.sample(["tell me"], 2)[0]) == len(server.times["tell me"]) == 2


def test_answers_that_name_no_option_are_reported():
    with Server(lambda request, attempt: completion(top={"The": 0.9, "B": 0.1})) as server:
        model = RemoteLM(server.url, "m")
        with pytest.warns(UserWarning, match="1 of 1 inputs less than half.*logprobs=False"):
            model.predict_proba(QUESTIONS[:1])
        np.testing.assert_allclose(model.readable, [0.1])


def chat(text="A", **logprobs):
    """A completion with any content and any {token: log-probability}, allowed or not."""
    listed = [{"token": token, "logprob": value} for token, value in logprobs.items()]
    choice = {"message": {"role": "assistant", "content": text},
              "logprobs": {"content": [{"top_logprobs": listed}]} if listed else None}
    return 200, json.dumps({"choices": [choice]}).encode(), {}


@pytest.mark.parametrize("bad", [
    chat(A=float("nan")), chat(A=float("inf")), chat(A=1e308), chat(A=10 ** 400), chat(A=None), chat(A="0"),
    chat(A=0.0, B=0.0), chat(5, A=-0.1), chat(["A"], A=-0.1),
    (200, b'{"choices": [{"message": {"content": "A"}, "logprobs": {"content": [{"top_logprobs": 3}]}}]}', {}),
    (200, b"[" * 100_000, {})],
    ids=["nan", "inf", "1e308", "huge", "null", "text", "sum", "number", "list", "no list", "deep"])
def test_only_answers_that_can_be_read_are_kept(tmp_path, bad):
    with Server(lambda request, attempt: bad if attempt < 3 else chat(A=-0.2, B=-1.8)) as server:
        failing = RemoteLM(server.url, "m", retries=1, cache=tmp_path)
        with pytest.raises(RemoteError, match="status None.*not a chat completion"):
            failing.predict_proba(QUESTIONS[:1])
        assert list(tmp_path.iterdir()) == []
        probs = failing.predict_proba(QUESTIONS[:1])
    assert probs[0, 0] > 0.8 and np.isfinite(probs).all()


def test_no_content_is_an_empty_answer_and_impossible_tokens_have_probability_0(tmp_path):
    with Server(lambda request, attempt: chat(None, A=-0.1, B=float("-inf"))) as server:
        model = RemoteLM(server.url, "m", cache=tmp_path)
        for _ in range(2):  # from the server, from the cache
            np.testing.assert_allclose(model.predict_proba([("q", "yes", "no")]), [[1, 0]], atol=0.1)
            assert model.sample(["q"], 1) == [[""]]


@pytest.mark.parametrize("damaged", [
    b"", b"null", b"[]", b"{}", b"3", b'"answer"', b"\xff\xfe", b"[" * 100_000, b'{"answer": null}', b'{"answer": []}',
    b'{"answer": {}}', b'{"answer": {"text": 5, "top": []}}', b'{"answer": {"text": "A", "top": 3}}',
    b'{"answer": {"text": "A", "top": [["A", NaN]]}}', b'{"answer": {"text": "A", "top": [["A"]]}}'])
def test_what_is_damaged_in_the_cache_is_asked_again(tmp_path, damaged):
    with Server(scripted) as server:
        model = RemoteLM(server.url, "m", cache=tmp_path)
        probs = model.predict_proba(QUESTIONS[:1])
        (file,) = tmp_path.iterdir()
        file.write_bytes(damaged)
        assert (model.predict_proba(QUESTIONS[:1]) == probs).all()
        assert (model.predict_proba(QUESTIONS[:1]) == probs).all() and list(server.attempts.values()) == [2]


@pytest.mark.parametrize("key", [KEY, 'sk-"quoted"-\\-key'])
def test_a_key_that_the_server_repeats_reaches_neither_cache_nor_answer(tmp_path, key):
    with Server(lambda request, attempt: chat(f"your key is {key}", **{key: -3.0, "A": -0.1})) as server:
        model = RemoteLM(server.url, "m", cache=tmp_path, api_key=key)
        model.predict_proba(QUESTIONS[:1])
        for _ in range(2):
            assert model.sample([f"what is {key}"], 1) == [["your key is [api_key]"]]
    kept = [json.loads(file.read_text()) for file in tmp_path.iterdir()]
    assert len(kept) == 2 and key not in str(kept) and json.dumps(key)[1:-1] not in json.dumps(kept)


def test_a_short_key_is_no_secret_and_leaves_answers_as_they_are():
    with Server(lambda request, attempt: chat("a")) as server:
        assert RemoteLM(server.url, "m", api_key="a").sample(["q"], 1) == [["a"]]


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("before", range(180, 310, 7))
def test_no_part_of_a_key_is_left_where_an_error_is_cut(status, before):
    with Server(lambda request, attempt: (status, b"x" * before + KEY.encode(), {})) as server:
        with pytest.raises(RemoteError) as error:
            RemoteLM(server.url, "m", retries=0, api_key=KEY).sample(["q"], 1)
    assert KEY[:6] not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("packed", [True, False])
def test_an_answer_without_end_is_cut(status, packed):
    endless = b'{"choices": [{"message": {"content": "' + b"a" * (1 << 26)
    body, headers = (gzip.compress(endless, 1), {"Content-Encoding": "gzip"}) if packed else (endless, {})
    tracemalloc.start()
    with Server(lambda request, attempt: (status, body, headers)) as server:
        with pytest.raises(RemoteError, match="an answer of more than 16 MiB"):
            RemoteLM(server.url, "m", retries=0).sample(["q"], 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 26


def test_inputs_with_one_prompt_may_be_answered_at_once(tmp_path):
    rows = [("a\nb", "c"), ("a", "b\nc"), ("a", "b", "c"), "a\nb\nc"]
    with Server(lambda request, attempt: chat("yes" + " " * 10 ** 6)) as server:  # long enough to be written at once
        for i in range(3):
            model = RemoteLM(server.url, "m", answers=("yes", "no"), logprobs=False, samples=2, cache=tmp_path / f"{i}")
            model.predict_proba(rows)
            assert len(list((tmp_path / f"{i}").iterdir())) == 2


CLIENT = """
import sys
from sua.models.remote import RemoteLM
url, cache, n = sys.argv[1:]
model = RemoteLM(url, "m", cache=cache, concurrency=4)
model.predict_proba([(f"what is number {i}", "one", "two") for i in range(int(n))])
"""


def test_a_killed_process_resumes_without_repeating_an_answered_request(tmp_path):
    n, free = 30, threading.Semaphore(12)

    def script(request, attempt):
        free.acquire()
        return scripted(request, attempt)

    with Server(script) as server:
        command = [sys.executable, "-c", CLIENT, server.url, str(tmp_path), str(n)]
        process = subprocess.Popen(command)
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("[!.]*.json"))) < 12 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        answered = {prompt_of(json.loads(file.read_text())["request"]) for file in tmp_path.glob("[!.]*")}
        assert len(answered) == 12 and len(server.times) <= 12 + 4
        free.release(10 ** 6)
        torn = next(tmp_path.glob("[!.]*"))
        lost = prompt_of(json.loads(torn.read_text())["request"])
        torn.write_text(torn.read_text()[:20])  # as after a power cut
        subprocess.run(command, check=True)
    assert len(server.times) == n and all(len(server.times[prompt]) == 1 + (prompt == lost) for prompt in answered)
    assert len(list(tmp_path.glob("[!.]*"))) == n


def test_a_list_of_log_probabilities_by_hand():
    e = lambda **p: [(token.replace("_", " "), np.log(value)) for token, value in p.items()]
    readable, p = read_logprobs(e(_A=0.5, A=0.1, b_=0.2, the=0.15, E=0.01), 3)
    np.testing.assert_allclose((readable, *p), (0.8, 0.6 / 0.81, 0.2 / 0.81, 0.01 / 0.81))  # C: the smallest listed
    readable, p = read_logprobs(e(A=0.5, x=0.3, y=0.2 - 0.03), 3)
    np.testing.assert_allclose((readable, *p), (0.5, 0.5 / 0.53, 0.015 / 0.53, 0.015 / 0.53))  # half of what is left
    for nothing in ([], e(the=0.9, E=0.1, AB=0.2), [("A", -9999.0)]):
        readable, p = read_logprobs(nothing, 4)
        assert readable == 0 and (p == 0.25).all()


@pytest.mark.parametrize("seed", range(5))
def test_unlisted_letters_get_at_least_what_they_can_have(seed):
    rng = np.random.default_rng(seed)
    vocabulary = [*"ABCDE", *(f"word{i}" for i in range(40))]
    truth = rng.dirichlet(np.full(45, 0.3))
    top = np.argsort(-truth)[:20]
    readable, p = read_logprobs([(vocabulary[i], np.log(truth[i])) for i in top], 5)
    unlisted = ~np.isin(np.arange(5), top)
    unnormalised = p * readable / p[~unlisted].sum()
    np.testing.assert_allclose(unnormalised[~unlisted], truth[:5][~unlisted])
    assert unnormalised[unlisted].sum() >= min(truth[:5][unlisted].sum(), truth[top].min() * unlisted.any())
    assert unnormalised[unlisted].sum() <= 1 - truth[top].sum() + 1e-12


@pytest.mark.parametrize("text, k", [
    ("A", 0), (" b\n", 1), ("(c)", 2), ("**B**", 1), ("B. Paris", 1), ("C: because", 2), ("A\nas it is", 0),
    ("The answer is B.", 1), ("answer: **C**", 2), ("Paris.", 1), ("\"a bird\"", 2), ("C++", 0),
    ("A bird in the hand", None), ("D", None), ("I'm not sure", None), ("Paris or Rome", None), ("", None),
    ("the answer is a bird", None), ("AB", None),
])
def test_which_option_an_answer_names(text, k):
    assert named_option(text, ["c++", "Paris", "A bird"]) == k


def test_sampled_answers_that_name_nothing_leave_the_uniform():
    readable, p = read_answers(["hm", "?"], ["x", "y", "z"])
    assert readable == 0 and (p == 1 / 3).all()


@pytest.mark.parametrize("given, inputs, said", [
    ({}, ["no options"], "'no options'.* has 0 options.*tuple .question, option_1"),
    ({}, [tuple("q" * 28)], "has 27 options, expected 2 to 26"),
    ({}, [], "inputs is empty"),
    ({}, [("q", "a", "")], r"inputs\[0\] = .* is empty or not text"),
    ({"answers": "xy"}, ["fine", None], r"inputs\[1\] = .None.* is empty or not text"),
    ({}, [{"question": "q"}], r"inputs\[0\] = {'question': 'q'}: a dict has .*choices"),
    ({"template": "Q: {question}"}, ["q"], r"template = .*lacks .*{options}"),
    ({"template": "{question}"}, [("{options}?", "a", "b"), ("q", "a", "b")], "the prompt 'q' has no {options}"),
    ({"samples": 0}, ["q"], "samples = 0: give at least 1"),
    ({"parameters": {"seed": 1}}, ["q"], "parameters has seed"),
])
def test_bad_inputs_are_named_before_a_request_is_sent(given, inputs, said):
    with pytest.raises(ValueError, match=said):
        RemoteLM("http://127.0.0.1:9/v1", "m", **given).predict_proba(inputs)


WORDS = ["[PAD]", "[EOS]", "[UNK]", "<user>", "<assistant>", *"ABCD", "what", "is", "the", "sea", "film", "people"]


@pytest.fixture(scope="module")
def tiny_chat(tmp_path_factory):
    """A random Llama with a word-level tokenizer and a chat template, saved as a hub folder, and its address when
    `transformers serve` serves it."""
    pytest.importorskip("fastapi", reason="transformers serve needs fastapi and uvicorn (transformers[serving])")
    pytest.importorskip("uvicorn", reason="transformers serve needs fastapi and uvicorn (transformers[serving])")
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers.cli.serve import Serve

    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.add_special_tokens(WORDS[:5])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", eos_token="[EOS]",
                                                     unk_token="[UNK]")
    tokenizer.chat_template = ("{% for m in messages %}<user>{{ m['content'] }}[EOS]{% endfor %}"
                               "{% if add_generation_prompt %}<assistant>{% endif %}")
    torch.manual_seed(0)  # and weights wide enough that the answer depends on the prompt
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        initializer_range=0.2, max_position_embeddings=128, bos_token_id=None, eos_token_id=1, pad_token_id=0)).eval()
    model.generation_config.do_sample = True  # the server is greedy otherwise
    folder = tmp_path_factory.mktemp("tiny-chat")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = Serve(str(folder), host="127.0.0.1", port=port, device="cpu", non_blocking=True, log_level="error")
    deadline = time.monotonic() + 30
    while not serve.server.started and time.monotonic() < deadline:
        time.sleep(0.05)
    yield model, tokenizer, str(folder), f"http://127.0.0.1:{port}/v1"
    serve.kill_server()


def test_frequencies_from_transformers_serve_are_the_models_probabilities(tiny_chat):
    import torch

    model, tokenizer, folder, url = tiny_chat
    rows, m = [("what is film", "people", "the people"), ("what is the people", "people", "the sea")], 150
    remote = RemoteLM(url, folder, samples=m, concurrency=1, parameters={"max_tokens": 1}, name="m")
    with pytest.warns(UserWarning, match="lists no log-probabilities"):
        probs = remote.predict_proba(rows)
    for row, p, readable in zip(rows, probs, remote.readable):
        chat = tokenizer.apply_chat_template([{"role": "user", "content": letter_prompt(row[0], row[1:])}],
                                             add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.inference_mode():
            exact = dict(zip(WORDS, model(**chat).logits[0, -1].double().softmax(-1).tolist()))
        counts = p * (readable * m + 1) - 0.5
        named = [exact[letter] + exact.get(option, 0) for letter, option in zip("AB", row[1:])]  # "people" is an answer
        shares = np.array([*named, 1 - sum(named)])
        assert (m * shares).min() > 5 and chisquare([*counts, m - counts.sum()], m * shares).pvalue > 0.01
    assert np.ptp(probs, axis=0).max() > 0.1
    with pytest.raises(RemoteError, match="status 400.*Server is pinned"):
        RemoteLM(url, "another", retries=0).sample(["what"], 1)


def listing(model, tokenizer):
    """A server's script: the likeliest first tokens of the model's reply, as vLLM, llama.cpp and Ollama list them."""
    import torch

    def script(request, attempt):
        turn = tokenizer.apply_chat_template(request["messages"], add_generation_prompt=True, return_tensors="pt",
                                             return_dict=True)
        with torch.inference_mode():
            p = model(**turn).logits[0, -1].double().softmax(-1)
        top = p.topk(min(request["top_logprobs"], len(p)))
        return completion(top=dict(zip(map(tokenizer.decode, top.indices[:, None].tolist()), top.values.tolist())))

    return script


def assert_log_probabilities_agree(model, tokenizer, rows, folder):
    """What a server of these weights lists is what they say in this process; returns both (N, C) probabilities."""
    local = ChoiceLM(model, tokenizer, score="letter", template=TEMPLATE, chat=True)
    with Server(listing(model, tokenizer)) as server:
        remote = RemoteLM(server.url, "m", cache=folder).predict_proba(rows)
    answers = [json.loads(file.read_bytes()) for file in folder.glob("*.json")]
    listed = {prompt_of(answer["request"]): dict(answer["answer"]["top"]) for answer in answers}
    for row, said in zip(rows, local.outputs(rows)["logits"]):
        top = listed[letter_prompt(row[0], row[1:])]
        found = {letter: top[letter] for letter in "ABCD"[:len(row) - 1] if letter in top}
        assert len(found) > 1
        told = dict(zip("ABCD", said))
        np.testing.assert_allclose([found[letter] - max(found.values()) for letter in found],
                                   [told[letter] - max(told[name] for name in found) for letter in found], atol=1e-3)
    return remote, local.predict_proba(rows)


def test_log_probabilities_of_a_server_are_the_local_ones(tiny_chat, tmp_path):
    model, tokenizer, *_ = tiny_chat
    rows = [("what is film", "people", "the people"), ("what is the people", "sea", "the sea", "film", "is")]
    served, local = assert_log_probabilities_agree(model, tokenizer, rows, tmp_path)
    np.testing.assert_allclose(served, local, atol=1e-5)  # every letter is one token of this vocabulary


@pytest.mark.skipif(not os.environ.get("SUA_SLOW"), reason="needs SmolLM2-135M-Instruct, 93 MB to fetch: SUA_SLOW=1")
def test_log_probabilities_of_a_pretrained_model_are_the_local_ones(tmp_path):
    try:
        lm = sua.load_model("HuggingFaceTB/SmolLM2-135M-Instruct", causal=True, dtype="float32")
    except NotAvailableError as error:
        pytest.skip(f"no place has the model: {error}")
    rows = [("What floats on water?", "iron", "cork", "granite", "gold"), ("Which is larger?", "the Sun", "the Moon"),
            ("What do bees make?", "honey", "milk", "silk")]
    served, local = assert_log_probabilities_agree(lm.model, lm.tokenizer, rows, tmp_path)
    # the server's letters count in every spelling, " A" and "a" beside "A"
    assert (served.argmax(-1) == local.argmax(-1)).all()


# --- confidence in words ---

def test_confidence_in_words_is_paired_with_its_answer_and_refusals_are_counted(tmp_path):
    said = lambda prompt: None if zlib.crc32(prompt.encode()) % 5 == 0 else zlib.crc32(prompt.encode()) % 101
    reply = lambda request, attempt: completion(
        "I cannot say" if (value := said(prompt_of(request))) is None else f"{value}%")
    inputs = [*QUESTIONS, QUESTIONS[0], {"question": QUESTIONS[1][0], "choices": list(QUESTIONS[1][1:])}]
    answers = [i % (len(QUESTIONS[0]) - 3) for i in range(len(inputs))]
    rows = [x if isinstance(x, tuple) else (x["question"], *x["choices"]) for x in inputs]
    expected = [said(confidence_prompt(row[:1], row[1:], answer)) for row, answer in zip(rows, answers)]
    refused = expected.count(None)
    assert 0 < refused < len(inputs)
    with Server(reply) as server:
        model = RemoteLM(server.url, "m", cache=tmp_path)
        for _ in range(2):
            with pytest.warns(UserWarning, match=f"no confidence for {refused} of {len(inputs)} answers"):
                found = model.verbalised(inputs, answers)
            np.testing.assert_allclose(found, [np.nan if value is None else value / 100 for value in expected])
        assert max(server.attempts.values()) == 1  # the second time from the cache
        assert {json.loads(body)["temperature"] for body in server.attempts} == {0}
        text = "a text of its own"
        fixed = RemoteLM(server.url, "m", answers=("yes", "no"))
        value = said(confidence_prompt([text], ("yes", "no"), "maybe"))
        assert value is not None and fixed.verbalised([text], ["maybe"])[0] == pytest.approx(value / 100)
        with pytest.raises(ValueError, match="the answer 7 to .* is none of its 4 options"):
            model.verbalised(QUESTIONS[:1], [7])
        with pytest.raises(ValueError, match="1 answers for 2 inputs"):
            model.verbalised(QUESTIONS[:2], [0])
