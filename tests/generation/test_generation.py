"""Free-form answers: generation against a naive loop and exact distributions; clusters; scores in closed form."""

import math
import string
import zlib
from dataclasses import replace

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm
from scipy.stats import chisquare

from sua import CallableModel, Predictions, score
from sua.generation import (GENERATION_SCORES, P_TRUE, Clusters, Entailment, Generations, GenerativeLM, SameText,
                            cluster, generation_score, meaning_clusters, normalise, relevance, rouge_l, similarities)
from sua.perturb import Perturbation

CHARACTERS = ["<pad>", "</s>", "<s>", *string.printable[:95], "\n"]
QUESTIONS = ["Who wrote Emma?", "Where?", "What is the capital of the country north of Spain?", "Who wrote Emma?",
             "When?"]
SHOUT = Perturbation.of_text("shout", lambda text, rng: text[:-1] + "!" * rng.integers(1, 3))
TEMPLATE = "Q: {question} A:"
TOKENS = 6


@pytest.fixture(scope="module")
def tokenizer():
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel({c: i for i, c in enumerate(CHARACTERS)}, "<pad>"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    core.decoder = tokenizers.decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", bos_token="<s>")


def steep(model):
    """Logits that differ by several nats, with padding and context that matter; an answer often ends early."""
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 12 if weight.ndim > 1 else 1
        model.lm_head.weight *= 1.5 if isinstance(model, transformers.LlamaForCausalLM) else 0.15
    return model


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request):
    torch.manual_seed(0)
    shared = {"vocab_size": len(CHARACTERS), "eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 0}
    if request.param == "gpt2":
        return steep(transformers.GPT2LMHeadModel(transformers.GPT2Config(
            n_embd=32, n_layer=2, n_head=4, n_positions=256, **shared)))
    return steep(transformers.LlamaForCausalLM(transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=256, **shared)))


def lm(model, tokenizer, **options):
    return GenerativeLM(model, tokenizer, **{"template": TEMPLATE, "max_new_tokens": TOKENS, **options})


def next_logits(model, tokens):
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0, -1].double()


def naively(model, tokenizer, prompt, uniform, temperature, with_tokens=False):
    """One answer by full forward passes without cache, batch or padding; NaN in `uniform` takes the likeliest token."""
    tokens, answer, logprobs, entropies = tokenizer(prompt)["input_ids"], "", [], []
    start = len(tokens)
    for u in uniform:
        logp = (next_logits(model, tokens) / temperature).log_softmax(-1).numpy()
        token = int(logp.argmax() if np.isnan(u) else np.searchsorted(np.exp(logp).cumsum(), u, side="right"))
        logprobs.append(logp[token])
        entropies.append(-(np.exp(logp) * logp).sum())
        tokens = tokens + [token]
        if CHARACTERS[token] in ("\n", "</s>"):
            break
        answer += CHARACTERS[token] if CHARACTERS[token] != "<s>" else ""
    return answer.strip(), np.array(logprobs), np.array(entropies), *([tokens[start:]] if with_tokens else [])


def test_answers_and_likelihoods_are_those_of_a_naive_loop(model, tokenizer):
    found = lm(model, tokenizer, temperature=0.7).generate(QUESTIONS, SHOUT, k=2, m=3, seed=5)
    lengths = set()
    for i, question in enumerate(QUESTIONS):
        answer, logprobs, entropies = naively(model, tokenizer, f"Q: {question} A:", np.full(TOKENS, np.nan), 1)
        assert found.answers[i] == answer
        n = len(logprobs)
        np.testing.assert_allclose(found.token_logprobs[i, :n], logprobs, atol=1e-4)
        np.testing.assert_allclose(found.token_entropies[i, :n], entropies, atol=1e-4)
        assert np.isnan(found.token_logprobs[i, n:]).all()
        for j, text in enumerate([question, *found.variants[i]]):
            prompt = f"Q: {text} A:"
            for s, u in enumerate(np.random.default_rng([5, zlib.crc32(prompt.encode())]).random((3, TOKENS))):
                answer, logprobs, _ = naively(model, tokenizer, prompt, u, 0.7)
                assert found.samples[i, j, s] == answer
                assert found.loglikelihoods[i, j, s] == pytest.approx(logprobs.sum(), abs=1e-4)
                lengths.add(len(logprobs))
    assert 1 < len(lengths) and min(lengths) < TOKENS  # some answers end before the others of their batch
    assert len(set(found.samples.ravel())) > 10


def test_p_true_is_the_share_of_the_first_option(model, tokenizer):
    found = lm(model, tokenizer).generate(QUESTIONS, m=0)
    for question, answer, share in zip(QUESTIONS, found.answers, found.p_true):
        tokens = tokenizer(P_TRUE.format(question=question, answer=answer) + " (")["input_ids"]
        logits = next_logits(model, tokens)[[CHARACTERS.index("A"), CHARACTERS.index("B")]]
        assert share == pytest.approx(logits.softmax(-1)[0].item(), abs=1e-5)
    assert np.ptp(found.p_true) > 1e-2 and found.samples is None


