"""Wrong solutions of the assignments lose their points with a message, right ones written differently lose none.

Each solution runs against the test cell of its exercise, hidden tests included, as nbgrader would run it. A solution is
the body of the function, or a pair (text of the sample solution, what replaces it).
"""

import textwrap
from collections import Counter
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest

SOURCE = Path(__file__).parents[1] / "notebooks/assignments/source"
# the cells that the tests of an assignment build on, beside the solution itself
BEFORE = {"a1": ["setup", "entropy-ours", "kl", "tv", "js", "divergence-plot", "data"], "a2": ["setup"],
          "a3": ["setup", "information-ours"], "a4": ["setup"]}
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # students divide by 0

WRONG = {"a1": {
    "softmax": [
        "return np.exp(logits)",
        "return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)",
        "powers = np.exp(logits - logits.max())\nreturn powers / powers.sum(axis=-1, keepdims=True)",
        "powers = np.exp(logits - logits.max(axis=0))\nreturn powers / powers.sum(axis=0)",
        "powers = np.exp(logits - logits.max())\nreturn powers / powers.sum()",
        ("logits - logits.max(", "logits.min(axis=-1, keepdims=True) - logits + 0 * logits.max(")],
    "entropy": [
        ("np.where(p > 0, p, 1)", "p"), ("np.log(", "np.log2("), ("return -", "return "), (".sum(axis=-1)", ".sum()"),
        (".sum(axis=-1)", ".mean(axis=-1)"), ("np.where(p > 0, p, 1)", "p + 0.01"), ("axis=-1", "axis=0"),
        "return 1 - (p**2).sum(axis=-1)",
        "return -(p * np.log(np.where(p > 0, p, 1))).sum(axis=-1) / np.log(p.shape[-1])"],
    "kl": [
        "return (q * np.log(q / np.where(p > 0, p, 1))).sum(axis=-1)", ("np.where(p > 0, p, 1)", "p"),
        ("np.log", "np.log2"), ("axis=-1", "axis=0"), "return np.abs(p * np.log((p + 1e-3) / q)).sum(axis=-1)",
        "return -(p * np.log(q)).sum(axis=-1)"],
    "tv": [(" / 2", ""), (".sum(axis=-1) / 2", ".max(axis=-1)"), (".sum(axis=-1) / 2", ".mean(axis=-1)"),
           "return (p - q).sum(axis=-1) / 2", "return np.sqrt(((p - q) ** 2).sum(axis=-1)) / 2"],
    "js": ["return np.sqrt(our_entropy((p + q) / 2) - (our_entropy(p) + our_entropy(q)) / 2)",
           "return our_entropy((p + q) / 2)", "return our_entropy((p + q) / 2) - our_entropy(p)", (") / 2)", "))"),
           "return 2 * our_entropy((p + q) / 2) - our_entropy(p) - our_entropy(q)"],
    "sensitivity": ["return our_kl(perturbed, probs[:, None]).mean(axis=1)", (".mean(", ".sum("), (".mean(", ".max("),
                    ("axis=1", "axis=0"), "return our_kl(probs, perturbed.mean(axis=1))"],
    "sua": [("- lam", "+ lam"), ("lam * ", ""), ("return ", "return lam * "), ("our_entropy(probs)", "0.5"),
            ("our_entropy(probs)", "our_entropy(perturbed).mean(axis=1)")],
    "auroc": [("return ", "value = "), ("> 0", ">= 0"), (" + 0.5 * (difference == 0)", ""), ("> 0", "< 0"),
              (".mean()", ".sum()"), ("[~is_error]", ""),
              "return float(score[is_error].mean() > score[~is_error].mean())",
              "a = metrics.auroc(is_error, score)\nreturn max(a, 1 - a)"],
    "curve": [("s - lam", "s + lam"), ("s - lam * h", "lam * s - h"), ("for lam in lams", "for lam in lams[:1]"),
              ("np.array(", "max("), ("- lam * h", "")],
}, "a2": {
    "robust": [
        "return world.robust_risk()", "return np.maximum(world.mean_risk(), world.risk())",
        (" | np.eye(len(risk), dtype=bool)", ""), (".max(axis=1)", ".mean(axis=1)"),
        ("np.where(neighbours, risk, 0).max(axis=1)", "risk"),
        ("np.where(neighbours, risk, 0).max(axis=1)", "np.full(len(risk), risk.max())"),
        ("(world.kernel > 0)", "(world.kernel.T > 0)"), ("np.where(neighbours, risk, 0)", "(world.kernel * risk)"),
        ("1 - world.p", "world.p"), ("1 - world.p", "world.p < world.p.max(axis=1, keepdims=True)")],
    "printed": [
        "return world.risk() + world.sua(lam)", ("- lam", "+ lam"), ("- lam *", "-"), (" / 2", ""), ("risk + ", ""),
        ("(world.kernel * tv).sum(axis=1)", "np.where(world.kernel > 0, tv, 0).max(axis=1)"),
        ("world.kernel * tv", "world.kernel.T * tv"), ("entropy(world.p)", "entropy(world.truth)"),
        ("entropy(world.p)", "entropy(world.p) / np.log(2)")],
    "entropy": [("p=[[0.5, 0.5]]", "p=[[1.0, 0.0]]"), ("truth=[[0.5, 0.5]]", "truth=[[1.0, 0.0]]"),
                ("[[0.5, 0.5]], truth=[[0.5, 0.5]]", "[[1.0, 0.0]], truth=[[1.0, 0.0]]"),
                "half = [[0.5, 0.5]] * 2\nreturn World([0.5, 0.5], [[0, 1], [1, 0]], half, half)",
                "return 0.5, 0.5"],
    "rare": [("1 / (2 * L)", "1e-9"), ("1 / (2 * L)", "0.01"), ("1 / (2 * L)", "1 / L"), ("1 / (2 * L)", "0.0"),
             ("1 / (2 * L)", "1e-12"), ("truth=[[1, 0], [1, 0]]", "truth=[[1, 0], [0, 1]]"),
             ("p=[[1, 0], [0, 1]]", "p=[[1, 0], [1, 0]]"), ("p=[[1, 0], [0, 1]]", "p=[[0, 1], [1, 0]]")],
    "positive": [("min(lam * entropy(p), 0.75) / 2", "0.5"), ("min(lam * entropy(p), 0.75) / 2", "0.01"),
                 ("min(lam * entropy(p), 0.75) / 2", "0.0"), ("min(lam * entropy(p), 0.75) / 2", "1e-6"),
                 ("lam * entropy(p), 0.75) / 2", "4 * lam, 0.75)"),
                 ("truth=[[1, 0], [1, 0]]", "truth=[[1, 0], [0, 1]]"),
                 ("[[0, 1], [1, 0]]", "[[0.5, 0.5], [0.5, 0.5]]")],
    "mean-bound": [(" + lam * world.entropy", ""), ("+ lam * world.entropy", "- lam * world.entropy"),
                   ("np.maximum(sua, 0) + lam * world.entropy", "sua"), ("world.risk() + ", ""),
                   ("+ lam * world.entropy", "+ world.entropy"), ("np.maximum(sua, 0)", "2"),
                   "return world.mean_risk()"],
    "worst-bound": [("world.sup(world.divergence())", "world.sensitivity()"),
                    ("world.divergence()", "2 * world.divergence()"),
                    "return world.robust_risk()", ("world.sup(world.divergence())", "world.divergence().max()"),
                    ("world.risk() + ", ""), ("world.divergence()", "world.divergence() / 2")],
}, "a3": {
    "mixture": ["return readings.mean(-2)", "return readings.sum(-2)", (".sum(-2)", ".mean(-2)"),
                ("weights[..., None] * readings", "weights[..., None] ** 2 * readings"),
                "return np.prod(readings ** weights[..., None], axis=-2)",
                "return np.take_along_axis(readings, weights.argmax(-1)[..., None, None], -2)[..., 0, :]"],
    "collapse": [("kl(p_star, p)", "kl(p, p_star)"), ("entropy(p_star) - entropy(p)", "entropy(p) - entropy(p_star)"),
                 ("entropy(p_star) - entropy(p)", "np.abs(entropy(p_star) - entropy(p))"),
                 "return entropy(p_star) - entropy(p), kl(p_star, p)", "return kl(p_star, p)",
                 ("return kl(p_star, p)", "return kl(p_star, p) / np.log(2)")],
    "sister-world": ["return p_star == p_star.max(-1, keepdims=True)", "return p_star.argmax(-1)",
                     ("p_star.argmax(-1)", "p_star.argmin(-1)"), ("return ", "return p_star * "),
                     "return np.round(p_star)", "return np.eye(p_star.shape[1])[-1 - p_star[:, ::-1].argmax(-1)]"],
    "error-rates": [("1 - np.mean(detector(outputs_two))", "np.mean(detector(outputs_two))"),
                    ("return np.mean(", "return 1 - np.mean("), ("outputs_one)), 1", "outputs_two)), 1"),
                    "return 1 - np.mean(detector(outputs_two)), np.mean(detector(outputs_one))",
                    "return np.sum(detector(outputs_one)), np.sum(1 - detector(outputs_two))",
                    "return np.mean(detector(outputs_one) > 0.5), np.mean(detector(outputs_two) <= 0.5)"],
    "mutual-information": [("(weights[..., None] * clarified).sum(1)", "clarified.mean(1)"),
                           (" - (weights * entropy(clarified)).sum(1)", ""), ("entropy(mean) - ", ""),
                           ("(weights * entropy(clarified)).sum(1)", "entropy(clarified).mean(1)"),
                           ("return ", "return -1.4427 * "),
                           "mean = (weights[..., None] * clarified).sum(1)\n"
                           "return (weights * kl(mean[:, None], clarified)).sum(1)"],
    "decompose": [("kl(clarified, p[:, None])", "kl(p[:, None], clarified)"), ("kl(mean, p)", "kl(p, mean)"),
                  ("weights * kl", "kl"), ("(weights[..., None] * clarified).sum(1)", "clarified.mean(1)"),
                  ("return shift, our", "return our"), ("kl(mean, p)", "entropy(mean) - entropy(p)")],
    "detection": [(">= threshold", "> threshold"), (">= threshold", "< threshold"), (">= threshold", ">= 0"),
                  (">= threshold", ">= 0.9"), ("ambiguous[keep]", "~ambiguous[keep]"),
                  ("for name in names]", "for name in names[:1]]")],
    "verdict": [("kl(weights @ clarified, p)", "kl(p, weights @ clarified)"),
                ("weights @ clarified", "clarified.mean(0)"),
                ("kl(weights @ clarified, p)", "weights @ kl(clarified, p)"),
                ("our_information(clarified, weights)", "entropy(p)"), ("> tolerance:", "> 0.1:"),
                ("> tolerance:", "> 0:"), ("kl(weights @ clarified, p)", "kl(weights @ clarified, p) / np.log(2)"),
                'if our_information(clarified, weights) > tolerance:\n    return "open"\n'
                'return "collapsed" if kl(weights @ clarified, p) > tolerance else "clear"'],
}, "a4": {
    "log-probabilities": ["return np.log(softmax(logits, axis=-1))", "return softmax(logits, axis=-1)",
                          "return logits - np.log(np.exp(logits).sum(-1, keepdims=True))",
                          ("return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))", "return shifted"),
                          (".sum(-1, keepdims=True))", ".sum())")],
    "sua-tr-terms": [("np.maximum(s - lam * h, 0).mean()", "max((s - lam * h).mean(), 0)"),
                     ("np.maximum(s - lam * h, 0)", "(s - lam * h)"), ("- lam * h", "+ lam * h"),
                     (".sum(-1).mean(1)", ".sum(-1).sum(1)"), (".sum(-1).mean(1)", ".mean(-1).mean(1)"),
                     ("(p[:, None] * (log_p[:, None] - log_q))", "(np.exp(log_q) * (log_q - log_p[:, None]))"),
                     ("return -log_p[", "return log_p["), (".mean(), s.mean()", ".sum(), s.mean()")],
    "mixing-share": [("np.log(p.shape[1])", "np.log2(p.shape[1])"),
                     ("lam * entropy(p)", "lam * entropy(p) / np.log(2)"),
                     ("(s - lam * entropy(p)).max()", "(s - lam * entropy(p)).mean()"), (" - lam * entropy(p)", ""),
                     ("max((s - lam * entropy(p)).max(), 0)", "(s - lam * entropy(p)).max()"),
                     ("lam * np.log", "np.log"), ("return worst / ", "return 1.2 * worst / "), ("mean(1)", "max(1)"),
                     "return 1.0"],
    "repaired-terms": [("max(s.mean() - lam * entropy(p).mean(), 0)",
                        "np.maximum(s - lam * entropy(p)[:, 0], 0).mean()"),
                       (":, labels]", "0, labels]"), (":, labels]", "1:, labels]"),
                       ("entropy(rows).mean(1)", "entropy(rows[:, 0])"),
                       ("return task, consistency", "return task, s.mean()"),
                       ("- lam *", "+ lam *")],
    "removable": [(".sum(-1).mean(1)", ".sum(-1).sum(1)"), (".sum(-1).mean(1)", ".mean(-1).mean(1)"),
                  (".sum(-1).mean(1)", ".sum(-1).max(1)"), (".mean(1)", ".sum(1) / (orbit.shape[1] - 1)"),
                  ("orbit.mean(1, keepdims=True)", "orbit[:, :1]"), ("orbit.mean(1, keepdims=True)", "1 / 3"),
                  ("((orbit - mean) ** 2).sum(-1)", "np.sqrt(((orbit - mean) ** 2).sum(-1))"),
                  ("return ", "return -"), (".sum(-1).mean(1)", ".sum(-1).mean()"),
                  "return ((orbit[:, :, None] - orbit[:, None]) ** 2).sum(-1).mean((1, 2))",
                  "return entropy(orbit.mean(1)) - entropy(orbit).mean(1)"],
    "p-value": [("range(errors + 1)", "range(errors)"), ("range(errors + 1)", "range(errors, n + 1)"),
                ("range(errors + 1)", "[errors]"), ("return ", "return 1 - "), ("math.comb(n, i) * ", ""),
                ("risk**i * (1 - risk) ** (n - i)", "(1 - risk) ** i * risk ** (n - i)")],
    "upper-limit": [("delta else", "delta / 2 else"), ("delta else", "1 - delta else"), ("range(60)", "range(20)"),
                    ("    return 1.0", "    return 0.999"), ("(errors, n, middle)", "(errors - 1, n, middle)"),
                    "return errors / n if n else 1.0"],
    "error-free-items": [("math.ceil", "math.floor"), ("math.ceil", ""), ("math.log(delta)", "math.log(1 - delta)"),
                         "return math.ceil(1 / risk)", "return math.ceil(math.log(risk) / math.log(1 - delta))"],
    "naive-threshold": [("return max(", "return min("),
                        ("is_error[scores <= tau].mean()", "is_error[scores < tau].mean()"),
                        ("is_error[scores <= tau].mean()", "(is_error & (scores <= tau)).mean()"),
                        ("(scores <= tau).any() and is_error[scores <= tau].mean() <= risk",
                         "is_error[scores <= tau].sum() <= risk * (scores <= tau).sum()"),
                        ("-np.inf", "thresholds[0]")],
    "certify": [("break", "continue"), ("> delta", "> 1 - delta"), ("scores <= tau", "scores < tau"),
                ("> delta", "> delta / len(thresholds)"), ("            break\n        certified = tau",
                                                           "            certified = tau\n            break"),
                ("certified = -np.inf", "certified = thresholds[0]"),
                ("binom.cdf(is_error[answered].sum(), answered.sum(), risk) > delta",
                 "is_error[answered].sum() > risk * answered.sum()")],
    "share-broken": [("> risk", ">= risk"), ("> risk", "<= risk"), ("np.mean", "np.sum"), (" > risk", ""),
                     ("true_risk(rule(scores, is_error))", "is_error[scores <= rule(scores, is_error)].mean()")],
}}

