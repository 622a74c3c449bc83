"""The hand-written questions and prompts in data/ keep every rule of data/README.md; a failure names the id."""

import json
import re
from collections import Counter
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from string import Formatter

import pytest
import yaml
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline

from sua.tasks.worlds import nli as world_nli, topic as world_topic
from sua.tasks import HUB_TASKS

DATA = Path(__file__).parents[1] / "data"
KINDS = ("referent", "time", "place", "unit", "scope", "sense", "attachment")
FIELDS = {"id": str, "kind": str, "ambiguous": bool, "question": str, "interpretations": list, "paraphrases": list,
          "distractor": str}
READING = {"reading": str, "weight": float, "answer": str, "aliases": list, "clarified": str}

LINES = (DATA / "ambiguous_questions.jsonl").read_text(encoding="utf-8").split("\n")
ITEMS = [json.loads(line) for line in LINES if line]
AMBIGUOUS = [item for item in ITEMS if item["ambiguous"]]
CONTROLS = [item for item in ITEMS if not item["ambiguous"]]


def each(items=ITEMS):
    return pytest.mark.parametrize("item", items, ids=[item["id"] for item in items])


def questions(item):
    """Every question of an item: the original, its paraphrases, its clarifications."""
    return [item["question"], *item["paraphrases"], *(z["clarified"] for z in item["interpretations"])]


def accepted(z):
    """Accepted answers of an interpretation, in lower case."""
    return [answer.lower() for answer in (z["answer"], *z["aliases"])]


def contains(text, part):
    """Whether `part` is a run of whole words of `text`; 9 is none of -9, nor 15 of 15.5."""
    return re.search(rf"(?<!\S){re.escape(part)}(?!\S)", text) is not None


def test_one_object_per_line():
    assert LINES[-1] == "" and all(LINES[:-1]), "the file has an empty line, or its last line has no line feed"


def test_ids_are_consecutive():
    expected = [f"amb-{i:03d}" for i in range(1, len(AMBIGUOUS) + 1)]
    expected += [f"ctl-{i:03d}" for i in range(1, len(CONTROLS) + 1)]
    wrong = [(item["id"], want) for item, want in zip(ITEMS, expected) if item["id"] != want]
    assert not wrong, f"{wrong[0][0]} stands where {wrong[0][1]} should"


def test_counts():
    count = Counter(item["kind"] for item in ITEMS)
    assert set(count) == {*KINDS, "control"}
    assert len(AMBIGUOUS) >= 120 and len(CONTROLS) >= 80, count
    assert all(count[kind] >= 15 for kind in KINDS), count


@each()
def test_schema(item):
    name = item["id"]
    assert {key: type(value) for key, value in item.items()} == FIELDS, f"{name}: fields or types"
    assert list(item) == list(FIELDS), f"{name}: order of the keys"
    for z in item["interpretations"]:
        assert {key: type(value) for key, value in z.items()} == READING, f"{name}: fields or types of {z}"
        assert list(z) == list(READING), f"{name}: order of the keys of {z}"
        assert all(type(alias) is str for alias in z["aliases"]), f"{name}: an alias of {z['answer']} is not a string"
    assert all(type(text) is str for text in item["paraphrases"]), f"{name}: a paraphrase is not a string"
    assert (item["kind"] == "control") != item["ambiguous"], f"{name}: kind {item['kind']} and ambiguous disagree"
    assert name[:3] == ("amb" if item["ambiguous"] else "ctl"), f"{name}: id and ambiguous disagree"


@each()
def test_interpretations(item):
    name, readings = item["id"], item["interpretations"]
    assert len(readings) in ((2, 3) if item["ambiguous"] else (1,)), f"{name}: {len(readings)} interpretations"
    weights = [z["weight"] for z in readings]
    assert all(0 < w <= 1 for w in weights), f"{name}: weights {weights}"
    assert sum(weights) == 1 == sum(Fraction(str(w)) for w in weights), f"{name}: weights {weights} do not add to 1"
    assert len({z["reading"].lower() for z in readings}) == len(readings), f"{name}: the same reading twice"
    for z in readings:
        assert len(set(accepted(z))) == len(accepted(z)), f"{name}: the same alias twice for {z['answer']}"
    for a, b in combinations(map(accepted, readings), 2):
        shared = [(s, t) for s in a for t in b if contains(s, t) or contains(t, s)]
        assert not shared, f"{name}: two interpretations share an answer, or one contains the other: {shared}"