def test_batch_size_and_order_do_not_matter(model, tokenizer):
    answer = lambda questions, size, seed: lm(model, tokenizer, batch_size=size).generate(
        questions, SHOUT, k=1, m=4, seed=seed)
    reference, order = answer(QUESTIONS, 20, 1), [3, 1, 4, 0, 2]
    for size in (1, 7, 1000):
        moved = answer([QUESTIONS[i] for i in order], size, 1)
        for name in ("answers", "variants", "samples"):
            assert (getattr(moved, name) == getattr(reference, name)[order]).all()
        for name in ("token_logprobs", "token_entropies", "loglikelihoods", "p_true"):
            np.testing.assert_allclose(getattr(moved, name), getattr(reference, name)[order], atol=1e-4)
    other = answer(QUESTIONS, 20, 2)
    assert (other.answers == reference.answers).all() and (other.samples != reference.samples).mean() > 0.5


def test_each_distinct_prompt_is_read_once(model, tokenizer, monkeypatch):
    rows, forward = [], model.forward
    monkeypatch.setattr(model, "forward", lambda **x: rows.append(tuple(x["input_ids"].shape)) or forward(**x))
    lm(model, tokenizer, batch_size=25).generate(QUESTIONS, m=4, p_true=False)
    assert sum(n for n, length in rows if length > 1) == len(set(QUESTIONS))
    assert 15 < max(n for n, length in rows if length == 1) <= 20  # one batch, less what ended at once


def test_sampled_frequencies_are_the_models_probabilities(model, tokenizer):
    draws = 4000
    found = lm(model, tokenizer, max_new_tokens=1, temperature=1.5).generate(QUESTIONS[:1], m=draws, p_true=False)
    exact = (next_logits(model, tokenizer("Q: Who wrote Emma? A:")["input_ids"]) / 1.5).softmax(-1).numpy()
    text = ["" if c in ("<s>", "</s>") else c.strip() for c in CHARACTERS]
    expected = {answer: sum(p for p, other in zip(exact, text) if other == answer) for answer in set(text)}
    drawn = found.samples[0, 0]
    common = [answer for answer, p in expected.items() if p * draws >= 5]
    counts, means = np.array(sorted(((drawn == answer).sum(), p * draws) for answer, p in expected.items())[::-1]).T
    common = [np.append(values[:10], values[10:].sum()) for values in (counts, means)]
    assert min(common[1]) > 5 and chisquare(*common).pvalue > 1e-3
    for answer, likelihood in zip(drawn, found.loglikelihoods[0, 0]):
        if answer:
            assert math.exp(likelihood) == pytest.approx(expected[answer], rel=1e-4)


def test_save_load_and_cache(model, tokenizer, tmp_path, monkeypatch):
    cached = lm(model, tokenizer, cache=tmp_path / "cache")
    found = cached.generate(QUESTIONS, SHOUT, k=2, m=3, ids=list("abcde"), meta={"task": "trivia"})
    assert found.meta["task"] == "trivia" and found.meta["perturbation"] == "shout"
    again = Generations.load(found.save(tmp_path / "found.parquet"))
    greedy = cached.generate(QUESTIONS, m=0, p_true=False)
    alone = Generations.load(greedy.save(tmp_path / "greedy.parquet"))
    monkeypatch.setattr(model, "forward", None)  # nothing is computed twice
    for one, other in ((again, found), (alone, greedy), (cached.generate(QUESTIONS, m=0, p_true=False), greedy)):
        for name in ("questions", "answers", "token_logprobs", "token_entropies", "variants", "samples",
                     "loglikelihoods", "p_true", "ids"):
            assert (getattr(one, name) is None) == (getattr(other, name) is None)
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert one.meta == other.meta
    monkeypatch.undo()
    for file in (tmp_path / "cache").iterdir():
        file.write_bytes(file.read_bytes()[:-9])  # damaged: generated anew
    again = cached.generate(QUESTIONS, m=0, p_true=False)
    assert again.answers.tolist() == greedy.answers.tolist()
    assert (again.token_logprobs == greedy.token_logprobs)[~np.isnan(greedy.token_logprobs)].all()
    Predictions([[0.5, 0.5]]).save(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="Predictions.load"):
        Generations.load(tmp_path / "other.parquet")


def handmade(*rows, answers=None, **fields):
    """Generations whose samples at x are `rows`, each of probability 1/4, and whose greedy answer has p = 1/8."""
    n, samples = len(rows), np.array(rows)[:, None]
    return Generations(**{
        "questions": [f"q{i}" for i in range(n)], "answers": answers or [row[0] for row in rows],
        "token_logprobs": [[math.log(1 / 2), math.log(1 / 4)]] * n, "token_entropies": [[1.0, 3.0]] * n,
        "samples": samples, "loglikelihoods": np.full(samples.shape, math.log(1 / 4)), "p_true": [0.25] * n, **fields})


