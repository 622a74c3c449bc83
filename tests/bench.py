"""Costs as ratios within one run, so that they hold on any machine: `python tests/bench.py [name ...]`.

Each benchmark returns rows (what, ratio, accepted): medians over interleaved repetitions, `accepted` None for
information only. The exit status is 1 if a ratio exceeds what is accepted.
"""

import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import tokenizers
import torch
import torch.nn.functional as F
import transformers

import sua
from sua.generation import Entailment, GenerativeLM, generation_score, meaning_clusters
from sua import EncoderClassifier, SUATrainer
from sua.models.common import _kept
from sua.models.tiny import tiny_encoder, tiny_llama
from sua.tasks import inputs

SIZES = {"train": 320, "validation": 1, "calibration": 1, "test": 1}


def seconds(*actions, repetitions=15):
    """Median seconds of each action, taken in turns, after one turn to warm up."""
    spent = [[] for _ in actions]
    for turn in range(repetitions + 1):
        for times, action in zip(spent, actions):
            start = time.perf_counter()
            action()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                times.append(time.perf_counter() - start)
    return [median(times) for times in spent]


def peak_bytes(action):
    """Most bytes in tensors that were alive at once during the action, beyond those before it."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        action()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True) as profile:
        action()
    alive = peak = 0
    for event in sorted((e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"),
                        key=lambda e: e.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def objective_step():
    """A step of an objective over plain cross-entropy on the same (K+1)B rows: forward, backward, AdamW."""
    task = sua.load_task("topic", SIZES)
    rows = []
    for name in ("sua_tr", "r_drop"):
        classifier = tiny_encoder(inputs(task["train"]), task.n_classes, hidden=128, layers=4)
        with tempfile.TemporaryDirectory() as folder:
            args = transformers.TrainingArguments(folder, use_cpu=not torch.cuda.is_available(), report_to=[])
            trainer = SUATrainer(classifier, args, task["train"], sua.OBJECTIVES[name], task.perturbation("synonyms"))
        batch = trainer.train_dataset.collate([trainer.train_dataset[i] for i in range(32)])
        batch = {key: value.to(args.device) for key, value in batch.items()}
        features = {key: value for key, value in batch.items() if key not in ("labels", "items")}
        labels = torch.cat([batch["labels"], batch["labels"].repeat_interleave(sua.OBJECTIVES[name].k)])
        model, optimizer = classifier.model.train(), torch.optim.AdamW(classifier.model.parameters())

        def step(loss):
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        ours = lambda: step(trainer.compute_loss(model, batch))
        plain = lambda: step(F.cross_entropy(model(**features).logits, labels))
        (time_ours, time_plain), memory = seconds(ours, plain), peak_bytes(ours) / peak_bytes(plain)
        rows += [(f"{name}: step time", time_ours / time_plain, 1.10), (f"{name}: peak memory", memory, 1.10)]
    return rows


def equal_compute():
    """Whole trainings at compute_k = 4, drawing and tokenising variants included, over those of plain fine-tuning."""
    task = sua.load_task("topic", SIZES)
    names = ("erm", "augment", "r_drop", "adversarial", "sua_tr", "augment_share_smoothed")

    def training(name):
        _kept.cache_clear()  # no rows of tokens from the training before
        sua.train("tiny", task, sua.OBJECTIVES[name], task.perturbation("synonyms"), epochs=1, compute_k=4, hidden=128,
                  layers=4)

    erm, *others = seconds(*(partial(training, name) for name in names), repetitions=3)
    return [(f"{name}: training time", other / erm, None) for name, other in zip(names[1:], others)]


def choice_scoring():
    """Options of variants of a question over plain loops that find the same, from tokens made beforehand.

    "From texts": tokens included, as the first time; ours tokenises prompt and option together, which a pass over the
    prompts alone does not.
    """
    words = [f"word{i}" for i in range(500)]
    rng = np.random.default_rng(0)
    text = lambda n: " ".join(rng.choice(words, n))

    def questions(context, question, option, options=4, count=2):
        return [(f"{paragraph} {text(question)}".strip(), *drawn) for _ in range(count)
                for paragraph, drawn in [(text(context), [text(option) for _ in range(options)])] for _ in range(8)]

    def loop(size, lm, texts, score, again=False):
        tokens = lm.tokenizer(texts)["input_ids"]

        @torch.inference_mode()
        def run():
            rows, scores = lm.tokenizer(texts)["input_ids"] if again else tokens, []
            for start in range(0, len(rows), size):
                batch = lm.tokenizer.pad({"input_ids": rows[start:start + size]}, return_tensors="pt")
                scores.append(score(lm.model(**batch).logits, batch, slice(start, start + size)))
            return torch.cat(scores).reshape(len(inputs), -1).softmax(-1).numpy()

        np.testing.assert_allclose(run(), lm.predict_proba(inputs), atol=1e-4)
        return run

    def whole_texts(size, lm):
        begins = torch.tensor([len(lm.tokenizer(f"{prompt} :")["input_ids"]) for prompt, *options in inputs
                               for _ in options])

        def score(logits, batch, part):
            log_p = logits.log_softmax(-1)[:, :-1].gather(2, batch["input_ids"][:, 1:, None])[..., 0]
            scored = (torch.arange(1, 1 + log_p.shape[1]) >= begins[part, None]) & batch["attention_mask"][:, 1:].bool()
            return (log_p * scored).sum(1)

        return loop(size, lm, [f"{prompt} : {option}" for prompt, *options in inputs for option in options], score)

    def prompts_alone(size, lm, again=False):  # enough where the options' tokens come next
        answers = torch.tensor([[lm.tokenizer(option)["input_ids"][-1] for option in options]
                                for _, *options in inputs])
        return loop(size, lm, [f"{prompt} :" for prompt, *_ in inputs], lambda logits, batch, part: logits[
            range(len(logits)), batch["attention_mask"].sum(1) - 1].log_softmax(-1).gather(1, answers[part]), again)

    def from_texts(lm):
        lm._known.clear()
        lm.predict_proba(inputs)

    results = []
    for width, layers in ((256, 4), (64, 2)):
        lm = tiny_llama(words, hidden=width, layers=layers, dropout=0, max_length=512)
        for what, inputs, accepted, loops in (
                ("shared paragraph", questions(200, 15, 3), 1 / 3, {"batches of 32": (whole_texts, 32)}),
                ("no paragraph", questions(0, 15, 3), 1.0, {"batches of 32": (whole_texts, 32)}),
                ("two long options", questions(0, 5, 30, 2, 8), 1.0, {"batches of 32": (whole_texts, 32)}),
                ("options of one token", questions(0, 15, 1, count=16), 1.0,
                 {"batches of 32": (whole_texts, 32), "prompts alone": (prompts_alone, 32)})):
            loops = {**loops, "one by one": (whole_texts, 1)}
            ours, *theirs = seconds(lambda: lm.predict_proba(inputs), *(f(size, lm) for f, size in loops.values()),
                                    repetitions=15)
            results += [(f"width {width}, {what}: over {name}", ours / time, accepted)
                        for name, time in zip(loops, theirs)]
        ours, theirs = seconds(lambda: from_texts(lm), prompts_alone(32, lm, again=True))
        results.append((f"width {width}, {what}, from texts: over prompts alone", ours / theirs, None))
    return results


ROOT = Path(__file__).parents[1]
LM_POLYGRAPH = ROOT / "build" / "lm_polygraph" / "venv"
THEIRS = """
import json, sys
import transformers
from lm_polygraph import WhiteboxModel
from lm_polygraph.defaults.register_default_stat_calculators import register_default_stat_calculators
from lm_polygraph.estimators import (MaximumSequenceProbability, MeanTokenEntropy,
                                     MonteCarloSequenceEntropy, Perplexity, SemanticEntropy)
