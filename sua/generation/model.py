"""`GenerativeLM`: a causal language model that answers questions in its own words."""

from __future__ import annotations

import hashlib
import math
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Sequence

import numpy as np

from ..inputs import expect
from ..models.common import progress, within_memory
from ..models.verbalised import confidence_prompt, read_confidence
from ..perturb import Perturbation, variants
from .answers import Generations

P_TRUE = ("Question: {question}\nProposed answer: {answer}\nIs the proposed answer:\n (A) True\n (B) False\n"
          "The proposed answer is:")
LEAST_TEMPERATURE = 1e-6  # below it the quotients of logits leave what numbers can hold


class GenerativeLM:
    """A causal language model of transformers with its tokenizer, that answers questions in free text.

    An answer ends at an end-of-sequence token, before a newline, or after max_new_tokens. Equal prompts are computed
    once, each prompt's keys and values once for all of its answers; batches are sorted by length, and halved where
    they do not fit into memory. Answers and numbers do not depend on batch size, order or padding beyond rounding.

    template : prompt, with "{question}" where the question goes. Text that a chat template made is fine.
    max_new_tokens : tokens at which an answer is cut. temperature : of the samples; greedy answers are scored at 1.
    batch_size : answers per forward pass. cache : a folder for this model's weights alone, where results are kept.
    ValueError for a template without "{question}", max_new_tokens or batch_size < 1, a temperature below 1e-6.
    """

    def __init__(self, model: "transformers.PreTrainedModel", tokenizer: "transformers.PreTrainedTokenizerBase", *,
                 template: str = "Question: {question}\nAnswer:", max_new_tokens: int = 32, temperature: float = 1.0,
                 batch_size: int = 64, name: str | None = None, cache: Path | None = None):
        expect("{question}" in template, f'template = {template!r} has no "{{question}}": say where the question goes')
        expect(max_new_tokens >= 1, f"max_new_tokens = {max_new_tokens}: an answer needs at least one token")
        expect(LEAST_TEMPERATURE <= temperature < math.inf, f"temperature = {temperature}: give a finite one of at "
               f"least {LEAST_TEMPERATURE:g}; greedy answers come anyway")
        expect(batch_size >= 1, f"batch_size = {batch_size}: give at least 1")
        self.model, self.tokenizer, self.template = model.eval(), tokenizer, template
        self.max_new_tokens, self.temperature = max_new_tokens, temperature
        self.batch_size, self.name, self.cache = batch_size, name or type(model).__name__, cache
        ends = model.generation_config.eos_token_id
        texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
        self.stops = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id,
                      *(token for token, text in enumerate(texts) if "\n" in text)} - {None}

    def generate(self, questions: Sequence[str], perturbation: Perturbation | None = None, k: int = 8, m: int = 10, *,
                 p_true: bool = True, verbalised: bool = False, internals: bool = False, seed: int = 0,
                 ids: Sequence | None = None, meta: dict | None = None) -> Generations:
        """Greedy answers, M samples at each question and at K variants of it, and p(True).

        perturbation : draws the k variants; None leaves them out. m : samples per prompt; 0 for greedy answers alone.
        p_true : also ask whether the greedy answer is true (Kadavath et al., 2022, without other samples shown):
        p(A) / (p(A) + p(B)) at the options "(A) True" and "(B) False". verbalised : also ask for its confidence in
        the greedy answer, in words. internals : also keep tokens, attention and hidden states, for SAR, RAUQ and
        EigenScore; this reads every answer at x once more. seed : of variants and samples; the draws at
        a prompt follow from seed and prompt alone. ids, meta : as in Generations.

        ValueError for an empty question, m < 0, variants with m = 0, or a prompt too long for the model.
        """
        questions = list(questions)
        expect(questions, "questions is empty: give at least one")
        for i, text in enumerate(questions):
            expect(isinstance(text, str) and text.strip(), f"questions[{i}] = {text!r} is empty or not text: remove it")
        expect(m >= (perturbation is not None), f"m = {m}: give m >= 1 samples, or m = 0 without a perturbation")
        drawn = variants(questions, perturbation, k, seed) if perturbation else [[] for _ in questions]
        facts = {"model": self.name, "template": self.template, "max_new_tokens": self.max_new_tokens,
                 "temperature": self.temperature, "seed": seed,
                 **({"perturbation": perturbation.name, "k": k} if perturbation else {}), **(meta or {})}
        ids = list(map(str, range(len(questions)) if ids is None else ids))
        more = tuple(name for name, wanted in (("verbalised", verbalised), ("internals", internals)) if wanted)
        job = questions, drawn, m, p_true, seed, ids, facts, *more
        file = self.cache and Path(self.cache) / f"{hashlib.sha256(repr(job).encode()).hexdigest()[:24]}.parquet"
        if file and file.exists():
            with suppress(ValueError):  # damaged: it is generated anew
                return Generations.load(file)
        generations = self._generate(*job)
        if file:
            generations.save(file)
        return generations

    def _generate(self, questions, drawn, m, p_true, seed, ids, facts, *more):
        orbits, greedy = [[x, *row] for x, row in zip(questions, drawn)], set(questions)
        texts = list(dict.fromkeys(text for orbit in orbits for text in orbit))
        prompts = [self.template.replace("{question}", text) for text in texts]
        draws = [np.random.default_rng([seed, zlib.crc32(prompt.encode())]).random((m, self.max_new_tokens))
                 for prompt in prompts]
        likeliest = np.full((1, self.max_new_tokens), np.nan)
        draws = [np.concatenate([likeliest, rows]) if text in greedy else rows for text, rows in zip(texts, draws)]
        encoded = self._encode(prompts, self.max_new_tokens)
        found = dict(zip(texts, self._in_batches(encoded, m + 1, lambda chosen, *state: self._continue(
            [draws[i] for i in chosen], *state))))
        answers, logprobs, entropies, _ = zip(*(found[x][0] for x in questions))
        sampled = {text: list(zip(*rows[len(rows) - m:])) for text, rows in found.items()}
        given = {}
        if m:
            given["samples"] = [[sampled[text][0] for text in orbit] for orbit in orbits]
            given["loglikelihoods"] = [[[lp.sum() for lp in sampled[text][1]] for text in orbit] for orbit in orbits]
        if drawn[0]:
            given["variants"] = drawn
        if p_true:
            given["p_true"] = self._p_true(questions, answers)
        if "verbalised" in more:
            given["verbalised"] = self._verbalised(questions, answers)
        if "internals" in more:
            given |= self._internals(questions, dict(zip(texts, encoded)), found, m)
        return Generations(questions, answers, _padded(logprobs), _padded(entropies), ids=ids, meta=facts, **given)

    def _encode(self, texts, room):
        """Token lists of prompts; a template that has the special first token already gets no second one."""
        bos = self.tokenizer.bos_token
        encoded = self.tokenizer(texts, add_special_tokens=not (bos and texts[0].startswith(bos)))["input_ids"]
        limit = getattr(self.model.config, "max_position_embeddings", np.inf)
        for text, tokens in zip(texts, encoded):
            expect(len(tokens) + room <= limit, lambda: f"a prompt of {len(tokens)} tokens and {room} new ones exceed "
                   f"the model's {limit}: shorten it, or max_new_tokens: {text[:80]!r}")
        return encoded

    def _in_batches(self, encoded, rows, read):
        """What `read(indices, logits, cache, mask)` gives for each prompt, of which each takes `rows` of a batch."""
        import torch

        # longest first: running out of memory shows at once, and little is padding
        order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i]), encoded[i]), reverse=True)

        def run(size):
            found = {}
            with torch.inference_mode(), progress(total=len(order), desc=f"generate {self.name}") as bar:
                for start in range(0, len(order), size):
                    chosen = order[start:start + size]
                    found.update(zip(chosen, read(chosen, *self._prefill([encoded[i] for i in chosen]))))
                    bar.update(len(chosen))
            return [found[i] for i in range(len(order))]

        return within_memory(run, max(1, self.batch_size // rows))

    def _prefill(self, encoded):
        """(n, V) logits after each prompt, the keys and values of all, and the (n, L) mask of their left padding."""
        import torch

        width = max(map(len, encoded))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in encoded], device=self.model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in encoded], device=self.model.device)
        out = self.model(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                         use_cache=True, logits_to_keep=1)
        return out.logits[:, -1], out.past_key_values, mask

    def _continue(self, draws, logits, kv, mask):
        """For each prompt [(answer, token log-probabilities, token entropies, tokens)], one per row of its `draws`.

        draws : per prompt (rows, T) uniform numbers that choose the tokens; NaN chooses the most probable one, and
        only there are entropies computed.
        """
        import torch

        device = logits.device
        of_prompt = torch.tensor([i for i, rows in enumerate(draws) for _ in rows], device=device)
        draws = torch.tensor(np.concatenate(draws), device=device)
        temperature = torch.full_like(draws[:, :1], self.temperature).masked_fill(draws[:, :1].isnan(), 1)
        stops = torch.tensor(sorted(self.stops), device=device)
        tokens = torch.zeros(draws.shape, dtype=torch.long, device=device)
        logprobs, entropies = torch.full_like(draws, torch.nan), torch.full_like(draws, torch.nan)
        kv.batch_select_indices(of_prompt)
        logits, mask, alive = logits[of_prompt], mask[of_prompt], torch.arange(len(draws), device=device)
        for step in range(self.max_new_tokens):
            logp = (logits.double() / temperature[alive]).log_softmax(-1)
            p = logp.exp()
            chosen = _choose(p, draws[alive, step])
            tokens[alive, step] = chosen
            logprobs[alive, step] = logp.gather(-1, chosen[:, None])[:, 0]
            likeliest = draws[alive, step].isnan()
            entropies[alive[likeliest], step] = torch.special.entr(p[likeliest]).sum(-1)
            going = (~torch.isin(chosen, stops)).nonzero()[:, 0]
            if step + 1 == self.max_new_tokens or not len(going):
                break
            if len(going) < len(alive):
                kv.batch_select_indices(going)
                alive, mask, chosen = alive[going], mask[going], chosen[going]
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            logits = self.model(input_ids=chosen[:, None], attention_mask=mask, position_ids=mask.sum(-1, True) - 1,
                                past_key_values=kv, use_cache=True).logits[:, -1]
        lengths = (~logprobs.isnan()).sum(1).tolist()
        texts = self.tokenizer.batch_decode([row[:n] for row, n in zip(tokens.tolist(), lengths)],
                                            skip_special_tokens=True)
        rows = iter([(text.split("\n")[0].replace("\0", "\ufffd").strip(), lp[:n], h[:n], ids[:n])
                     for text, lp, h, n, ids in zip(texts, logprobs.cpu().numpy(), entropies.cpu().numpy(), lengths,
                                                    tokens.tolist())])
        return [[next(rows) for _ in range(count)] for count in of_prompt.bincount().tolist()]

    def _p_true(self, questions, answers):
        asked = list(dict.fromkeys(zip(questions, answers)))
        texts = [P_TRUE.format(question=question, answer=answer) for question, answer in asked]
        true, false = (self._encode([text + option for text in texts], 0) for option in (" (A)", " (B)"))
        shared = [os.path.commonprefix(pair) for pair in zip(true, false)]
        for a, b, prompt in zip(true, false, shared):
            expect(len(prompt) < min(len(a), len(b)), "the tokenizer does not tell (A) from (B): set p_true=False")
        options = [(a[len(prompt)], b[len(prompt)]) for a, b, prompt in zip(true, false, shared)]

        def read(chosen, logits, *_):
            return [logits[row, options[i]].double().softmax(-1)[0].item() for row, i in enumerate(chosen)]

        found = dict(zip(asked, self._in_batches(shared, 1, read)))
        return [found[pair] for pair in zip(questions, answers)]

    def _verbalised(self, questions, answers):
        """(N,) confidences in words, NaN for refusals; the reply is the most probable one."""
        asked = list(dict.fromkeys(zip(questions, answers)))
        encoded = self._encode([f"{confidence_prompt((question,), (), answer)}\nReply:" for question, answer in asked],
                               self.max_new_tokens)
        likeliest = np.full((1, self.max_new_tokens), np.nan)
        replies = self._in_batches(encoded, 1, lambda chosen, *state: self._continue([likeliest] * len(chosen), *state))
        said = {pair: read_confidence(reply) for pair, [(reply, *_)] in zip(asked, replies)}
        return np.array([said[pair] for pair in zip(questions, answers)], dtype=float)

    def _internals(self, questions, encoded, found, m):
        """Pieces with their log-probabilities, attention and hidden states of the answers at x, from one more pass."""
        rows = {x: [found[x][0], *found[x][len(found[x]) - m:]] for x in dict.fromkeys(questions)}
        texts = [(x, j) for x in rows for j in range(m + 1)]
        read = dict(zip(texts, self._reread([(encoded[x], rows[x][j][3], j == 0) for x, j in texts])))
        longest = max(len(row[3]) for x in rows for row in rows[x])
        pieces = {x: [[self.tokenizer.decode([token], skip_special_tokens=True).split("\n")[0] for token in row[3]]
                      + [""] * (longest - len(row[3])) for row in rows[x]] for x in rows}
        logprobs = {x: [np.pad(row[1], (0, longest - len(row[1])), constant_values=np.nan) for row in rows[x]]
                    for x in rows}
        widest = max(read[x, 0].shape[1] for x in rows)
        attention = {x: np.pad(read[x, 0], ((0, 0), (0, widest - read[x, 0].shape[1])), constant_values=np.nan)
                     for x in rows}
        given = {"pieces": [pieces[x] for x in questions], "piece_logprobs": [logprobs[x] for x in questions],
                 "attention": [attention[x] for x in questions]}
        return given | ({"hidden": [[read[x, j] for j in range(1, m + 1)] for x in questions]} if m else {})

    def _reread(self, texts):
        """For each (prompt, answer, whether to look at attention): (L, n) weights on the token before, or (D,) the
        middle layer's state at the answer's last token that does not end it."""
        import torch

        before = self.model.config._attn_implementation
        order = sorted(range(len(texts)), key=lambda i: len(texts[i][0]) + len(texts[i][1]), reverse=True)

        def run(size):
            found = {}
            for start in progress(range(0, len(order), size), f"read {self.name}"):
                chosen = order[start:start + size]
                whole = [texts[i][0] + texts[i][1] for i in chosen]
                width = max(map(len, whole))  # padding stands behind, where no token sees it
                ids = torch.tensor([row + [0] * (width - len(row)) for row in whole], device=self.model.device)
                mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in whole], device=ids.device)
                out = self.model(input_ids=ids, attention_mask=mask, output_attentions=True, output_hidden_states=True)
                middle = out.hidden_states[len(out.hidden_states) // 2]
                for row, i in enumerate(chosen):
                    prompt, answer, looks_back = texts[i]
                    if looks_back:
                        places = torch.arange(len(prompt) + 1, len(whole[row]), device=ids.device)
                        back = torch.stack([layer[row][:, places, places - 1] for layer in out.attentions])
                        found[i] = _most_backward(back.double().cpu().numpy())
                    else:
                        ends = bool(answer) and answer[-1] in self.stops
                        found[i] = middle[row, len(whole[row]) - 1 - ends].double().cpu().numpy()
            return [found[i] for i in range(len(texts))]

        try:
            self.model.set_attn_implementation("eager")  # the others do not show their weights
            with torch.inference_mode():
                return within_memory(run, max(1, self.batch_size // 4))
        finally:
            self.model.set_attn_implementation(before)


def _most_backward(back):
    """(L, n) of the weights (L, H, n - 1): in each layer those of the head of highest mean; NaN for the first token."""
    if back.shape[2]:
        heads = back.mean(-1).argmax(-1)
        back = back[np.arange(len(back)), heads]
    else:
        back = back[:, 0]
    return np.pad(back, ((0, 0), (1, 0)), constant_values=np.nan)


def _choose(p, uniform):
    """The token at which the cumulative probabilities (n, V) pass the uniform number; NaN: the most probable one."""
    import torch

    below = p.cumsum(-1)
    drawn = torch.searchsorted(below, uniform[:, None] * below[:, -1:], right=True)[:, 0]
    return torch.where(uniform.isnan(), p.argmax(-1), drawn)


def _padded(rows):
    out = np.full((len(rows), max(map(len, rows))), np.nan)
    for i, row in enumerate(rows):
        out[i, :len(row)] = row
    return out
