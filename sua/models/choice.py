"""Causal language models as distributions over options: the softmax of ln p(option | prompt).

Prompt and option are tokenised together, since a tokenizer may merge across their boundary. The tokens that the prompt
alone and the prompt with any of its options all begin with are the trunk; everything after it is scored. So the scores
of a question's options differ exactly as ln p of the whole texts does.

One forward pass reads the tokens of a batch as a forest (`sua.models.forest`), those that texts share only once.
"""

from __future__ import annotations

import os
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Mapping, Sequence

import numpy as np

from ..inputs import LETTERS, OPTIONS, Input, expect, has_options, lettered
from .common import KNOWN, known_rows, wide
from .encoder import EncoderClassifier
from .forest import LITTLE, _attention, _plan, _tensors

TEMPLATES = {"sum": "{question}\nAnswer:", "mean": "{question}\nAnswer:", "letter": "{question}\n{options}\nAnswer:"}
ABSENT = -1e6  # logit of an option that an input lacks: its probability is 0, its gradient finite


class ChoiceLM(EncoderClassifier):
    """A causal language model that chooses among options, with its tokenizer.

    An input is a tuple (question, option_1, ..., option_C) or {"question": ..., "choices": [...]}; where the number of
    options varies, C is the largest and absent ones get probability 0. With `answers`, labels that are the options of
    every input, an input is a text or a pair of texts.

    score : "sum" of ln p over an option's tokens, their "mean", or "letter": the prompt lists the options as A. B. C.
        and their letters are compared.
    template : format string of the prompt, with the fields {question} (a pair's texts, a line each), {0} and {1} (the
        texts apart) and {options} (the list with letters). With "{question}" alone an input is the whole prompt, as
        sua.perturb.formulations makes it, and may say {options} itself. A space stands between prompt and option.
    chat : put the prompt as a user's turn into the tokenizer's chat template; the option begins the reply.
    batch_size : texts per forward pass, one for each option, or one for all options of one token.
    max_length : tokens at which a prompt with its longest option is cut, at the prompt's beginning.

    "logits" of `outputs` are the scores, "features" the last hidden state at the prompt's last token.
    In 16 bits the head is computed in float32 (`_precise`), except while gradients flow; sua.numerical_floor says what
    remains. origin : where the weights come from, if there is more to say than their name.
    ValueError for inputs of another form, for chat without a chat template, and for models whose layers do not take an
    attention mask of their own.
    """

    adapter_task = "CAUSAL_LM"
    origin: str | None = None

    def __init__(self, model: "transformers.PreTrainedModel", tokenizer: "transformers.PreTrainedTokenizerBase", *,
                 answers: Sequence[str] | None = None, score: str = "sum", template: str | None = None,
                 chat: bool = False, batch_size: int = 64, max_length: int = 1024, name: str | None = None,
                 cache: Path | None = None):
        super().__init__(_in_own_type(model), tokenizer, batch_size, _longest(model, max_length), name, cache)
        if score not in TEMPLATES:
            raise ValueError(f"score = {score!r}; known: {', '.join(TEMPLATES)}")
        if answers is not None and len(set(answers)) < max(2, len(answers)):
            raise ValueError(f"answers = {answers!r}: give at least two, all different")
        expect(not chat or tokenizer.chat_template, lambda: f"chat = True, but the tokenizer of {self.name} has no "
               "chat template: set tokenizer.chat_template, or leave chat out")
        self.answers, self.score, self.template = answers and tuple(answers), score, template or TEMPLATES[score]
        self.chat = chat
        try:
            self.template.format("", "", question="", options="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"template = {template!r} has a field that nothing fills ({error}); known: {{question}}, "
                             "{options}, {0}, {1}") from None
        if tokenizer.pad_token is None:  # masked wherever it stands, so any token will do
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)

    def encode(self, inputs: Sequence[Input]) -> dict[str, list[list[int]]]:
        """One row per input: the trunk, then each option's own tokens; "token_type_ids" are 0 and the option's number.

        A masked token of type C ends the rows with fewer than C options.
        """
        new = {example: i for i, example in reversed([*enumerate(inputs)]) if example not in self._known}
        asked = [self._asked(i, example) for example, i in new.items()]
        texts = [text for prompt, options in asked for text in
                 (prompt, *(prompt + (" " if prompt[-1:].strip() else "") + option for option in options))]
        tokens = iter(_tokens(self.tokenizer, texts) if texts else ())
        rows = [self._row([next(tokens) for _ in (0, *options)], prompt) for prompt, options in asked]
        self._known.update(zip(new, rows))  # training asks for the same inputs in every epoch
        rows = [self._known[example].tolist() for example in inputs]
        if len(self._known) > KNOWN:
            self._known.clear()
        width = max(kinds[-1] for _, kinds in rows)
        absent = [kinds[-1] < width for _, kinds in rows]
        return {"input_ids": [ids + [0] * end for (ids, _), end in zip(rows, absent)],
                "token_type_ids": [kinds + [width] * end for (_, kinds), end in zip(rows, absent)],
                "attention_mask": [[1] * len(ids) + [0] * end for (ids, _), end in zip(rows, absent)]}

    @cached_property
    def _known(self):
        return known_rows(self.tokenizer, self.tokenizer.bos_token_id, self.answers, self.score, self.template,
                          self.max_length, self.chat and self.tokenizer.chat_template)

    def _asked(self, i, example):
        """(prompt, options as they are scored)."""
        if self.answers:
            texts, options = (example,) if isinstance(example, str) else example, self.answers
            if len(texts) > 2:
                raise ValueError(f"inputs[{i}] = {example!r}: with answers an input is a text or a pair; leave answers "
                                 "out for questions that bring their options along")
        else:
            if not has_options(example):
                raise ValueError(f"inputs[{i}] = {example!r} is not a question with options: give a tuple (question, "
                                 "option_1, option_2, ...), or answers, which are then the options of every input")
            texts, options = example[:1], example[1:]
        listing = lettered(options)
        if self.score == "letter":
            if len(options) > len(LETTERS):
                raise ValueError(f"inputs[{i}] has {len(options)} options, there are {len(LETTERS)} letters: take "
                                 "score='sum' or 'mean'")
            options = LETTERS[:len(options)]
        prompt = self.template.format(*texts, question="\n".join(texts), options=listing)
        if self.template == "{question}":
            prompt = prompt.replace(OPTIONS, listing)
        return self._turn(prompt) if self.chat else prompt, options

    def _turn(self, prompt):
        """The prompt as a user's turn, before the reply; the special first token is the tokenizer's to add."""
        text = self.tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False,
                                                  add_generation_prompt=True)
        first = self.tokenizer.bos_token
        return text.removeprefix(first) if first and self.tokenizer("")["input_ids"] else text

    def _row(self, tokens, prompt):
        """(2, T) tokens of the trunk and then of each option, and the number of the option that each belongs to."""
        trunk = os.path.commonprefix(tokens)
        options = [row[len(trunk):] for row in tokens[1:]]
        if not all(options):
            raise ValueError(f"an option after the prompt {prompt!r} has no token: give it characters that the "
                             "tokenizer knows")
        start = int(trunk[:1] == [self.tokenizer.bos_token_id])  # the first token, if it begins every text, is kept
        excess = max(0, len(trunk) + max(map(len, options)) - 1 - self.max_length)
        if len(trunk) <= excess + start * (excess > 0):
            raise ValueError(f"the prompt {prompt!r} has no token left before its options: begin the template with a "
                             f"word, raise max_length = {self.max_length} or shorten the options")
        trunk = trunk[:start] + trunk[start + excess:]
        kinds = [0] * len(trunk) + [j for j, option in enumerate(options, 1) for _ in option]
        return np.array([trunk + sum(options, []), kinds], np.int32)

    def forward(self, model: "torch.nn.Module", batch: Mapping, output_hidden_states: bool = False) -> SimpleNamespace:
        """`logits` (n, C, 2): for each option the sum of ln p over its tokens, and their number."""
        import torch

        # ids, kinds, real : (n, T), each row from its first token on, whichever side the padding was on
        real = batch["attention_mask"]
        left = (torch.arange(real.shape[1], device=real.device) + real.argmax(1)[:, None]) % real.shape[1]
        ids, kinds, real = (batch[name].gather(1, left) for name in ("input_ids", "token_type_ids", "attention_mask"))

        # stochastic passes and their gradients are each input's own
        plan, forest = _plan(*(tensor.cpu().numpy() for tensor in (ids, kinds, real)), share=not self.model.training,
                             hidden=self.model.config.get_text_config().hidden_size)
        plan = _tensors(plan, ids.device)
        words = self.model.get_input_embeddings()(ids).flatten(0, 1)[plan.source]  # (R, W, hidden)
        attention = _attention(_tensors(forest, ids.device), words.dtype) if forest else {}

        # the head is the widest layer: it reads only the tokens after which an option's token stands
        head, precise = self.model.get_output_embeddings(), _precise(self.model)
        hooks = [head.register_forward_pre_hook(lambda module, args: (args[0].flatten(0, 1)[plan.before],)), *precise]
        try:
            out = model(inputs_embeds=words, use_cache=False, output_hidden_states=output_hidden_states, **attention)
        finally:
            for hook in hooks:
                hook.remove()

        log_p = wide(out.logits).log_softmax(-1)[plan.which, ids[plan.row, plan.column]]  # (M,)
        count = plan.count.to(log_p)  # (n, C)
        total = torch.zeros_like(count).index_put((plan.row, plan.option), log_p, accumulate=True)
        total = total.masked_fill(count == 0, ABSENT)
        hidden = output_hidden_states and [out.hidden_states[-1].flatten(0, 1)[plan.last][:, None]]
        return SimpleNamespace(logits=torch.stack([total, count.clamp(min=1)], -1), hidden_states=hidden)

    def class_logits(self, logits: "torch.Tensor", score: str | None = None) -> "torch.Tensor":
        return logits[..., 0] / logits[..., 1] if (score or self.score) == "mean" else logits[..., 0]

    @property
    def _of_one_pass(self):
        """The scores that follow from one pass: they are computed together and share what is kept of it."""
        return ("letter",) if self.score == "letter" else ("sum", "mean")

    def _probs(self, batch):
        return self._by_score(self.forward(self.model, batch).logits)["probs"]

    def _outputs(self, batch):
        out = self.forward(self.model, batch, output_hidden_states=True)
        return {**self._by_score(out.logits), "features": wide(out.hidden_states[-1][:, 0])}

    def _by_score(self, logits):
        """"probs" and "logits", (n, C, scores of one pass)."""
        import torch

        logits = [self.class_logits(wide(logits), score) for score in self._of_one_pass]
        return {"probs": torch.stack([each.softmax(-1).double() for each in logits], -1),
                "logits": torch.stack(logits, -1)}

    def _batches(self, encoded, unique, size):
        """Batches of inputs that begin alike, or of like length where few share more than what all begin with."""
        rows = encoded["input_ids"]
        order = sorted(range(len(unique)), key=lambda i: (rows[i], str(unique[i])), reverse=True)

        def alike(i, j):
            return len(os.path.commonprefix([rows[i], rows[j]]))

        in_all = alike(order[0], order[-1])
        if sum(alike(i, j) - in_all for i, j in zip(order, order[1:])) < LITTLE * sum(map(len, rows)):
            order.sort(key=lambda i: len(rows[i]), reverse=True)
        kinds = [encoded["token_type_ids"][i] for i in order]
        texts = [row[-1] if len(row) - row.count(0) > row[-1] else 1 for row in kinds]
        return np.split(order, 1 + np.flatnonzero(np.diff((np.cumsum(texts) - 1) // size)))

    def _collect(self, what, inputs, read, dropout_seed=None):
        inputs = [(x["question"], *x["choices"]) if isinstance(x, Mapping) else x for x in inputs]
        what = f"{what} {self.answers} {' '.join(self._of_one_pass)} {self.template}" + " chat" * self.chat
        ours = self._of_one_pass.index(self.score)
        return {name: values if name == "features" else values[..., ours]
                for name, values in super()._collect(what, inputs, read, dropout_seed).items()}

    def save(self, folder: Path | str) -> Path:
        self.model.config.sua_choice_lm = {"answers": self.answers, "score": self.score, "template": self.template,
                                           "chat": self.chat}
        return super().save(folder)


def _tokens(tokenizer, texts):
    if not tokenizer.is_fast:
        return tokenizer(texts)["input_ids"]
    core = tokenizer.backend_tokenizer  # its ids alone: what a call adds to them takes three times as long
    core.no_padding()
    core.no_truncation()
    return [found.ids for found in core.encode_batch_fast(texts)]


def _in_own_type(model):
    """The model. A float64 Llama computes its norms and positions in float32; here it does so in float64."""
    import torch

    config = model.config
    plain = config.model_type == "llama" and config.rope_parameters["rope_type"] == "default"
    if not plain or config.dtype != torch.float64:
        return model
    size = config.head_dim or config.hidden_size // config.num_attention_heads
    frequency = config.rope_parameters["rope_theta"] ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)

    def rotary(hidden, position_ids):
        angle = (position_ids[..., None] * frequency.to(hidden.device)).repeat(1, 1, 2)
        return angle.cos(), angle.sin()

    model.base_model.rotary_emb.forward = rotary
    for norm in model.modules():
        if hasattr(norm, "variance_epsilon"):
            norm.forward = partial(_rms_norm, norm)
    return model


def _rms_norm(norm, hidden):
    from torch.nn.functional import rms_norm

    return rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _precise(model):
    """Hooks by which a network of 16 bits computes its head in float32, where no gradient flows; [] for others.

    Logits of 16 to 32 are multiples of 1/8 in bfloat16, which moves a probability by up to .03. Of SmolLM2-135M's
    numerical floor this takes a third away; the last norm in float32 too took nothing more.
    """
    import torch
    from torch.nn.functional import linear

    head = model.get_output_embeddings()
    if torch.is_grad_enabled() or head.weight.dtype not in (torch.bfloat16, torch.float16):
        return []

    def in_float32(module, args, output):
        bias = module.bias.float() if module.bias is not None else None
        return linear(args[0].float(), module.weight.float(), bias)

    return [head.register_forward_hook(in_float32)]


def _longest(model, max_length):
    """Tokens that every layer of the model sees at once. ValueError for a model that reads no forest."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if (not model._supports_attention_backend or model._is_stateful or "flash" in config._attn_implementation
            or kinds - {"full_attention", "sliding_attention"}):
        raise ValueError(f"{type(model).__name__} with attention {config._attn_implementation!r} takes no attention "
                         "mask per pair of tokens: load a transformer with attn_implementation='sdpa'")
    limits = [getattr(config, name, None) for name in ("max_position_embeddings", "sliding_window")]
    return min(filter(None, [max_length, *limits]))
