"""How a causal model reads a batch of prompts with options in one forward pass: as a forest of tokens.

The trunk, which all options of an input follow, is read once for them, and once for all inputs that begin alike. A
token attends to the tokens before it in its own text, at the positions these have there. Where that would save little,
each text is read by itself, so that no batch costs more than its texts would in a plain loop. In stochastic passes the
options of an input always share one trunk, and inputs share nothing.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

NEVER = 1 << 30  # deeper than any token: the depth of empty places, which nothing sees
LITTLE = 0.05  # sharing that saves no more than this part of a pass is not worth the attention mask that it takes


class _Scored(NamedTuple):
    """The M tokens of a batch (n, T) that are scored: those of its options, option by option, input by input."""

    row: np.ndarray  # (M,) input of each token
    column: np.ndarray  # (M,) its place in the input's row of the batch
    option: np.ndarray  # (M,) number of its option, from 0
    depth: np.ndarray  # (M,) its position in the text that is the trunk and this option
    begin: np.ndarray  # (options of all inputs,) where each option begins among the M
    size: np.ndarray  # (options of all inputs,) its number of tokens
    length: np.ndarray  # (n,) tokens of each trunk
    count: np.ndarray  # (n, C) tokens of each option, 0 where it is absent


def _plan(ids, kinds, real, share, hidden):
    """How a batch (n, T), padded on the right, is read: two dicts of arrays. Neighbours share, so it is best sorted.

    The first says what stands where in the rows (R, W) that the network gets:

    source : (R, W) flat place in the batch of each token. last : (n,) flat places of the trunks' last tokens.
    row, column, option : (M,) the scored tokens, whose options are numbered from 0. count : (n, C) their number.
    before : flat places in the rows after which they stand, sorted, and which : (M,) the one of each.

    The second says what a token of a forest sees; None if each row is one text, cheaper where little is shared:

    depth, kind, owner : (R, W) a token's position, option and input.
    reach : (n, n) at [i, j] the depth below which the trunk of an input j of its row is also that of input i.

    Example: the prompt "a" with the options "c d" and "e", and the prompt "a b" with "c" and "e". Of the eight tokens
    one row reads three: "a" for both inputs, "c" of the first, "b". All others are only predicted.

    >>> ids, kinds = np.array([list("acde"), list("abce")]), np.array([[0, 1, 1, 2], [0, 0, 1, 2]])
    >>> plan, forest = _plan(ids, kinds, np.ones((2, 4), int), share=True, hidden=8)
    >>> ids.ravel()[plan["source"]].tolist(), plan["source"].tolist()
    ([['a', 'c', 'b']], [[0, 1, 5]])
    >>> plan["last"].tolist()  # the first trunk ends with "a", the second with "b"
    [0, 2]
    >>> ids[plan["row"], plan["column"]].tolist()  # scored: c d | e and c | e
    ['c', 'd', 'e', 'c', 'e']
    >>> plan["count"].tolist()
    [[2, 1], [1, 1]]
    >>> plan["before"][plan["which"]].tolist()  # c after a, d after c, e after a; c and e after b
    [0, 1, 0, 2, 2]
    >>> forest["depth"].tolist(), forest["kind"].tolist(), forest["owner"].tolist()
    ([[0, 1, 1]], [[0, 1, 0]], [[0, 0, 1]])
    >>> int(forest["reach"][1, 0])  # "b" sees of the first input what stands at depth 0: "a", not "c"
    1
    """
    n, scored = len(ids), _scored(kinds, real)

    shared = np.zeros(n, int)  # (n,) tokens at the trunk's beginning that are those of the input before
    if share:
        most = np.minimum(scored.length[1:] - 1, scored.length[:-1])  # its last token is always an input's own
        alike = (ids[1:] == ids[:-1]) & (np.arange(ids.shape[1]) < most[:, None])  # (n - 1, T)
        shared[1:] = alike.cumprod(1).sum(1)

    # where each text begins among the scored tokens: one per option, or one for all whose only token is predicted
    texts = scored.begin if scored.size.max() > 1 else np.flatnonzero(np.diff(scored.row, prepend=-1))
    # not so in a stochastic pass: what it drops of a trunk, it drops for all of its options
    number = len(texts) if share or len(texts) == n else np.inf
    sizes = scored.length + (scored.count - 1).clip(0).sum(1)  # an option's last token is only predicted
    starts = _starts(sizes, shared, (number, scored.depth.max()), hidden)
    if starts is None:
        source, last, after, forest = *_text_rows(scored, texts, ids.shape[1]), None
    else:
        source, last, after, forest = _forest_rows(scored, kinds, real, shared, starts)

    used = np.zeros(source.size, bool)
    used[after] = True
    return {"source": source, "last": last, "row": scored.row, "column": scored.column, "option": scored.option,
            "count": scored.count, "before": np.flatnonzero(used), "which": (used.cumsum() - 1)[after]}, forest


def _scored(kinds, real):
    n, options = len(kinds), kinds.max()
    row, column = np.nonzero(real * kinds)
    option = kinds[row, column] - 1
    length = real.sum(1) - np.bincount(row, minlength=n)

    begin = np.flatnonzero(np.diff(row * options + option, prepend=-1))
    size = np.diff(begin, append=len(row))
    depth = length[row] + np.arange(len(row)) - np.repeat(begin, size)

    count = np.zeros((n, options), int)
    count[row[begin], option[begin]] = size
    return _Scored(row, column, option, depth, begin, size, length, count)


def _text_rows(scored, begin, columns):
    """(source, last, after) of rows of one text each; after : (M,) flat places after which the scored tokens stand.

    begin : (R,) where each text begins among the scored tokens. columns : T of the batch.
    """
    owner, length, width = scored.row[begin], scored.length, scored.depth.max()
    place = np.arange(width)

    # after its trunk a row continues with the option, past the options that stand between the two
    jump = (scored.column[begin] - length[owner])[:, None] * (place >= length[owner, None])  # (R, W)
    source = owner[:, None] * columns + np.minimum(place + jump, columns - 1)

    last = np.searchsorted(owner, range(len(length))) * width + length - 1
    text = np.searchsorted(begin, np.arange(len(scored.row)), "right") - 1  # (M,)
    return source, last, text * width + scored.depth - 1


def _forest_rows(scored, kinds, real, shared, starts):
    """(source, last, after) of the forest's rows, as `_text_rows` gives them, and what its tokens see (`_plan`)."""
    n, columns = kinds.shape
    row, column, begin = scored.row, scored.column, scored.begin

    # own : (n, T) the tokens that each input adds to its row
    shared[starts] = 0
    own = (real > 0) & (np.arange(columns) >= shared[:, None])
    end = begin + scored.size - 1
    own[row[end], column[end]] = False  # an option's last token is only predicted

    # place : (n, T) where in the rows, counted flat, each own token goes: after those of the inputs before it
    line, filled = np.searchsorted(starts, range(n), "right") - 1, own.sum(1)
    offset = filled.cumsum() - filled
    place = (offset - offset[starts][line])[:, None] + own.cumsum(1) - 1
    width = 1 + place[own].max()
    place += line[:, None] * width
    (i, j), taken = np.nonzero(own), place[own]

    def rows(values, empty=0):
        all_rows = np.full(len(starts) * width, empty)
        all_rows[taken] = values
        return all_rows.reshape(-1, width)

    last, after = place[range(n), scored.length - 1], place[row, column - 1]
    after[begin] = last[row[begin]]  # an option's first token stands after the trunk

    position = np.tile(np.arange(columns), (n, 1))  # (n, T)
    position[row, column] = scored.depth
    later = np.where(np.arange(n)[:, None] > np.arange(n), shared[:, None], NEVER)
    forest = {
        "depth": rows(position[own], NEVER),
        "kind": rows(kinds[own]),
        "owner": rows(i),
        "reach": np.minimum.accumulate(later, 0),  # i and j share what all inputs after j, up to i, share
    }
    return rows(i * columns + j), last, after, forest