@each()
def test_texts(item):
    name, asked = item["id"], questions(item)
    assert len(item["paraphrases"]) == 4, f"{name}: {len(item['paraphrases'])} paraphrases"
    twice = [text for text, n in Counter(text.lower() for text in asked).items() if n > 1]
    assert not twice, f"{name}: twice among question, paraphrases and clarifications: {twice}"
    for text in asked:
        assert text.endswith("?"), f"{name}: no question mark at the end of {text!r}"
        assert not text[0].islower(), f"{name}: {text!r} begins with a small letter"
    strings = [item["kind"], *asked, item["distractor"]]
    for z in item["interpretations"]:
        strings += [z["reading"], z["answer"], *z["aliases"]]
    for text in strings:
        assert text and text == " ".join(text.split()), f"{name}: blank, not stripped, or a double space: {text!r}"


def bare(text):
    """Letters, digits and spaces of a text, in lower case."""
    return "".join(c for c in text.casefold() if c.isalnum() or c == " ")


@each()
def test_distractor_is_no_accepted_answer(item):
    """Letter by letter: neither is part of the other."""
    wrong = bare(item["distractor"])
    for answer in map(bare, [answer for z in item["interpretations"] for answer in accepted(z)]):
        assert wrong not in answer and answer not in wrong, f"{item['id']}: distractor {wrong!r} and answer {answer!r}"


def test_no_text_in_two_items():
    """Questions, paraphrases and clarifications of different items differ, so that a split by item leaks nothing."""
    first = {}
    for item in ITEMS:
        for text in questions(item):
            other = first.setdefault(text.lower(), item["id"])
            assert other == item["id"], f"{item['id']}: {text!r} is in {other} too"


@pytest.mark.parametrize("measure", [lambda text: len(text.split()), len], ids=["words", "characters"])
def test_length_does_not_tell_ambiguous_from_control(measure):
    lengths = [measure(item["question"]) for item in ITEMS]
    area = roc_auc_score([item["ambiguous"] for item in ITEMS], lengths)
    assert 0.35 <= area <= 0.65, f"AUROC {area:.3f} of length for ambiguous against control"


def test_words_do_not_tell_ambiguous_from_control():
    """A value below 1/2 is no leak: close partners, one word apart, fall into different folds and mislead."""
    asked, ambiguous = [item["question"] for item in ITEMS], [item["ambiguous"] for item in ITEMS]
    model = make_pipeline(CountVectorizer(ngram_range=(1, 2), binary=True), LogisticRegression())
    share = cross_val_predict(model, asked, ambiguous, cv=5, method="predict_proba")[:, 1]
    area = roc_auc_score(ambiguous, share)
    assert area <= 0.65, f"AUROC {area:.3f} of words and word pairs for ambiguous against control"


def test_readme_names_fields_and_kinds():
    page = (DATA / "README.md").read_text(encoding="utf-8")
    missing = [name for name in (*FIELDS, *READING, *KINDS, "control") if f"`{name}`" not in page]
    assert not missing, f"data/README.md does not explain {missing}"
    cited = re.findall(r"`((?:amb|ctl)-\d{3})` (.+?\?)", page)
    assert len(cited) == len(KINDS) + 1, f"data/README.md has {len(cited)} examples"
    text = {item["id"]: item["question"] for item in ITEMS}
    stale = [name for name, question in cited if text.get(name) != question]
    assert not stale, f"data/README.md quotes {stale} wrongly"


PROMPT_KINDS = {  # fields of the templates and labels; `options`, where not named, may be added by kinds with labels
    "sentiment": ({"question"}, HUB_TASKS["sst2"].label_names),
    "topic": ({"question"}, (*HUB_TASKS["ag_news"].label_names, *world_topic.LABELS)),
    "nli": ({"0", "1"}, world_nli.LABELS), "yes_no": ({"0", "1"}, ("no", "yes")),
    "choice_likelihood": ({"question"}, ()), "choice_letter": ({"question", "options"}, ()), "open": ({"question"}, ())}
PROMPT = ("id", "template", "answers", "note", "prior")
PROMPTS = yaml.safe_load((DATA / "prompts.yaml").read_text(encoding="utf-8"))
OF_KIND = {kind: [*given["seen"], *given["unseen"]] for kind, given in PROMPTS.items()}
EVERY = [(kind, prompt) for kind, prompts in OF_KIND.items() for prompt in prompts]
LABELLED = [(kind, prompt) for kind, prompt in EVERY if PROMPT_KINDS[kind][1]]


def each_prompt(prompts=EVERY):
    return pytest.mark.parametrize("kind, prompt", prompts, ids=[prompt["id"] for _, prompt in prompts])


def fields(template):
    """Names of the fields, each as often as it stands there."""
    return [field for _, field, _, _ in Formatter().parse(template) if field is not None]


def written(template, text):
    """The template with `text` in every field by replacement, as GenerativeLM and RemoteLM fill them."""
    return re.sub(r"\{\w+\}", lambda _: text, template)


