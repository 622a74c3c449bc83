"""Language models behind an API: an OpenAI-compatible chat endpoint (vLLM, SGLang, Ollama, ...) as a model.

The prompt lists the options by letter. p(y|x) is read off the log-probabilities of the first answer token or, where
the server has none, counted over sampled answers. Answers are kept under their full request: pairing does not depend
on their order of arrival, and a killed run goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np

from .. import files
from ..extras import need
from ..inputs import LETTERS, OPTIONS, Input, distinct, expect
from .common import progress
from .letters import TEMPLATE, letter_prompt, read_answers, read_logprobs
from .verbalised import confidence_prompt, read_confidence

TOP_LOGPROBS = 20  # the most that servers list by default
LETTER_TOKENS = 16  # room for "The answer is (B)."
OURS = {"model", "messages", "seed", "n", "stream"}  # fields that pair answers with inputs and samples
NO_KEY = "no-api-key-given"  # the client wants one; local servers do not
SHORTEST_KEY = 8  # characters; shorter ones ("EMPTY", "x") are no secret, and may stand in an answer
ROUNDING = 0.01  # nats by which a server's arithmetic may miss a log-probability
LARGEST_ANSWER = 1 << 24  # bytes, decompressed; an answer with 20 log-probabilities per token has thousands
REMEDIES = {
    None: "see that a server answers at base_url, lower concurrency, or raise timeout or retries",
    400: "the server's message says which field it refuses; `parameters` replaces fields of the request",
    401: "give api_key, or set OPENAI_API_KEY, as this server expects it",
    403: "give an api_key that may use this model",
    404: "check base_url (most end in /v1) and the model's name (GET base_url/models lists them)",
    429: "lower concurrency or raise retries",
    500: "see the server's log, lower concurrency or raise retries",
}


class RemoteError(RuntimeError):
    """A request that failed for good. `status`: the HTTP status, None where no usable answer came at all."""

    def __init__(self, message: str, status: int | None):
        super().__init__(message)
        self.status = status


class RemoteLM:
    """A chat model behind an OpenAI-compatible endpoint.

    An input is a tuple (question, option_1, ..., option_C) or a dict {"question": ..., "choices": [...]}; with fixed
    `answers` it is a text or a tuple of texts, and every input has these C options.

    Parameters
    ----------
    base_url, model : where the server is, e.g. "http://localhost:8000/v1", and what it calls the model.
    answers : the C options of every input, in label order.
    api_key : default $OPENAI_API_KEY. Kept in memory alone: neither cache nor errors show it, even where a server
        repeats it, unless it has fewer than 8 characters.
    template : the prompt, with {question} and {options}, which become lines "A. ...". With "{question}" alone an input
        is the whole prompt and says {options} itself, as sua.perturb.formulations("choice_letter") makes it.
    logprobs : False samples even where the server lists log-probabilities, as a model that thinks first needs.
    samples : M, answers drawn per input where log-probabilities are not read. The server must draw: `transformers
        serve`, for one, does so if the model's generation_config says do_sample.
    temperature : 1 leaves the model's distribution as it is; at others servers differ in whether log-probabilities
        follow.
    concurrency : requests under way at a time. timeout : seconds a server may stay silent.
    retries : further attempts after time-outs, answers that are broken, malformed (log-probabilities that are none,
        content that is no text) or of more than 16 MiB, and statuses 408, 409, 429 and 5xx, after
        0.5, 1, 2, ... 8 seconds with jitter, or what Retry-After says up to two minutes.
    cache : a folder for answers, safe to share between runs and processes; what is damaged in it is asked again.
        base_url is no part of an answer's key, so that a server may move: do not share it between different weights
        of one name.
    parameters : further fields of every request, or others in place of ours, for instance
        {"chat_template_kwargs": {"enable_thinking": False}}.

    Attributes
    ----------
    readable : (N,) of the last call: the part of each input's answers that names an option, in probability or among
        the M. A warning counts the rows where it is below one half.

    Raises ValueError for inputs or arguments of another form, RemoteError when the server fails for good.
    """

    def __init__(self, base_url: str, model: str, *, answers: Sequence[str] = (), api_key: str | None = None,
                 template: str = TEMPLATE, logprobs: bool = True, samples: int = 20, temperature: float = 1.0,
                 concurrency: int = 16, timeout: float = 60, retries: int = 5, cache: Path | str | None = None,
                 parameters: Mapping | None = None, name: str | None = None):
        openai = need("openai")
        expect("{question}" in template and (OPTIONS in template or template == "{question}"),
               f"template = {template!r} lacks {{question}} or {{options}}: the prompt needs both")
        for argument, value in (("samples", samples), ("concurrency", concurrency)):
            expect(value >= 1, f"{argument} = {value}: give at least 1")
        self.parameters = dict(parameters or {})
        expect(not (ours := OURS & self.parameters.keys()),
               lambda: f"parameters has {', '.join(sorted(ours))}: these are set for each request")
        self.model, self.answers, self.template, self.samples = model, tuple(answers), template, samples
        self.temperature, self.concurrency = temperature, concurrency
        self.logprobs = None if logprobs else False  # None: the first answer will tell
        self.cache, self.name = cache and Path(cache), name or model
        self._client = openai.OpenAI(
            base_url=base_url, api_key=api_key or os.environ.get("OPENAI_API_KEY") or NO_KEY, timeout=timeout,
            max_retries=retries,
            http_client=openai.DefaultHttpxClient(event_hooks={"response": [self._refuse_malformed]}))

    def predict_proba(self, inputs: Sequence[Input | dict]) -> np.ndarray:
        """(N, C) probabilities; where the number of options varies, C is the largest and absent ones get 0.

        With log-probabilities, " A", "A", "a." all count to option A, and the letters' mass is renormalised. A letter
        that is not among the 20 listed tokens can have no more than the smallest listed probability, and all of them
        no more than the list leaves over: it gets the smaller of the first and an equal share of the second, not 0.
        With samples, the counts k of the answers that name an option give (k_c + 1/2) / (sum k + C/2) (Krichevsky and
        Trofimov, IEEE Trans. Inf. Theory 1981), so that no divergence is infinite; other answers are left out.
        Where nothing names an option, the row is uniform.
        """
        rows, where = self._distinct_rows(inputs)
        for row in rows:
            expect(2 <= (c := len(self._options(row))) <= len(LETTERS),
                   lambda: f"the input {row!r} has {c} options, expected 2 to {len(LETTERS)}: give a tuple (question, "
                   'option_1, option_2, ...), a dict {"question": ..., "choices": [...]}, or the model fixed `answers`')
            self._request(row)  # refuses a prompt without a list
        found = self._from_logprobs(rows) or self._from_samples(rows)
        probs = np.zeros((len(rows), max(len(p) for _, p in found)))
        for into, (_, p) in zip(probs, found):
            into[:len(p)] = p
        self.readable = np.array([share for share, _ in found])[where]
        if unread := (self.readable < 0.5).sum():
            warnings.warn(f"model {self.name!r}: of {unread} of {len(where)} inputs less than half of the answers name "
                          "an option (see `readable`): change the template, or sample a model that does not start "
                          "with the letter (logprobs=False)", stacklevel=2)
        return probs[where]

    def sample(self, inputs: Sequence[Input | dict], m: int, max_tokens: int = 256) -> list[list[str]]:
        """N lists of m sampled answers, as texts: to the question with its options, or to a text as it is.

        Equal inputs get equal answers; where the server honours seeds, they follow from prompt and index.
        """
        expect(m >= 1, f"m = {m}: draw at least one answer per input")
        rows, where = self._distinct_rows(inputs)
        texts = self._texts(rows, m, max_tokens)
        return [texts[i] for i in where]

    def verbalised(self, inputs: Sequence[Input | dict], answers: Sequence[int | str]) -> np.ndarray:
        """(N,) confidence in [0, 1] that the model states in words for an answer to each input; NaN where it refuses
        to.

        answers : N options by their number, such as `Predictions.answers`, or N texts. The model sees the question, its
        options and the answer, and replies once, at temperature 0. Replies are read by `read_confidence`; a warning
        counts the refusals. Put 1 - confidence into metrics as a score; what to make of NaN is yours to say. ValueError
        for another number of answers, or an option that does not exist.
        """
        rows, where = self._distinct_rows(inputs)
        expect(len(answers) == len(where), lambda: f"{len(answers)} answers for {len(where)} inputs: give one for each")
        prompts, jobs = [], {}
        for i, answer in zip(where, answers):
            options = self._options(rows[i])
            prompts.append(confidence_prompt(rows[i][:len(rows[i]) - len(options)], options, answer))
            request = self._request(rows[i], max_tokens=LETTER_TOKENS, temperature=0)
            jobs[prompts[-1]] = rows[i], {**request, "messages": [{"role": "user", "content": prompts[-1]}]}
        said = {prompt: read_confidence(reply["text"]) for prompt, reply in zip(jobs, self._answers(jobs.values()))}
        found = [said[prompt] for prompt in prompts]
        if refused := found.count(None):
            warnings.warn(f"model {self.name!r} states no confidence for {refused} of {len(found)} answers: NaN",
                          stacklevel=2)
        return np.array(found, dtype=float)

    def _distinct_rows(self, inputs):
        """`distinct` of tuples (text, ..., option_1, ..., option_C), which all forms of input become."""
        def row(i, example):
            if isinstance(example, Mapping):
                expect({"question", "choices"} <= example.keys() and not self.answers,
                       lambda: f"inputs[{i}] = {example!r}: a dict has `question` and `choices`, for a model without "
                       "fixed `answers`")
                return (example["question"], *example["choices"])
            return (*(example if isinstance(example, (tuple, list)) else (example,)), *self.answers)

        return distinct([row(i, example) for i, example in enumerate(inputs)])

    def _options(self, row):
        return self.answers or row[1:]

    def _request(self, row, index=0, **fields):
        options = self._options(row)
        prompt = "\n".join(row[:len(row) - len(options)])
        if options:
            prompt = letter_prompt(prompt, options, self.template)
        # of prompt and index: with a seed of the index alone, servers answer all prompts with the same noise
        seed = zlib.crc32(f"{index} {prompt}".encode()) >> 1  # fits 31 bits
        return {"model": self.model, "messages": [{"role": "user", "content": prompt}], "seed": seed,
                "temperature": self.temperature, "top_p": 1, **fields, **self.parameters}

    def _from_logprobs(self, rows):
        """(readable, probabilities) of each row, or None where the server lists no log-probabilities."""
        if self.logprobs is False:
            return None
        fields = {"max_tokens": 1, "logprobs": True, "top_logprobs": TOP_LOGPROBS}
        try:
            first = self._ask(rows[:1], **fields)  # alone, so that no more are paid for nothing
        except RemoteError as error:
            if self.logprobs or error.status not in (400, 422):
                raise
            first = [[{"top": []}]]
        self.logprobs = self.logprobs or bool(first[0][0]["top"])
        if self.logprobs:
            return [read_logprobs(answer["top"], len(self._options(row)))
                    for row, [answer] in zip(rows, first + self._ask(rows[1:], **fields))]
        warnings.warn(f"model {self.name!r}: the server lists no log-probabilities; {self.samples} answers per input "
                      "are sampled instead, each a request", stacklevel=3)

    def _from_samples(self, rows):
        texts = self._texts(rows, self.samples, LETTER_TOKENS)
        return [read_answers(answers, self._options(row)) for row, answers in zip(rows, texts)]

    def _texts(self, rows, m, max_tokens):
        return [[answer["text"] for answer in answers] for answers in self._ask(rows, m, max_tokens=max_tokens)]

    def _ask(self, rows, m=1, **fields):
        """m answers {"text", "top"} to each row, in order. On a failure those under way are still waited for and kept.
        """
        answers = self._answers([(row, self._request(row, index, **fields)) for row in rows for index in range(m)])
        return [answers[i:i + m] for i in range(0, len(answers), m)]

    def _answers(self, jobs):
        with ThreadPoolExecutor(self.concurrency) as pool:
            futures = [pool.submit(self._answer, row, request) for row, request in jobs]
            try:
                for future in progress(as_completed(futures), f"ask {self.name}", len(futures)):
                    future.result()
            finally:
                pool.shutdown(cancel_futures=True)
        return [future.result() for future in futures]

    def _answer(self, row, request):
        if not self.cache:
            return self._send(row, request)
        file = self.cache / f"{hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()}.json"
        with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):  # absent or damaged: ask again
            return checked_answer(**json.loads(file.read_bytes())["answer"])
        answer = self._send(row, request)
        files.write_text(file, self._scrubbed(json.dumps({"request": request, "answer": answer})))
        return answer

    def _send(self, row, request):
        import openai

        try:
            reply = self._client.chat.completions.with_raw_response.create(
                model=request["model"], messages=request["messages"], extra_body=request)
        except openai.APIError as error:
            raise self._final(error, row) from None  # its own text might quote the key
        answer = read_completion(reply.http_response.json())
        return {"text": self._scrubbed(answer["text"]),
                "top": [[self._scrubbed(token), logprob] for token, logprob in answer["top"]]}

    def _refuse_malformed(self, response):
        """Makes an answer that is too large or no completion a broken transfer, which the client tries again."""
        import httpx2

        body = bytearray()
        for piece in response.iter_bytes():  # of at most 1 MiB, however well they were compressed
            body += piece
            if len(body) > LARGEST_ANSWER:
                raise httpx2.DecodingError(f"an answer of more than {LARGEST_ANSWER >> 20} MiB",
                                           request=response.request)
        response._content = bytes(body)  # what its read() keeps, which knows no limit
        if response.is_success:
            try:
                read_completion(response.json())
            except (ValueError, RecursionError) as error:
                said = self._scrubbed(response.text)[:200]
                raise httpx2.DecodingError(f"not a chat completion: {said!r} ({self._scrubbed(str(error))[:200]})",
                                           request=response.request) from None

    def _scrubbed(self, text):
        """The text without the key, as it is or as JSON escapes it."""
        key = self._client.api_key
        if len(key) < SHORTEST_KEY:
            return text
        return text.replace(key, "[api_key]").replace(json.dumps(key)[1:-1], "[api_key]")

    def _final(self, error, row):
        status = getattr(error, "status_code", None)
        said = str(error.body or f"{error.message} {error.__cause__ or ''}")
        remedy = REMEDIES.get(status) or REMEDIES[500 if status >= 500 else 400]
        kept = "what was answered is in the cache: run again to go on" if self.cache else \
            "with a cache folder, what was answered is kept"
        url = self._client.base_url  # without its user, password and query
        place, row, said = map(self._scrubbed, (f"{url.scheme}://{url.netloc.decode()}{url.path}", str(row), said))
        return RemoteError(f"model {self.name!r} at {place} failed with status {status} on the input {row[:300]}: "
                           f"{said[:300]}. Remedy: {remedy}; {kept}", status)


def read_completion(body) -> dict:
    """{"text": content, "top": [[token, log-probability], ...]} of a chat completion, parsed from JSON.

    top : of the first token; empty where none are listed. ValueError for what is no chat completion.
    """
    try:
        choice = body["choices"][0]
        text, listed = choice["message"]["content"], (choice.get("logprobs") or {}).get("content")
        top = [(entry["token"], entry["logprob"]) for entry in listed[0].get("top_logprobs") or ()] if listed else []
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    return checked_answer("" if text is None else text, top)


def checked_answer(text: str, top: Sequence) -> dict:
    """Text and log-probabilities (nats) as one answer. ValueError unless they are a text and those of a distribution.
    """
    expect(isinstance(text, str), lambda: f"the content is {text!r}, no text")
    for token, logprob in top:
        expect(isinstance(token, str) and isinstance(logprob, (int, float)) and logprob <= ROUNDING,
               lambda: f"the log-probability of {token!r} is {logprob!r}")
    top = [[token, float(max(logprob, -1e9))] for token, logprob in top]
    mass = sum(np.exp(logprob) for _, logprob in top)
    expect(mass <= 1 + ROUNDING * len(top), lambda: f"the listed probabilities sum to {mass:.3g}")
    return {"text": text, "top": top}