EQUAL, DISTINCT, TWO = ["b b"] * 4, ["b", "c", "d", "e"], ["b", "b", "c", "c"]


def binary_entropy(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def test_scores_in_closed_form():
    generations = handmade(EQUAL, DISTINCT, TWO)
    clusters, w = meaning_clusters(generations, SameText()), similarities(generations)
    ln2, ln4, nll = math.log(2), math.log(4), math.log(8)
    # two disjoint pairs: eigenvalues of D - W are 0, 2 in each, of K / tr K then 1 / (2 (1 + e^-2t)) and its rest
    pair = 1 / (1 + math.exp(-2 * 0.3))
    four = 1 / (1 + 3 * math.exp(-4 * 0.3))
    heat = [-four * math.log(four) - (1 - four) * math.log((1 - four) / 3), ln4, ln2 + binary_entropy(pair)]
    expected = {
        "sequence_nll": [nll] * 3, "perplexity": [nll / 2] * 3, "mean_token_entropy": [2] * 3, "p_true": [0.75] * 3,
        "lexical_similarity": [0, 1, 2 / 3], "semantic_entropy": [0, ln4, ln2],
        "discrete_semantic_entropy": [0, ln4, ln2], "eigv": [1, 4, 2], "deg": [0, 3 / 4, 1 / 2],
        "kernel_language_entropy": heat, "cocoa": [0, nll * 3 / 4, nll / 2],
        # each sample's 1/4 and a thousand times the others' that say the same
        "sentence_sar": [-math.log(1 / 4 + 3000 / 4), ln4, -math.log(1 / 4 + 1000 / 4)]}
    assert {*expected, "verbalised", "token_sar", "sar", "rauq", "eigenscore"} == {*GENERATION_SCORES}  # others: below
    for name, values in expected.items():
        np.testing.assert_allclose(generation_score(generations, name, clusters, w), values, atol=1e-12, err_msg=name)


def test_token_sar_weighs_tokens_by_what_the_answer_says_without_them():
    # "b a" against "b" or "a": ROUGE-L 2/3, so that two tokens matter alike; the end, whose text is empty, does not
    pieces = [[["b", " a", ""], ["b", "", ""], ["b", " a", " c"]]]
    logp = np.log([[[1 / 2, 1 / 8, 1 / 3], [1 / 4, 1 / 2, 1], [1 / 2, 1 / 4, 1 / 8]]])
    logp[0, 1, 2] = np.nan
    g = handmade(["b", "b a c"], answers=["b a"], pieces=pieces, piece_logprobs=logp)
    r = relevance(g)
    np.testing.assert_allclose(r, [[[1 / 2, 1 / 2, 0], [1, 0, 0], [1 / 3] * 3]])
    ln2 = math.log(2)
    assert generation_score(g, "token_sar", relevance=r) == pytest.approx(ln2 / 2 + 3 * ln2 / 2)
    w = similarities(g)
    assert w[0, 1, 2] == pytest.approx(1 / 2)  # "b" and "b a c"
    own = [1 / 4, 1 / 4]  # exp of -token_sar: 2 ln 2, and (1 + 2 + 3) ln 2 / 3
    assert generation_score(g, "sar", similarities=w, relevance=r) == pytest.approx(
        -np.mean([math.log(own[0] + 1000 / 2 * own[1]), math.log(own[1] + 1000 / 2 * own[0])]))
    silent = handmade(["b"], answers=[""], pieces=[[["", ""], ["b", ""]]], piece_logprobs=[[[-1.0, -2], [-1, np.nan]]])
    np.testing.assert_allclose(relevance(silent), [[[1 / 2, 1 / 2], [1, 0]]])
    for spoiled, said in ((r[:, :1], "relevance of shape"), (r * np.nan, "finite numbers"), (None, "needs relevance")):
        with pytest.raises(ValueError, match=said):
            generation_score(g, "token_sar", relevance=spoiled)
    with pytest.raises(ValueError, match="returned shape"):
        relevance(g, lambda triples: [0.5])


def test_sentence_sar_of_a_general_similarity_and_of_tiny_probabilities():
    rng = np.random.default_rng(1)
    w, logp = rng.random((2, 4, 4)), -rng.exponential(size=(2, 1, 3))
    g = handmade(["a", "b", "c"], ["a", "b", "c"], loglikelihoods=logp)
    expected = [-np.mean([math.log(math.exp(lp[j]) + sum(math.exp(lp[k]) * s[j + 1, k + 1] for k in range(3) if k != j)
                                   / 0.001) for j in range(3)]) for lp, s in zip(logp[:, 0], w)]
    np.testing.assert_allclose(generation_score(g, "sentence_sar", similarities=w), expected)
    far = replace(g, loglikelihoods=logp - 2000)
    np.testing.assert_allclose(generation_score(far, "sentence_sar", similarities=w), np.add(expected, 2000))


def test_eigenscore_is_the_mean_log_of_the_eigenvalues():
    z = np.random.default_rng(2).normal(size=(3, 4, 9))
    z[2] = z[2, :1]  # samples that agree: one direction, and alpha in the others
    found = generation_score(handmade(*[list("abcd")] * 3, hidden=z), "eigenscore")
    for value, states in zip(found, z):
        centred = states @ (np.eye(9) - np.ones((9, 9)) / 9)
        values = np.linalg.eigvals(centred @ centred.T + 0.001 * np.eye(4)).real
        assert value == pytest.approx(np.log(values).mean(), rel=1e-9)
    one = z[2, 0] - z[2, 0].mean()
    assert found[2] == pytest.approx((3 * math.log(0.001) + math.log(4 * one @ one + 0.001)) / 4)


def test_rauq_hands_confidence_on():
    # of six layers those at 2, 3 and 4 are read
    logp = np.log([[1 / 2, 1 / 4, 1 / 8], [1 / 2, np.nan, np.nan]])
    a = np.full((2, 6, 3), np.nan)
    a[0, :, 1:] = [[0, 0], [0, 0], [1, 1], [1 / 2, 1 / 4], [1, 0], [1, 1]]
    g = handmade(["b"], ["b"], token_logprobs=logp, token_entropies=np.where(np.isnan(logp), np.nan, 1.0), attention=a)
    chain = lambda one, two: (second := 0.2 / 4 + 0.8 * one / 2, 0.2 / 8 + 0.8 * two * second)
    of_layer = [-(math.log(1 / 2) + sum(map(math.log, chain(*row)))) / 3 for row in ((1, 1), (1 / 2, 1 / 4), (1, 0))]
    assert max(of_layer) == of_layer[2]
    np.testing.assert_allclose(generation_score(g, "rauq"), [max(of_layer), math.log(2)])
    deaf = replace(g, attention=np.where(np.isnan(a), np.nan, 0.0))
    assert generation_score(deaf, "rauq")[0] == pytest.approx(
        -(math.log(1 / 2) + math.log(0.2 / 4) + math.log(0.2 / 8)) / 3)


def test_internals_are_those_of_one_pass_alone(model, tokenizer):
    found = lm(model, tokenizer, batch_size=20, temperature=0.7).generate(QUESTIONS, m=3, p_true=False, internals=True)
    plain = lm(model, tokenizer, temperature=0.7).generate(QUESTIONS, m=3, p_true=False)
    assert (found.answers == plain.answers).all() and (found.samples == plain.samples).all()
    assert found.pieces.shape[:2] == (5, 4) and found.attention.shape[1] == 2 and found.hidden.shape == (5, 3, 32)
    assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    try:
        for i, question in enumerate(QUESTIONS):
            answers = [found.answers[i], *found.samples[i, 0]]
            assert ["".join(row).strip() for row in found.pieces[i]] == answers
            n = (~np.isnan(found.token_logprobs[i])).sum()
            np.testing.assert_allclose(found.piece_logprobs[i, 0, :n], found.token_logprobs[i, :n])
            np.testing.assert_allclose(np.nansum(found.piece_logprobs[i, 1:], -1), found.loglikelihoods[i, 0])
            prompt = tokenizer(f"Q: {question} A:")["input_ids"]
            _, logprobs, _, tokens = naively(model, tokenizer, f"Q: {question} A:", np.full(TOKENS, np.nan), 1, True)
            with torch.inference_mode():
                out = model(torch.tensor([prompt + tokens]), output_attentions=True)
            for layer, weights in zip(found.attention[i], out.attentions):
                back = np.array([[weights[0, h, len(prompt) + t, len(prompt) + t - 1] for t in range(1, n)]
                                 for h in range(4)]).reshape(4, n - 1)
                expected = back[back.mean(1).argmax()] if n > 1 else []
                np.testing.assert_allclose(layer[1:n], expected, atol=1e-4)
                assert np.isnan(layer[0]) and np.isnan(layer[n:]).all()
            uniform = np.random.default_rng([0, zlib.crc32(f"Q: {question} A:".encode())]).random((3, TOKENS))
            for state, u in zip(found.hidden[i], uniform):
                *_, tokens = naively(model, tokenizer, f"Q: {question} A:", u, 0.7, True)
                tokens = tokens[:-1] if CHARACTERS[tokens[-1]] in ("\n", "</s>") else tokens
                with torch.inference_mode():
                    hidden = model(torch.tensor([prompt + tokens]), output_hidden_states=True).hidden_states[1]
                np.testing.assert_allclose(state, hidden[0, -1], atol=1e-3)
    finally:
        model.set_attn_implementation("sdpa")
    w, r = similarities(found), relevance(found)
    for name in ("token_sar", "sentence_sar", "sar", "rauq", "eigenscore"):
        values = generation_score(found, name, similarities=w, relevance=r)
        assert np.isfinite(values).all() and np.ptp(values) > 1e-3, name
    assert np.allclose(r.sum(-1), 1)


def test_confidence_in_words_is_the_reply_to_the_question_and_its_answer(model, tokenizer, monkeypatch, tmp_path):
    said = lambda text: None if zlib.crc32(text.encode()) % 3 == 0 else zlib.crc32(text.encode()) % 101 / 100
    monkeypatch.setattr("sua.generation.model.read_confidence", said)
    # short: these models see 256 tokens
    monkeypatch.setattr("sua.models.verbalised.CONFIDENCE", "{question} {answer}?")
    cached = lm(model, tokenizer, cache=tmp_path)
    found = cached.generate(QUESTIONS, m=0, p_true=False, verbalised=True)
    replies = [naively(model, tokenizer, f"{question} {answer}?\nReply:", np.full(TOKENS, np.nan), 1)[0]
               for question, answer in zip(QUESTIONS, found.answers)]
    expected = [said(reply) for reply in replies]
    np.testing.assert_allclose(found.verbalised, [np.nan if value is None else value for value in expected])
    assert len(set(expected)) > 1 and cached.generate(QUESTIONS, m=0, p_true=False).verbalised is None
    again = cached.generate(QUESTIONS, m=0, p_true=False, verbalised=True)  # from the file
    np.testing.assert_array_equal(again.verbalised, found.verbalised)


def test_who_states_no_confidence_has_none():
    g = handmade(["a"], ["b"], verbalised=[0.7, np.nan])
    assert generation_score(g, "verbalised").tolist() == pytest.approx([0.3, 1])
    with pytest.raises(ValueError, match="verbalised=True"):
        generation_score(handmade(["a"]), "verbalised")
    with pytest.raises(ValueError, match="internals=True"):
        generation_score(handmade(["a"]), "rauq")


def test_graph_scores_of_a_general_similarity():
    rng = np.random.default_rng(0)
    w = rng.random((5, 7, 7))
    w = (w + w.swapaxes(1, 2)) / 2
    w[:, range(7), range(7)] = 1
    generations = handmade(*[list("abcdef")] * 5)
    eigv, deg, kle = (generation_score(generations, name, similarities=w)
                      for name in ("eigv", "deg", "kernel_language_entropy"))
    for i, own in enumerate(w[:, 1:, 1:]):
        degrees, m = np.diag(own.sum(1)), 6
        laplacian = np.eye(m) - np.linalg.inv(degrees) ** 0.5 @ own @ np.linalg.inv(degrees) ** 0.5
        assert eigv[i] == pytest.approx(sum(max(0, 1 - value) for value in np.linalg.eigvals(laplacian).real))
        assert deg[i] == pytest.approx(np.trace(m * np.eye(m) - degrees) / m**2)
        kernel = expm(-0.3 * (degrees - own))
        kernel /= np.sqrt(np.outer(np.diag(kernel), np.diag(kernel))) * m
        values = np.linalg.eigvals(kernel).real
        assert kle[i] == pytest.approx(-(values * np.log(values)).sum())
    np.testing.assert_allclose(generation_score(generations, "cocoa", similarities=w),
                               math.log(8) * (1 - w[:, 0, 1:].mean(1)))


def test_likelihood_weights_count_a_repeated_answer_once_and_bear_minus_infinity():
    likely = np.log([[[1 / 2, 1 / 2, 1 / 8, 1 / 24]], [[1 / 2, 1 / 2, 1 / 4, 1 / 4]]])
    likely[1, 0, 2:] = -np.inf
    likely[0] -= 2000  # long answers: probabilities below the smallest double
    generations = handmade(["x", "x", "y", "the y"], TWO, loglikelihoods=likely)
    clusters = meaning_clusters(generations, SameText())
    p = generations.distribution(clusters, "likelihood")
    np.testing.assert_allclose(p[:, 0], [[3 / 4, 1 / 4, 0], [1, 0, 0]])
    np.testing.assert_allclose(generation_score(generations, "semantic_entropy", clusters), [binary_entropy(3 / 4), 0])
    np.testing.assert_allclose(generation_score(generations, "discrete_semantic_entropy", clusters), [math.log(2)] * 2)


def test_predictions_over_clusters_shared_with_variants():
    samples = [[["Paris", "paris.", "Rome", "Paris"], ["Rome", "the Rome", "Oslo", "Paris"]],
               [["4", "5", "5", "5"], ["4", "4", "4", "4"]], [["a b", "b", "b", "a b"], ["b", "b", "c", "b"]]]
    generations = handmade(EQUAL, EQUAL, EQUAL, samples=samples, answers=["Rome", "4", "z"], ids=["x", "y", "z"],
                           variants=[["v"]] * 3, loglikelihoods=np.full((3, 2, 4), -1.0))
    clusters = meaning_clusters(generations, SameText([["4", "four"]]), [["paris"], ["Four", "six"], ["q"]])
    assert clusters.counts.tolist() == [3, 2, 3] and clusters.samples[0].tolist() == [[1, 1, 0, 1], [0, 0, 2, 1]]
    assert clusters.is_error.tolist() == [True, False, True]
    p = generations.predictions(clusters)
    np.testing.assert_allclose(p.probs, [[1 / 4, 3 / 4, 0, 0], [1 / 4, 3 / 4, 0, 0], [0, 1, 0, 0]])
    np.testing.assert_allclose(p.perturbed[:, 0], [[1 / 2, 1 / 4, 1 / 4, 0], [1, 0, 0, 0], [0, 3 / 4, 1 / 4, 0]])
    assert p.n_classes.tolist() == [4, 3, 4] and p.labels.tolist() == [1, 0, 3]
    assert p.is_error.tolist() == [False, True, True] and p.ids.tolist() == ["x", "y", "z"]
    assert (p.samples == clusters.samples[:, 0]).all()
    np.testing.assert_allclose(score(p, "sensitivity_tv"), [1 / 2, 3 / 4, 1 / 4])
    np.testing.assert_allclose(score(p, "self_consistency"), [1 / 4, 1 / 4, 0])
    assert generations.predictions(meaning_clusters(generations, SameText())).labels is None


def test_of_several_clusters_with_a_gold_answer_the_most_probable_is_the_label():
    generations = handmade(["US", "America", "America", "Peru"])
    clusters = meaning_clusters(generations, SameText(), [["us", "america"]])
    p = generations.predictions(clusters)
    assert clusters.counts.tolist() == [3] and p.labels.tolist() == [1] and not p.is_error.any()


WORDS = {"paris": {"city", "paris"}, "rome": {"city", "rome"}, "a city": {"city"}, "city of light": {"city", "paris"}}


def nli(pairs):
    """Entailment (last column) where the premise's facts include the hypothesis's."""
    facts = lambda text: WORDS[text.removeprefix("where? ")]
    return [[0.05, 0.05, 0.9] if facts(a) >= facts(b) else [0.7, 0.2, 0.1] for a, b in pairs]


def test_entailment_clusters_both_ways_and_asks_each_pair_once():
    asked = []
    same = Entailment(CallableModel(lambda pairs: asked.extend(pairs) or nli(pairs)), column=2)
    answers = [["paris", "a city", "rome", "city of light", "paris"], ["a city", "rome", "rome", "a city", "a city"]]
    found = cluster(answers, ["where?"] * 2, same)
    assert [row.tolist() for row in found] == [[0, 1, 2, 0, 0], [0, 1, 1, 0, 0]]
    generations = handmade(answers[0][1:], answers=["paris"], questions=["where?"])
    w = similarities(generations, same.similarity)[0]
    one_way, neither = (0.9 + 0.1) / 2, 0.1
    np.testing.assert_allclose(w[0], [1, one_way, neither, 0.9, 1])
    np.testing.assert_allclose(w, w.T)
    assert len(asked) == len(set(asked))


def test_clusters_follow_the_sequential_rule_whatever_the_equivalence():
    """Against the rule written out: an answer joins the first founder that is equivalent to it."""
    rng = np.random.default_rng(0)
    answers = [[f"{i}" for i in rng.integers(8, size=12)] for _ in range(30)]
    related = rng.random((8, 8)) < 0.3  # neither symmetric nor transitive
    equivalent = lambda triples: [related[int(a), int(b)] for _, a, b in triples]
    for row, found in zip(answers, cluster(answers, ["q"] * 30, equivalent)):
        founders, expected = [], []
        for answer in row:
            holds = [i for i, founder in enumerate(founders) if founder == answer or related[int(founder), int(answer)]]
            expected.append(holds[0] if holds else len(founders))
            founders += [] if holds else [answer]
        assert found.tolist() == expected


def test_normalise():
    assert normalise(" The  Beatles' Ana, an A.M. ") == "beatles ana am"
    assert SameText()([("q", "The U2", "u2!"), ("q", "", "the"), ("q", "a b", "ab")]).tolist() == [True, True, False]


def longest_common_subsequence(a, b):
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return 1 + longest_common_subsequence(a[:-1], b[:-1])
    return max(longest_common_subsequence(a[:-1], b), longest_common_subsequence(a, b[:-1]))


WORD_LISTS = st.lists(st.sampled_from("abc"), max_size=6)


@given(a=WORD_LISTS, b=WORD_LISTS)
def test_rouge_l_by_recursion(a, b):
    common = longest_common_subsequence(a, b)
    expected = 1 if not a and not b else 2 * common / (len(a) + len(b))
    assert rouge_l(" ".join(a), ", ".join(b).upper()) == pytest.approx(expected)


@pytest.mark.parametrize("fields, said", [
    ({"questions": ["q"], "answers": ["a", "b"]}, "answers has shape"),
    ({"token_logprobs": [[0.1, -1]]}, "above 0"),
    ({"token_logprobs": [[np.nan, -1]]}, "NaN after its last token"),
    ({"token_entropies": [[1.0, np.nan]]}, "NaN after its last token"),
    ({"loglikelihoods": None}, "together"),
    ({"loglikelihoods": np.full((1, 1, 4), -np.inf)}, "all -inf"),
    ({"loglikelihoods": np.full((1, 1, 4), np.nan)}, "loglikelihoods holds numbers above 0, or NaN"),
    ({"variants": [["v"]]}, r"\(N, 2, M\)"),
    ({"p_true": [1.5]}, "outside"), ({"verbalised": [-0.5]}, "verbalised holds numbers outside"),
    ({"pieces": [[["a"]]]}, "pieces and piece_logprobs together"),
    ({"pieces": [[["a"]]], "piece_logprobs": [[[-1.0, -1.0]]]}, "one number per token"),
])
def test_wrong_fields_are_named(fields, said):
    with pytest.raises(ValueError, match=said):
        handmade(EQUAL, **fields)


def test_what_is_missing_is_named(model, tokenizer):
    bare = replace(handmade(EQUAL), samples=None, loglikelihoods=None, p_true=None)
    single = handmade(["a"])
    for message, action in {
        "did you mean 'semantic_entropy'": lambda: generation_score(bare, "semantic_entropi"),
        "p_true=True": lambda: generation_score(bare, "p_true"),
        "m >= 1": lambda: meaning_clusters(bare, SameText()),
        "meaning_clusters": lambda: generation_score(single, "semantic_entropy"),
        "needs similarities": lambda: generation_score(single, "eigv"),
        r"give similarities=sua.similarities\(generations\)": lambda: generation_score(single, "eigv",
                                                                                      similarities=similarities),
        r"SameText.*such as sua.SameText\(\)": lambda: meaning_clusters(single, SameText),
        "M = 1": lambda: generation_score(single, "lexical_similarity"),
        "'share'": lambda: single.distribution(meaning_clusters(single, SameText()), "share"),
        "give gold": lambda: Clusters(np.zeros((1, 1, 1), int), np.ones(1, int)).is_error,
        "gold has 2 entries": lambda: meaning_clusters(single, SameText(), [["a"], ["b"]]),
        r"gold\[0\] = 'a'": lambda: meaning_clusters(single, SameText(), ["a"]),
        "column = 3": lambda: Entailment(CallableModel(nli), 3)([("where?", "paris", "rome")]),
        "no \"{question}\"": lambda: lm(model, tokenizer, template="Q:"),
        "max_new_tokens = 0": lambda: lm(model, tokenizer, max_new_tokens=0),
        "temperature = 0": lambda: lm(model, tokenizer, temperature=0),
        "temperature = 1e-320": lambda: lm(model, tokenizer, temperature=1e-320),  # logits / 1e-320 are no numbers
        "temperature = inf": lambda: lm(model, tokenizer, temperature=np.inf),
        "batch_size = 0": lambda: lm(model, tokenizer, batch_size=0),
        "questions is empty": lambda: lm(model, tokenizer).generate([]),
        r"questions\[1\] = ' '": lambda: lm(model, tokenizer).generate(["a", " "]),
        "m = 0": lambda: lm(model, tokenizer).generate(["a"], SHOUT, m=0),
        "prompt of 306 tokens": lambda: lm(model, tokenizer).generate(["a" * 300]),
    }.items():
        with pytest.raises(ValueError, match=message):
            action()


@pytest.mark.parametrize("given, said", [
    ({"answers": ["a\0"]}, r"answers\[0\] = 'a\\x00' has a NUL"),
    ({"answers": ["\ud800"]}, r"answers\[0\].*surrogate"),
    ({"answers": [None]}, r"answers\[0\] = None is not text"), ({"questions": [3]}, r"questions\[0\] = 3 is not text"),
    ({"samples": np.array([[["a", "b\udfff"]]], dtype=object), "loglikelihoods": [[[-1.0, -1.0]]]},
     r"samples\[0, 0, 1\].*surrogate"),
    ({"ids": ["q\0"]}, r"ids\[0\].*NUL"), ({"token_logprobs": [["x", "y"]]}, "token_logprobs is not a rectangular"),
    ({"token_entropies": [[1.0, -3.0]]}, "token_entropies holds negative"),
    ({"token_entropies": [[1.0, np.inf]]}, "token_entropies holds negative or infinite"),
    ({"meta": {"when": {1}}}, r"meta\['when'\] cannot be written as JSON")])
def test_generations_refuse_what_no_file_can_hold(given, said):
    with pytest.raises(ValueError, match=said):
        handmade(["a", "b"], **given)


@pytest.mark.parametrize("returned, said", [
    (lambda n: np.full((n, 3), np.nan), "nan is not a finite"), (lambda n: np.full((n, 3), 0.5), "sums to 1.5"),
    (lambda n: np.full((3, n), 1 / 3), r"returned shape \(3, \d\)"),
    (lambda n: np.full((n - 1, 3), 1 / 3), "returned shape"), (lambda n: np.full(n, 0.5), "returned shape")])
def test_an_entailment_model_is_checked(returned, said):
    model = type("Model", (), {"predict_proba": lambda self, pairs: returned(len(pairs))})()
    for call in (Entailment(model, 2), Entailment(model, 2).similarity):
        with pytest.raises(ValueError, match=said):
            call([("q", "a", "b"), ("q", "a", "c")])
    for column in (-1, 0.5, None):
        with pytest.raises(ValueError, match=f"column = {column}: give the place of entailment"):
            Entailment(model, column)


@pytest.mark.parametrize("returned, said", [
    (lambda n: [True] * (n + 1), "for 3 triples: return one bool"), (lambda n: [True] * (n - 1), "for 3 triples"),
    (lambda n: [float("nan")] * n, "with nan for 3 triples"), (lambda n: [0.7] * n, "with 0.7 for 3 triples"),
    (lambda n: ["yes"] * n, "for 3 triples"), (lambda n: True, "for 3 triples"),
    (lambda n: [[True]] * n, "for 3 triples")])
def test_an_equivalence_gives_one_bool_per_triple(returned, said):
    with pytest.raises(ValueError, match=said):
        meaning_clusters(handmade(DISTINCT), lambda triples: returned(len(triples)))
    with pytest.raises(ValueError, match="triples: return one bool"):  # of gold answers
        meaning_clusters(handmade(EQUAL), lambda triples: returned(len(triples)), [["c", "d", "e"]])


@pytest.mark.parametrize("returned", [lambda n: [np.nan] * n, lambda n: [2.0] * n, lambda n: [0.5] * (n - 1),
                                      lambda n: 0.5])
def test_a_similarity_gives_one_share_per_triple(returned):
    with pytest.raises(ValueError, match="for 6 triples, or numbers outside"):
        similarities(handmade(DISTINCT), lambda triples: returned(len(triples)))


def test_clusters_of_other_generations_are_refused(tmp_path):
    ours, others = handmade(DISTINCT), handmade(["b", "b", "c", "c"], answers=["b"])
    clusters = meaning_clusters(others, SameText())
    for use in (ours.distribution, ours.predictions, lambda c: generation_score(ours, "semantic_entropy", c)):
        with pytest.raises(ValueError, match="clusters belong to other Generations: call sua.meaning_clusters"):
            use(clusters)
    again = Generations.load(others.save(tmp_path / "g.parquet"))
    assert (again.distribution(clusters) == others.distribution(clusters)).all()  # a copy with the same answers
    by_hand = Clusters(clusters.samples, clusters.counts)
    assert (others.distribution(by_hand) == others.distribution(clusters)).all()
    with pytest.raises(ValueError, match="other Generations"):
        handmade(["b", "b", "c"]).distribution(by_hand)


@pytest.mark.parametrize("given, said", [
    (([[[0, 2]]], [2]), "outside 0..counts - 1"), (([[[0, -1]]], [2]), "outside 0..counts - 1"),
    (([[[0.0, 1.0]]], [2]), "samples has shape .* dtype float64"), (([[0, 1]], [2]), r"samples has shape \(1, 2\)"),
    (([[[0, 1]]], [2, 2]), "outside 0..counts"), (([[[0, 1]]], [2], [[True, False]]), r"correct has shape \(1, 2\)")])
def test_clusters_fit_together(given, said):
    with pytest.raises(ValueError, match=said):
        Clusters(*map(np.array, given))


@pytest.mark.parametrize("texts", [[], [None], [3], "a", {"a": "b"}, [["a"]]])
def test_gold_answers_are_lists_of_texts(texts):
    with pytest.raises(ValueError, match=r"gold\[0\] = .*give a list of answers"):
        meaning_clusters(handmade(EQUAL), SameText(), [texts])


@pytest.mark.parametrize("spoil, said", [
    (lambda g, c, w: ("semantic_entropy", Clusters(np.tile(c.samples, (2, 1, 1)), np.tile(c.counts, 2))),
     "clusters of samples of shape .*give sua.meaning_clusters of these"),
    (lambda g, c, w: ("semantic_entropy", w), "clusters of samples of shape"),
    (lambda g, c, w: ("deg", None, w[:, 0]), "similarities of shape .*give sua.similarities of these"),
    (lambda g, c, w: ("deg", None, w * np.nan), "similarities of shape .*finite"),
    (lambda g, c, w: ("cocoa", None, np.tile(w, (2, 1, 1))), "similarities of shape"),
    (lambda g, c, w: (["deg"], None, w), "unknown generation score"),
])
def test_clusters_and_similarities_of_other_generations_are_refused(spoil, said):
    one = Generations(["q"], ["Paris"], [[-1.0]], [[0.5]], samples=[[["Paris", "Rome"]]],
                      loglikelihoods=[[[-1.0, -2.0]]])
    with pytest.raises(ValueError, match=said):
        generation_score(one, *spoil(one, meaning_clusters(one, SameText()), similarities(one)))