def test_kinds_of_prompts():
    assert set(PROMPTS) == set(PROMPT_KINDS)
    for kind, (names, labels) in PROMPT_KINDS.items():
        given = PROMPTS[kind]
        assert set(given["fields"]) == names and tuple(given.get("labels", ())) == labels, f"{kind}: fields or labels"
        assert set(given) == {"fields", "seen", "unseen"} | ({"labels"} if labels else set()), f"{kind}: {set(given)}"
        assert all(type(text) is str for text in given["fields"].values()), f"{kind}: meaning of the fields"
        assert len(given["seen"]) >= 8 and len(given["unseen"]) >= 4, f"{kind}: too few formulations"


def test_prompts_differ():
    for key in ("id", "template"):
        twice = [text for text, n in Counter(prompt[key].lower() for _, prompt in EVERY).items() if n > 1]
        assert not twice, f"{key} twice: {twice}"
    twice = [pair for pair, n in Counter((kind, prompt["note"]) for kind, prompt in EVERY).items() if n > 1]
    assert not twice, f"two formulations of a kind that differ in the same: {twice}"


@each_prompt()
def test_schema_of_prompts(kind, prompt):
    name, labels = prompt["id"], PROMPT_KINDS[kind][1]
    assert tuple(prompt) == tuple(key for key in PROMPT if labels or key != "answers"), f"{name}: keys or their order"
    assert re.fullmatch("[a-z]+(-[a-z]+)+", name), f"{name}: small letters and hyphens alone make an id"
    texts = [prompt["note"], prompt["prior"], *prompt.get("answers", ())]
    for text in texts:  # an unquoted yes or no would be read as a truth value
        assert type(text) is str and text and text == " ".join(text.split()), f"{name}: {text!r}"
    assert prompt["note"].endswith(".") and not prompt["prior"].endswith("."), f"{name}: note or prior"


@each_prompt()
def test_templates(kind, prompt):
    name, template, (names, labels) = prompt["id"], prompt["template"], PROMPT_KINDS[kind]
    used = fields(template)
    assert len(set(used)) == len(used), f"{name}: a field twice in {used}"
    assert names <= set(used) <= names | ({"options"} if labels else set()), f"{name}: fields {used}"
    named = {field: "a text" for field in used if not field.isdigit()}
    filled = template.format(*["a text"] * (len(used) - len(named)), **named)
    assert filled == written(template, "a text"), f"{name}: braces that are no field"
    assert template == template.strip() and not re.search(r" \n|\t|  |\n\n\n", template), f"{name}: white space"
    assert template.isascii() and max(map(len, template.split("\n"))) <= 120, f"{name}: a sign or a long line"
    # "not given" is an answer
    found = re.search(r"(?<![\w.])[~/\\]\w+[/\\]\w|https?:|<\||\bnot\b(?! given)|n't", template)
    assert not found, f"{name}: a path, an address, a special token or a negation: {found}"


@each_prompt()
def test_no_formulation_reads_as_another(kind, prompt):
    text = written(prompt["template"], "a text\nof two lines")
    for other in OF_KIND[kind]:
        pattern = "(.*)".join(map(re.escape, re.split(r"\{\w+\}", other["template"])))
        same = re.fullmatch(pattern, text, re.DOTALL) is not None
        assert same == (other is prompt), f"{prompt['id']} reads as {other['id']}"


@each_prompt(LABELLED)
def test_answers_of_prompts(kind, prompt):
    name, labels, answers, template = prompt["id"], PROMPT_KINDS[kind][1], prompt["answers"], prompt["template"]
    assert len(answers) == len(labels), f"{name}: {len(answers)} answers to {len(labels)} labels"
    first = Counter(answer.lower().split()[0] for answer in answers)
    assert max(first.values()) == 1, f"{name}: answers that begin alike: {first}"
    named = [answer for answer in answers if re.search(rf"\b{re.escape(answer)}\b", template, re.IGNORECASE)]
    named += ["{options}"] * ("options" in fields(template))
    assert not named or prompt["prior"] != "even", f"{name}: names {named}, so some answer comes first"
    assert not named or "no answer named" not in prompt["note"], f"{name}: names {named}"


def test_each_kind_varies_answers_and_the_place_of_the_instruction():
    for kind, prompts in OF_KIND.items():
        if PROMPT_KINDS[kind][1]:
            assert len({tuple(map(str.lower, prompt["answers"])) for prompt in prompts}) >= 3, kind
        for part in ("seen", "unseen"):
            early = [prompt["template"].find("{") < len(prompt["template"]) / 2 for prompt in PROMPTS[kind][part]]
            assert len(set(early)) == 2, f"{kind}, {part}: the input stands early in all or in none"


def test_readme_names_what_prompts_have():
    page = (DATA / "README.md").read_text(encoding="utf-8")
    names = (*PROMPT_KINDS, *PROMPT, "fields", "labels", "seen", "unseen")
    missing = [name for name in names if f"`{name}`" not in page]
    assert not missing, f"data/README.md does not explain {missing}"