from lm_polygraph.utils.builder_enviroment_stat_calculator import BuilderEnvironmentStatCalculator
from lm_polygraph.utils.dataset import Dataset
from lm_polygraph.utils.manager import UEManager

folder, nli = sys.argv[1:]
questions = json.load(open(f"{folder}/questions.json"))
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
model = WhiteboxModel(transformers.AutoModelForCausalLM.from_pretrained(folder).eval(), tokenizer)
calculators = register_default_stat_calculators("Whitebox", output_attentions=False, output_hidden_states=False,
                                                deberta_batch_size=32)
for calculator in calculators:
    if "nli_model" in calculator.cfg:
        calculator.cfg.nli_model.deberta_path = nli
greedy = [MaximumSequenceProbability(), Perplexity(), MeanTokenEntropy()]
more = {"greedy": [], "samples": [MonteCarloSequenceEntropy()], "semantic entropy": [SemanticEntropy()]}
for line in sys.stdin:
    estimators = [*greedy, *more[line.strip()]]
    manager = UEManager(Dataset(questions, questions, batch_size=32), model, estimators,
                        BuilderEnvironmentStatCalculator(model), calculators, [], [], [], ignore_exceptions=False,
                        verbose=False, max_new_tokens=20)
    manager()
    print(json.dumps([manager.estimations["sequence", str(estimator)] for estimator in greedy]), flush=True)
