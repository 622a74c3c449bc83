"""Tiny untrained models with a vocabulary of words: they train in seconds on one core, and nothing is downloaded."""

from __future__ import annotations

from typing import Sequence

from ..inputs import Input
from .choice import ChoiceLM
from .common import on_device
from .encoder import MAX_LENGTH, EncoderClassifier, wrapped


def tiny_encoder(texts: Sequence[Input], n_classes: int, seed: int = 0, hidden: int = 48, layers: int = 2,
                 dropout: float = 0.1, choice: bool = False, dtype: str = "float64") -> EncoderClassifier:
    """An untrained two-layer BERT with a word-level vocabulary of `texts`: trains in seconds on one core.

    Words not in `texts` become [UNK]. choice : an EncoderChoice with n_classes options. dtype : of weights and
    activations; in "float64" a trained model is the same on every processor, to about nine digits.
    Everything follows from the arguments; nothing is downloaded.
    """
    import transformers
    from tokenizers import processors

    tokenizer = word_tokenizer(texts, processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)),
                               cls_token="[CLS]", sep_token="[SEP]")
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=2 * hidden, max_position_embeddings=MAX_LENGTH, num_labels=1 if choice else n_classes,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=0, initializer_range=hidden ** -0.5)
    model = _untrained(transformers.BertForSequenceClassification, config, seed, dtype)
    return wrapped(model, tokenizer, n_classes if choice else None, name="tiny-bert")


def tiny_llama(texts: Sequence[Input], answers: Sequence[str] | None = None, seed: int = 0, hidden: int = 32,
               layers: int = 2, dropout: float = 0.1, template: str = "{question} :", dtype: str = "float64",
               **options) -> ChoiceLM:
    """An untrained two-layer Llama with a word-level vocabulary of `texts` and `answers`: trains on one core.

    Words not in these become [UNK]. answers, template, options : of ChoiceLM. dtype : as in `tiny_encoder`.
    Everything follows from the arguments; nothing is downloaded.
    """
    import transformers
    from tokenizers import processors

    tokenizer = word_tokenizer([*texts, *(answers or ()), template],
                               processors.TemplateProcessing("[BOS] $A", special_tokens=[("[BOS]", 2)]),
                               bos_token="[BOS]")
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=2 * hidden, max_position_embeddings=1024, attention_dropout=dropout,
        pad_token_id=0, bos_token_id=2, eos_token_id=None, tie_word_embeddings=True)
    model = on_device(_untrained(transformers.LlamaForCausalLM, config, seed, dtype))
    return ChoiceLM(model, tokenizer, answers=answers, template=template, **{"name": "tiny-llama", **options})


def _untrained(architecture, config, seed, dtype):
    """A model with weights drawn by `seed`, already in their own type: a cast would keep float32's rounding."""
    import torch

    torch.manual_seed(seed)
    return architecture._from_config(config, dtype=getattr(torch, dtype))


def word_tokenizer(texts: Sequence[Input], post_processor, **special):
    """A tokenizer whose tokens are [PAD], [UNK], the special ones, and the lower-case words of `texts`."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", **special}
    words = sorted({word for text in texts for part in ([text] if isinstance(text, str) else text)
                    for word in part.lower().split()})
    core = Tokenizer(models.WordLevel({token: i for i, token in enumerate([*special.values(), *words])}, "[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit()
    core.post_processor = post_processor
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, **special)
