"""Kernels of how a question is put: a neutral frame around it, its instruction, the order of its options, and
hand-written formulations of a whole task with their answers.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Sequence

from .. import paths
from ..inputs import OPTIONS, Input, as_inputs, expect, has_options, lettered, unknown_name
from .kernel import Perturbation, variants


_FRAMES = ["here is the text : {}", "the text reads as follows : {}", "someone wrote : {}", "quote : {}",
           "{} ( end of text )", "from a longer text : {}", "the following was posted online : {}",
           "this is what was written : {}", "copied word for word : {}", "{} - that is all it says"]


def _framing(text, rng):
    """A neutral sentence around the text, which says nothing about its content."""
    return _FRAMES[rng.integers(len(_FRAMES))].format(text)


FRAMING = Perturbation.of_text("framing", _framing)


def instructions(templates: Sequence[str], name: str = "instructions") -> Perturbation:
    """The kernel that says the same question under another instruction.

    templates : format strings with the field {question}. A text is written in one of them and redrawn uniformly from
    all, which makes (x, x') an exchangeable pair; "{question}" alone stands for no instruction. For questions with
    options: sua.perturb.on_first of it.
    ValueError for a template without the field, and for a text written in none of them.
    """
    for template in templates:
        if template.count("{question}") != 1:
            raise ValueError(f"template {template!r} needs the field {{question}} once")
    longest = sorted(templates, key=len, reverse=True)  # the most literal match is the one that was meant
    patterns = [re.compile("(.*)".join(map(re.escape, t.split("{question}"))), re.DOTALL) for t in longest]

    def question(text):
        found = next(filter(None, (pattern.fullmatch(text) for pattern in patterns)), None)
        if not found:
            raise ValueError(f"{text!r} is written in none of the templates: add '{{question}}' to them, or write the "
                             "inputs in one of them")
        return found.group(1)

    def rewrite(text, rng):
        return templates[rng.integers(len(templates))].replace("{question}", question(text))

    def others(text):
        return len({template.replace("{question}", question(text)) for template in templates} - {text})

    return Perturbation(name, rewrite, others)


def _options(example):
    expect(has_options(example), lambda: f"{example!r} has no options to reorder: give a tuple (question, option_1, "
           "option_2, ...)")
    return example[1:]


def _reordered(example, rng):
    options = _options(example)
    return example[0], *(options[i] for i in rng.permutation(len(options)))


def _other_orders(example):
    """How many orders differ from its own, n! / (m_1! m_2! ...) - 1, where m_i options have the same text."""
    options = _options(example)
    same = math.prod(math.factorial(m) for m in Counter(options).values())
    return math.factorial(len(options)) // same - 1


# the same options in another order; prediction and training map what comes of it back onto the order of x
OPTION_ORDER = Perturbation("option_order", _reordered, _other_orders)


@dataclass(frozen=True)
class Prompt:
    """One formulation. answers : a text per label, None where the input brings its options along. note : what sets it
    apart. prior : which answers its words favour whatever the input is, "even" for none."""

    id: str
    template: str
    answers: tuple[str, ...] | None
    note: str
    prior: str


@dataclass(frozen=True)
class Formulations:
    """Ways to put one kind of task to a language model, and the kernel that changes between them.

    An input is *asked* through a formulation: a text or pair becomes (prompt, answer of the first label, ...), a
    question with options (prompt, option_1, ...), an open question its prompt alone. ChoiceLM and GenerativeLM take
    "{question}" as their whole template then, RemoteLM for `choice_letter` too; for other kinds its own template lists
    the answers. In a prompt of `choice_letter` the model fills the place of the list: options can be reordered.

    kind, fields : as in data/prompts.yaml. labels : whose answers are asked for, in their order; None without labels.
    seen, unseen : formulations to choose, train and calibrate with, and others for the test.
    """

    kind: str
    fields: tuple[str, ...]
    labels: tuple[str, ...] | None
    seen: tuple[Prompt, ...]
    unseen: tuple[Prompt, ...]

    def __getitem__(self, id: str) -> Prompt:
        return self._by_id[self._known(id)]

    def prompts(self, which: str = "seen") -> tuple[Prompt, ...]:
        """The set "seen" or "unseen", or "all". ValueError for another name."""
        sets = {"seen": self.seen, "unseen": self.unseen, "all": self.seen + self.unseen}
        expect(which in sets, lambda: unknown_name("set of formulations", which, sets))
        return sets[which]

    def ask(self, inputs: Sequence[Input], id: str | None = None) -> list[Input]:
        """The inputs, asked through the formulation of that id, or the first.

        ValueError for an input of another form, or one that could be read back in two ways, since it holds words of the
        formulation itself.
        """
        prompt = self[id] if id else self.seen[0]
        return [self._asked(x, prompt) for x in as_inputs(inputs)]

    def orbits(self, inputs: Sequence[Input], which: str = "seen", then: Perturbation | None = None, seed: int = 0
               ) -> list[list[Input]]:
        """N lists of the M ways to ask each input: formulation j of the set at place j. then : as in `kernel`; each
        member is a variant of its own, the first one too, so that any of them may be taken as x."""
        inputs, prompts = as_inputs(inputs), self.prompts(which)
        drawn = variants(inputs, then, len(prompts), seed) if then else [[x] * len(prompts) for x in inputs]
        return [[self._asked(x, prompt) for x, prompt in zip(row, prompts)] for row in drawn]

    def read(self, asked: Input) -> tuple[Prompt, Input]:
        """(formulation, input) of what `ask` returned. ValueError for an input that is asked in none of them."""
        text, options = (asked, ()) if isinstance(asked, str) else (asked[0], tuple(asked[1:]))
        for prompt, pattern in self._patterns:
            if (prompt.answers is None or options == prompt.answers) and (found := pattern.fullmatch(text)):
                parts = tuple(found[f"f{name[1:-1]}"] for name in self._texts)
                parts += () if prompt.answers else options
                return prompt, parts if len(parts) > 1 else parts[0]
        raise ValueError(f"{asked!r} is asked in none of the formulations of {self.kind!r}: ask it first, "
                         f"formulations({self.kind!r}).ask(inputs)")

    def raw(self, asked: Sequence[Input]) -> list[Input]:
        """The inputs behind what `ask` returned; with a world's p* after it, the judge that an audit needs."""
        return [self.read(x)[1] for x in asked]

    def kernel(self, which: str = "seen", then: Perturbation | None = None) -> Perturbation:
        """The kernel that asks the same through another formulation of the set, drawn uniformly.

        Of an input asked through one of its M members, M - 1 distinct variants exist and none is drawn twice before all
        have been; (x, x') is exchangeable if x's formulation was drawn uniformly. An input asked through a formulation
        outside of the set has M. then : a kernel of what is asked, such as TYPOS, on_first(TYPOS) for a question with
        options, or OPTION_ORDER; it rewrites the input behind every variant.
        """
        prompts = self.prompts(which)

        def others(asked):
            now, _ = self.read(asked)
            return [prompt for prompt in prompts if prompt is not now]

        def another(asked, rng):
            left = others(asked)
            return self._asked(self.read(asked)[1], left[rng.integers(len(left))])

        name = f"formulations of {self.kind}" + (f" ({which})" if which != "seen" else "")
        formulations = Perturbation(name, another, lambda asked: len(others(asked)))
        return _Rewritten(f"{name} + {then.name}", another, None, self, formulations, then) if then else formulations

    def _asked(self, x, prompt):
        texts, n = (x,) if isinstance(x, str) else x, len(self._texts)
        if self.kind.startswith("choice"):
            expect(len(texts) > n + 1, lambda: f"{x!r} cannot be asked as {self.kind!r}: give a tuple (question, "
                   "option_1, option_2, ...)")
        else:
            expect(len(texts) == n, lambda: f"{x!r} cannot be asked as {self.kind!r}: give "
                   f"{'a text' if n == 1 else 'a pair of texts'}")
        given, template = dict(zip(self._texts, texts)), self._template(prompt)
        text = re.sub("|".join(map(re.escape, given)), lambda found: given[found[0]], template)
        options = prompt.answers or texts[n:]
        asked = (text, *options) if options else text
        once = text.count(OPTIONS) == template.count(OPTIONS) and self._reads_once(prompt, text)
        expect(once and self.read(asked) == (prompt, x), lambda: f"{x!r} holds words of the formulation {prompt.id!r}, "
               "so that it could be read back in two ways: leave it out, or put it in other words")
        return asked

    @cached_property
    def _texts(self):
        """The fields that an input's texts fill, as they stand in a template."""
        return [f"{{{name}}}" for name in self.fields if f"{{{name}}}" != OPTIONS]

    def _template(self, prompt):
        return prompt.template.replace(OPTIONS, lettered(prompt.answers)) if prompt.answers else prompt.template

    def _reads_once(self, prompt, text):
        first, last = (self._pattern(prompt, repeat).fullmatch(text) for repeat in ("*", "*?"))
        return first.groups() == last.groups()

    def _pattern(self, prompt, repeat):
        return _pattern(self._template(prompt), tuple(self._texts), repeat)

    @cached_property
    def _patterns(self):
        """(formulation, pattern), the most literal first: it is the one that was meant."""
        every = sorted(self.prompts("all"), key=lambda prompt: len(self._template(prompt)), reverse=True)
        return [(prompt, self._pattern(prompt, "*")) for prompt in every]

    @cached_property
    def _by_id(self):
        return {prompt.id: prompt for prompt in self.prompts("all")}

    def _known(self, id):
        expect(id in self._by_id, lambda: unknown_name("formulation", id, self._by_id))
        return id


@lru_cache(maxsize=None)
def _pattern(template, fields, repeat):
    parts = re.split(f"({'|'.join(map(re.escape, fields))})", template)
    return re.compile("".join(f"(?P<f{part[1:-1]}>.{repeat})" if i % 2 else re.escape(part)
                              for i, part in enumerate(parts)), re.DOTALL)


@dataclass(frozen=True)
class _Rewritten(Perturbation):
    """Other formulations, distinct while there are any, of an input that `then` rewrites for each."""

    formulations: Formulations = None
    kernel: Perturbation = None
    then: Perturbation = None

    def sample(self, example, k, rng):
        found = []
        for variant in self.kernel.sample(example, k, rng):
            prompt, x = self.formulations.read(variant)
            found.append(self.formulations._asked(self.then.sample(x, 1, rng)[0], prompt))
        return found


def formulations(kind: str, labels: Sequence[str] | None = None, file: Path | str | None = None) -> Formulations:
    """The hand-written formulations of a kind of task: "sentiment", "topic", "nli", "yes_no", "choice_likelihood",
    "choice_letter" or "open".

    labels : of the task, in its order (Task.label_names), all among those of the kind; None takes these. file : default
    data/prompts.yaml; data/README.md explains its fields. ValueError for an unknown kind or label, FileNotFoundError
    where there is no such file.
    """
    kinds = _kinds(Path(file) if file else paths.root() / "data" / "prompts.yaml")
    expect(kind in kinds, lambda: unknown_name("kind of formulations", kind, kinds))
    content = kinds[kind]
    known = content.get("labels")
    chosen = tuple(labels or known) if known else None
    for label in chosen or ():
        expect(label in known, lambda: unknown_name(f"label of {kind!r}", label, known))

    def prompt(row):
        answers = tuple(row["answers"][known.index(label)] for label in chosen) if chosen else None
        return Prompt(row["id"], row["template"], answers, row["note"], row["prior"])

    return Formulations(kind, tuple(content["fields"]), chosen, *(
        tuple(prompt(row) for row in content[name]) for name in ("seen", "unseen")))


@lru_cache(maxsize=4)
def _kinds(file):
    import yaml

    if not file.exists():
        raise FileNotFoundError(f"{file} is not there: run in the project's folder, or give file=, a copy of its "
                                "data/prompts.yaml")
    return yaml.safe_load(file.read_text(encoding="utf-8"))