RIGHT = {"a1": {
    "softmax": [
        "small = logits.astype(np.float32)\nsmall -= small.max(axis=-1, keepdims=True)\n"
        "return np.exp(small) / np.exp(small).sum(axis=-1, keepdims=True)",
        "rows = logits.reshape(-1, logits.shape[-1])\nout = []\nfor row in rows:\n"
        "    weights = [np.exp(z - max(row)) for z in row]\n    out.append([w / sum(weights) for w in weights])\n"
        "return np.array(out).reshape(logits.shape)",
        "return np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))"],
    "entropy": [
        "q = np.asarray(p, dtype=np.float32)\nreturn -(q * np.log(np.where(q > 0, q, 1))).sum(axis=-1)",
        "total = np.zeros(p.shape[:-1])\nfor k in range(p.shape[-1]):\n    share = p[..., k]\n"
        "    total -= share * np.log(share, where=share > 0, out=np.zeros_like(share))\nreturn total",
        "return np.apply_along_axis(lambda row: -sum(x * np.log(x) for x in row if x > 0), -1, p)",
        "return -np.nansum(p * np.log(p), axis=-1)", "return -(p * np.log(np.maximum(p, 1e-300))).sum(-1)"],
    "kl": ["return np.nansum(p * np.log(p / q), axis=-1)",
           "a, b = np.broadcast_arrays(p, q)\na, b = a.astype(np.float32), b.astype(np.float32)\n"
           "return np.where(a > 0, a * (np.log(np.where(a > 0, a, 1)) - np.log(b)), 0).sum(-1)",
           "return -(p * np.log(q)).sum(-1) - our_entropy(p)"],
    "tv": ["return np.maximum(p - q, 0).sum(-1)", "return 1 - np.minimum(p, q).sum(axis=-1)",
           "return sum(abs(p[..., k] - q[..., k]) for k in range(p.shape[-1])) / np.float32(2)"],
    "js": ["m = (p + q) / 2\none = p * np.log(np.where(p > 0, p, 1) / np.where(m > 0, m, 1))\n"
           "two = q * np.log(np.where(q > 0, q, 1) / np.where(m > 0, m, 1))\nreturn (one + two).sum(-1) / 2",
           "p, q = p.astype('float32'), q.astype('float32')\n"
           "return our_entropy(p / 2 + q / 2) - our_entropy(p) / 2 - our_entropy(q) / 2"],
    "sensitivity": ["k = perturbed.shape[1]\nreturn sum(our_kl(probs, perturbed[:, i]) for i in range(k)) / k",
                    "return np.array([our_kl(x, variants).mean() for x, variants in zip(probs, perturbed)])",
                    "return our_kl(np.expand_dims(probs, 1), perturbed.astype(np.float32)).mean(-1)"],
    "sua": ["values = []\nfor x, variants in zip(probs, perturbed):\n"
            "    values.append(np.mean([our_kl(x, v) for v in variants]) - lam * our_entropy(x))\nreturn values"],
    "auroc": ["wins = 0\nbad, good = score[is_error], score[~is_error]\nfor a in bad:\n    for b in good:\n"
              "        wins += 1 if a > b else 0.5 if a == b else 0\nreturn wins / (len(bad) * len(good))",
              "good = np.sort(score[~is_error])\nbad = score[is_error]\n"
              "below, up_to = np.searchsorted(good, bad), np.searchsorted(good, bad, side='right')\n"
              "return (below + up_to).mean() / (2 * len(good))",
              "difference = np.subtract.outer(score[is_error], score[np.logical_not(is_error)])\n"
              "return np.float32((np.sign(difference) + 1).mean() / 2)"],
    "curve": ["return [metrics.auroc(is_error, s - lam * h) for lam in lams]",
              "curve = np.empty(len(lams), dtype=np.float32)\nfor i in range(len(lams)):\n"
              "    curve[i] = metrics.auroc(is_error, s - lams[i] * h)\nreturn curve"],
}, "a2": {
    "robust": ["out = []\nfor i in range(len(world.mass)):\n    risks = []\n    for j in range(len(world.mass)):\n"
               "        if i == j or world.kernel[i][j] > 0:\n"
               "            risks.append(sum(t * (1 - p) for t, p in zip(world.truth[j], world.p[j])))\n"
               "    out.append(max(risks))\nreturn out",
               "risk = 1 - np.einsum('nc,nc->n', world.truth, world.p)\n"
               "return np.maximum(risk, np.where(world.kernel > 0, risk[None, :], -np.inf).max(axis=1))",
               "r = (world.truth * (1 - world.p)).sum(-1).astype(np.float32)\n"
               "return np.array([max(r[i], r[world.kernel[i] > 0].max()) for i in range(len(r))])"],
    "printed": ["risk = 1 - (world.truth * world.p).sum(1)\nmoved = [[np.maximum(a - b, 0).sum() for b in world.p] "
                "for a in world.p]\nreturn risk + (world.kernel * np.array(moved)).sum(1) - lam * entropy(world.p)",
                "out = []\nfor x in range(len(world.p)):\n    bound = sum(world.truth[x] * (1 - world.p[x]))\n"
                "    for y in range(len(world.p)):\n"
                "        bound += world.kernel[x, y] * abs(world.p[x] - world.p[y]).sum() / 2\n"
                "    out.append(bound - lam * entropy(world.p[x]))\nreturn np.array(out)",
                "p = world.p.astype(np.float32)\ntv = abs(p[:, None] - p).sum(-1) / 2\n"
                "h = -(p * np.log(np.where(p > 0, p, 1))).sum(1)\n"
                "return (world.truth * (1 - p)).sum(1) + np.einsum('ij,ij->i', world.kernel, tv) - lam * h"],
    "entropy": ["return World([1], [[1]], [[0.9, 0.1]], [[0.9, 0.1]])",
                "third = np.full((1, 3), 1 / 3)\nreturn World(np.ones(1), np.ones((1, 1)), third, third)"],
    "rare": ["return World([1, 0], [[1 - 1 / (L + 1), 1 / (L + 1)], [0, 1]], [[1, 0], [0, 1]], [[1, 0], [1, 0]])",
             "r = 0.01 / L\nkernel = [[1 - r, r], [r, 1 - r]]\n"
             "return World([0.5, 0.5], kernel, [[0.9, 0.1], [0.2, 0.8]], [[1, 0], [1, 0]])",
             "r = min(1e-3, 1 / (3 * L))\nkernel = [[1 - r, r, 0], [0, 1, 0], [0, 0, 1]]\n"
             "return World([1, 0, 0], kernel, [[1, 0], [0.5, 0.5], [0, 1]], [[1, 0], [1, 0], [0, 1]])"],
    "positive": ["p = np.array([0.5, 0.5])\nmove = min(lam * entropy(p) / 3, 0.2)\n"
                 "return World([0.5, 0.5], [[0, 1], [1, 0]], [p, p + [-move, move]], [[1, 0], [1, 0]])",
                 "# towards the truth: the other input is then the one that is hurt\np = np.array([0.5, 0.5])\n"
                 "move = min(lam / 5, 0.1)\n"
                 "return World([0.5, 0.5], [[0, 1], [1, 0]], [p, p + [move, -move]], [[1, 0], [1, 0]])",
                 "move = min(lam, 1) * 0.1\np = [[0.6, 0.4], [0.6 - move, 0.4 + move]]\n"
                 "return World(mass=[1, 0], kernel=np.array([[0, 1], [1, 0]]), p=p, truth=[[0.8, 0.2], [0.8, 0.2]])"],
    "mean-bound": ["return world.risk() + world.sensitivity()",
                   "s, h = world.sensitivity(), lam * world.entropy\n"
                   "return np.array([r + (a - b if a > b else 0) + b for r, a, b in zip(world.risk(), s, h)])",
                   "return (world.risk() + np.maximum(world.sensitivity(), lam * world.entropy)).astype(np.float32)"],
    "worst-bound": ["tv = np.abs(world.p[:, None] - world.p).sum(-1) / 2\n"
                    "return world.risk() + np.where(world.kernel > 0, tv, 0).max(1)",
                    "return [r + max(row[near]) for r, row, near in "
                    "zip(world.risk(), world.divergence(), world.neighbours)]",
                    "return (world.risk() + world.sup(world.divergence())).astype(np.float32)"],
}, "a3": {
    "mixture": ["return np.einsum('...zc,...z->...c', readings.astype(np.float32), weights.astype(np.float32))",
                "return (weights[..., None, :] @ readings)[..., 0, :]",
                "return sum(weights[..., z, None] * readings[..., z, :] for z in range(weights.shape[-1]))"],
    "collapse": ["index = kl(p_star, p)\nreturn np.stack([index, entropy(p_star) - entropy(p)])",
                 "cross = -(p_star * np.log(p)).sum(-1)\nh = entropy(p_star)\nreturn cross - h, h - entropy(p)",
                 "p_star, p = p_star.astype(np.float32), p.astype(np.float32)\n"
                 "return [kl(p_star, p), entropy(p_star) - entropy(p)]"],
    "sister-world": ["out = np.zeros(p_star.shape)\nfor i, row in enumerate(p_star):\n"
                     "    out[i, list(row).index(max(row))] = 1\nreturn out",
                     "return np.arange(p_star.shape[1]) == np.argmax(p_star, axis=1)[:, None]",
                     "out = np.zeros_like(p_star, dtype=np.float32)\n"
                     "np.put_along_axis(out, p_star.argmax(1, keepdims=True), 1, axis=1)\nreturn out"],
    "error-rates": ["one, two = detector(outputs_one), detector(outputs_two)\n"
                    "return sum(one) / len(one), sum(1 - x for x in two) / len(two)",
                    "return np.array([np.average(detector(outputs_one)), np.average(1 - detector(outputs_two))])",
                    "rate = [np.asarray(detector(x), dtype=np.float32).mean() for x in (outputs_one, outputs_two)]\n"
                    "return rate[0], 1 - rate[1]"],
    "mutual-information": ["mean = np.einsum('nzc,nz->nc', clarified, weights)\n"
                           "return (weights * kl(clarified, mean[:, None])).sum(1)",
                           "out = []\nfor rows, w in zip(clarified, weights):\n"
                           "    out.append(entropy(w @ rows) - sum(a * entropy(r) for a, r in zip(w, rows)))\n"
                           "return out",
                           "clarified, w = clarified.astype(np.float32), weights.astype(np.float32)\n"
                           "return entropy((w[..., None] * clarified).sum(1)) - (w * entropy(clarified)).sum(1)"],
    "decompose": ["mean = np.einsum('nzc,nz->nc', clarified, weights)\n"
                  "shift = sum(weights[:, z] * kl(clarified[:, z], p) for z in range(weights.shape[1]))\n"
                  "information = entropy(mean) - (weights * entropy(clarified)).sum(1)\n"
                  "return np.array([shift, information, kl(mean, p)])",
                  "terms = []\nfor q, rows, w in zip(p, clarified, weights):\n"
                  "    terms.append((w @ kl(rows, q), our_information(rows, w), kl(w @ rows, q)))\n"
                  "return tuple(np.array(terms).T)"],
    "detection": ["sure = predictions.subset(predictions.probs.max(1) >= threshold)\n"
                  "flags = ambiguous[predictions.probs.max(1) >= threshold]\n"
                  "return np.array([metrics.auroc(flags, sua.score(sure, name)) for name in names])",
                  "rows = [i for i, p in enumerate(predictions.probs) if max(p) >= threshold]\nout = []\n"
                  "for name in names:\n    values = sua.score(predictions, name)\n"
                  "    out.append(metrics.auroc(ambiguous[rows], values[rows]))\nreturn out"],
    "verdict": ["given = sua.Predictions(probs=p[None], clarified=clarified[None], weights=weights[None])\n"
                "index, information = (sua.score(given, name)[0] for name in ('collapse_index', 'clarification_mi'))\n"
                "if index > tolerance:\n    return 'collapsed'\nreturn 'open' if information > tolerance else 'clear'",
                "mean = sum(w * row for w, row in zip(weights, clarified))\n"
                "if (mean * np.log(mean / p)).sum() > tolerance:\n    return 'collapsed'\n"
                "if entropy(mean) - sum(weights * entropy(clarified)) > tolerance:\n    return 'open'\nreturn 'clear'"],
}, "a4": {
    "log-probabilities": ["return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)",
                          "z = logits.astype(np.float32)\nz = z - z.max(-1, keepdims=True)\n"
                          "return z - np.log(np.exp(z).sum(-1, keepdims=True))",
                          "def one(row):\n    top = max(row)\n"
                          "    return row - top - math.log(sum(math.exp(u - top) for u in row))\n"
                          "return np.apply_along_axis(one, -1, logits)"],
    "sua-tr-terms": ["task, shift, charge = [], [], []\nfor u, variants, y in zip(logits, variant_logits, labels):\n"
                     "    a = log_softmax(u)\n    p = np.exp(a)\n    h = -(p * a).sum()\n"
                     "    s = np.mean([(p * (a - log_softmax(v))).sum() for v in variants])\n"
                     "    task.append(-a[y])\n    shift.append(s)\n    charge.append(max(s - lam * h, 0))\n"
                     "return np.mean(task), np.mean(shift), np.mean(charge)",
                     "a = log_softmax(logits.astype(np.float32), axis=-1)\n"
                     "b = log_softmax(variant_logits.astype(np.float32), axis=-1)\np = np.exp(a)\n"
                     "s = np.einsum('nc,nkc->nk', p, a[:, None] - b).mean(1)\nexcess = s - lam * entropy(p)\n"
                     "task = -np.take_along_axis(a, labels[:, None], 1).mean()\n"
                     "return task, s.mean(), (excess * (excess > 0)).mean()"],
    "mixing-share": ["worst = 0.0\nfor q, rows in zip(p, perturbed):\n"
                     "    s = np.mean([(q * np.log(q / row)).sum() for row in rows])\n"
                     "    worst = max(worst, s + lam * (q * np.log(q)).sum())\n"
                     "return worst / (worst + lam * math.log(len(p[0])))",
                     "s = (p[:, None] * np.log2(p[:, None] / perturbed)).sum(-1).mean(1)\n"
                     "worst = max((s + lam * (p * np.log2(p)).sum(-1)).max(), 0)\n"
                     "return worst / (worst + lam * np.log2(p.shape[1]))",
                     "def left(t):\n    given = sua.Predictions((1 - t) * p + t / p.shape[1], "
                     "(1 - t) * perturbed + t / p.shape[1])\n    return sua.score(given, 'sua', lam=lam).max()\n"
                     "if left(0) <= 0:\n    return 0.0\nlow, high = 0.0, 1.0\nfor _ in range(50):\n"
                     "    t = (low + high) / 2\n    low, high = (low, t) if left(t) <= 0 else (t, high)\nreturn high"],
    "repaired-terms": ["rows = softmax(np.concatenate([logits[:, None], variant_logits], 1).astype(np.float32), -1)\n"
                       "b, k = rows.shape[0], rows.shape[1] - 1\ncalm = spread = task = doubt = 0.0\n"
                       "for r, y in zip(rows, labels):\n    task -= np.log(r[:, y]).mean() / b\n"
                       "    spread += (entropy(r.mean(0)) - entropy(r).mean()) / b\n    doubt += entropy(r[0]) / b\n"
                       "    for q in r[1:]:\n"
                       "        calm += (entropy((r[0] + q) / 2) - entropy(r[0]) / 2 - entropy(q) / 2) / (b * k)\n"
                       "return task, spread, calm - lam * doubt if calm > lam * doubt else 0.0"],
    "removable": ["return ((orbit[:, :, None] - orbit[:, None]) ** 2).sum(-1).mean((1, 2)) / 2",
                  "return (orbit ** 2).sum(-1).mean(1) - (orbit.mean(1) ** 2).sum(-1)",
                  "label = np.eye(orbit.shape[-1])[0]\nbrier = lambda q: ((q - label) ** 2).sum(-1)\n"
                  "return brier(orbit).mean(1) - brier(orbit.mean(1))",
                  "rows = orbit.astype(np.float32)\n"
                  "return [sum(((q - of.mean(0)) ** 2).sum() for q in of) / len(of) for of in rows]",
                  "return orbit.var(axis=1).sum(-1)"],
    "p-value": ["return binom.cdf(errors, n, risk)",
                "total, term = 0.0, (1 - risk) ** n\nfor i in range(errors + 1):\n    total += term\n"
                "    term *= (n - i) / (i + 1) * risk / (1 - risk)\nreturn total",
                "i = np.arange(errors + 1)\ncounts = np.array([math.comb(n, int(k)) for k in i], dtype=float)\n"
                "return (counts * risk**i * (1 - risk) ** (n - i)).sum()"],
    "upper-limit": ["from scipy.optimize import brentq\nif errors == n:\n    return 1\n"
                    "return brentq(lambda r: binom.cdf(errors, n, r) - delta, 0, 1, xtol=1e-12)",
                    "from scipy.stats import beta\n"
                    "return 1.0 if errors == n else beta.ppf(1 - delta, errors + 1, n - errors)"],
    "error-free-items": ["n = 0\nwhile (1 - risk) ** n > delta:\n    n += 1\nreturn n",
                         "return np.ceil(np.log(delta) / np.log1p(-risk))"],
    "naive-threshold": ["best = -np.inf\nfor tau in thresholds:\n    seen = is_error[scores <= tau]\n"
                        "    if len(seen) and np.mean(seen) <= risk:\n        best = tau\nreturn best",
                        "answered = scores[:, None] <= thresholds\ncount = answered.sum(0)\n"
                        "wrong = (answered & is_error[:, None]).sum(0)\nfits = (count > 0) & (wrong <= risk * count)\n"
                        "return float(thresholds[fits][-1]) if fits.any() else float('-inf')"],
    "certify": ["best = -np.inf\nfor tau in thresholds:\n    n = int((scores <= tau).sum())\n"
                "    k = int((is_error & (scores <= tau)).sum())\n"
                "    p = sum(math.comb(n, i) * risk**i * (1 - risk) ** (n - i) for i in range(k + 1))\n"
                "    if p > delta:\n        return best\n    best = tau\nreturn best",
                "answered = scores[:, None] <= thresholds\n"
                "p = binom.cdf((answered & is_error[:, None]).sum(0), answered.sum(0), risk)\n"
                "passed = np.cumprod(p <= delta).sum()\nreturn thresholds[passed - 1] if passed else -np.inf"],
    "share-broken": ["broken = 0\nfor drawn in calibrations:\n    if true_risk(rule(*drawn)) > risk:\n"
                     "        broken += 1\nreturn broken / len(calibrations)"],
}}