"""


def lm_polygraph():
    """Scores of free-form answers of a tiny Llama over those of lm-polygraph's manager, both at 32 questions per batch.

    Its samples are drawn one after another, ours all at once, which takes 11 times the memory. Needs the internet once,
    for a virtual environment of its own in build/.
    """
    if not LM_POLYGRAPH.exists():
        subprocess.run([sys.executable, "-m", "venv", LM_POLYGRAPH], check=True)
        subprocess.run([LM_POLYGRAPH / "bin/python", "-m", "pip", "install", "-q", "torch==2.13.0",
                        "lm-polygraph==0.7.*"], check=True)
    words = [f"w{i}" for i in range(2000)]
    rng = np.random.default_rng(0)
    questions = [" ".join(rng.choice(words, rng.integers(5, 40))) for _ in range(64)]
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(
        {token: i for i, token in enumerate(["<pad>", "</s>", *words])}, "<pad>"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>")
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, pad_token_id=0, bos_token_id=None, eos_token_id=1))
    model.lm_head.weight.data *= 20
    classes = ("contradiction", "neutral", "entailment")
    nli = EncoderClassifier(transformers.DebertaV2ForSequenceClassification(transformers.DebertaV2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        id2label=dict(enumerate(classes)), label2id={name: i for i, name in enumerate(classes)})), tokenizer,
        batch_size=32)
    white_box = ("sequence_nll", "perplexity", "mean_token_entropy")

    def ours(kind):
        m = 0 if kind == "greedy" else 10
        lm = GenerativeLM(model, tokenizer, template="{question}", max_new_tokens=20, batch_size=32 * (m + 1))
        generations = lm.generate(questions, m=m, p_true=False)
        if kind == "semantic entropy":
            clusters = meaning_clusters(generations, Entailment(nli, 2))
            generation_score(generations, "semantic_entropy", clusters)
        return [generation_score(generations, name) for name in white_box]

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        nli.save(f"{folder}/nli")
        Path(folder, "questions.json").write_text(json.dumps(questions))
        with subprocess.Popen([LM_POLYGRAPH / "bin/python", "-c", THEIRS, folder, f"{folder}/nli"], text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
            def theirs(kind):
                print(kind, file=worker.stdin, flush=True)
                return json.loads(worker.stdout.readline())

            np.testing.assert_allclose(ours("greedy"), theirs("greedy"), rtol=1e-3)
            rows = []
            for kind, repetitions, accepted in (("greedy", 5, 0.2), ("samples", 3, None),
                                                ("semantic entropy", 1, None)):
                time_ours, time_theirs = seconds(lambda: ours(kind), lambda: theirs(kind), repetitions=repetitions)
                rows.append((f"{kind}: time over lm-polygraph's", time_ours / time_theirs, accepted))
    return rows


BENCHMARKS = {"objective_step": objective_step, "equal_compute": equal_compute, "choice_scoring": choice_scoring,
              "lm_polygraph": lm_polygraph}

if __name__ == "__main__":
    failed = False
    for chosen in sys.argv[1:] or BENCHMARKS:
        print(f"{chosen}: {BENCHMARKS[chosen].__doc__.splitlines()[0]}")
        for what, ratio, accepted in BENCHMARKS[chosen]():
            failed |= accepted is not None and ratio > accepted
            print(f"  {what:64s} {ratio:6.3f}" + (f"  (accepted: {accepted:.2f})" if accepted else ""), flush=True)
    sys.exit(failed)