def _starts(sizes, shared, texts, hidden):
    """The inputs that begin a row of the forest, so that the rows, all as wide as the widest, cost least.

    sizes : (n,) tokens that each input reads in a row of its own. shared : (n,) how many of them the input before has
    read where both stand in one row. texts : number and width of the rows if each is one text.

    None if rows of one text each cost less than the forest, or at most LITTLE more.
    """
    def cost(rows, width):  # of a layer: a token takes 12 hidden^2 in its matrices, 2 hidden per token of its row
        return rows * width * (6 * hidden + width)

    least, best, capacity, own = (1 - LITTLE) * cost(*texts), None, int(sizes.max()), sizes - shared
    if own.sum() > (1 - LITTLE) * texts[0] * texts[1]:
        return None

    while True:  # rows twice as wide each time, until one holds all inputs
        starts, widest = _filled(sizes, own, capacity)
        if (price := cost(len(starts), widest)) < least:
            least, best = price, np.array(starts)
        if len(starts) == 1:
            return best
        capacity *= 2


def _filled(sizes, own, capacity):
    """(inputs that begin a row, tokens of the widest row) where each row takes inputs in order while they fit."""
    starts, used, widest = [], capacity, 0
    for i, (size, further) in enumerate(zip(sizes.tolist(), own.tolist())):
        used += further
        if used > capacity:
            starts.append(i)
            used = size
        widest = max(widest, used)
    return starts, widest


def _attention(forest, dtype):
    """For the network: a mask (R, 1, W, W), 0 where a token attends and the least number elsewhere, and positions."""
    import torch

    depth, kind, owner = forest.depth, forest.kind, forest.owner  # (R, W)
    place = torch.arange(depth.shape[1], device=depth.device)

    # seen : (R, W, W), at [r, w, v] whether the token at w sees the one at v: their inputs share it, or are one; it
    # is of a trunk or of the same option; and it is not later
    seen = depth[:, None] < forest.reach[owner].gather(2, owner[:, None].expand(-1, len(place), -1))
    seen &= (kind[:, None] == 0) | (kind[:, None] == kind[:, :, None])
    seen &= place <= place[:, None]

    zero = torch.zeros((), dtype=dtype, device=seen.device)
    return {"attention_mask": torch.where(seen, zero, torch.finfo(dtype).min)[:, None],
            "position_ids": depth * (depth < NEVER)}


def _tensors(arrays, device):
    import torch

    return SimpleNamespace(**{name: torch.from_numpy(array).to(device) for name, array in arrays.items()})