def solutions(table):
    return [pytest.param(name, cell, solution, id=f"{name}-{cell}-{i}") for name, exercises in table.items()
            for cell, bodies in exercises.items() for i, solution in enumerate(bodies)]


@cache
def notebook(name):
    return {cell.id: cell.source for cell in nbformat.read(SOURCE / name / f"{name}.ipynb", as_version=4).cells}


@cache
def before(name):
    space = {}
    for cell in BEFORE[name]:
        exec(notebook(name)[cell], space)  # noqa: S102
    plt.close("all")
    return space


def run(name, cell, solution):
    """The test cell of an exercise on this solution; raises what the student would see."""
    head, body = notebook(name)[cell].split("    ### BEGIN SOLUTION\n")
    if isinstance(solution, str):
        body = textwrap.indent(solution, "    ")
    else:
        old, new = solution
        if body.count(old) != 1:
            raise ValueError(f"the solution of {cell} holds {old!r} {body.count(old)} times")
        body = body.replace(old, new)
    space = dict(before(name))
    exec(head + body, space)  # noqa: S102
    exec(notebook(name)[f"test-{cell}"], space)  # noqa: S102


@pytest.mark.parametrize("name, cell, solution", solutions(WRONG))
def test_a_wrong_solution_loses_its_points_and_is_told_why(name, cell, solution):
    with pytest.raises(AssertionError) as error:
        run(name, cell, solution)
    message = str(error.value)
    assert 20 < len(message) < 300 and "\n" not in message and "array(" not in message, message


@pytest.mark.parametrize("name, cell, solution", solutions(RIGHT))
def test_a_right_solution_written_differently_loses_nothing(name, cell, solution):
    run(name, cell, solution)


def test_every_exercise_has_both_kinds():
    for name in BEFORE:
        exercises = {cell[5:] for cell in notebook(name) if cell.startswith("test-")}
        assert exercises == WRONG[name].keys() == RIGHT[name].keys()
        count = Counter({"wrong": sum(map(len, WRONG[name].values())), "right": sum(map(len, RIGHT[name].values()))})
        assert count >= Counter(wrong=30, right=20), (name, count)
