"""The pages that show committed results: marked blocks are filled from files, times and costs from manifests."""

import json

from sua.sources import LLAMA_PROMPTS
from sua.study import pages


def test_readme_blocks_are_filled_from_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "figures" / "p").mkdir(parents=True)
    (tmp_path / "figures" / "p" / "table1.md").write_text("new\n")
    text = "a\n<!-- begin figures/p/table1.md -->\nold\n<!-- end -->\nb\n"
    filled = pages.render_page(text)
    assert filled == "a\n<!-- begin figures/p/table1.md -->\nnew\n<!-- end -->\nb\n"
    assert pages.render_page(filled) == filled


def test_times_are_those_of_runs_that_found_nothing_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "figures/p").mkdir(parents=True)
    machine = {"device": "cpu", "processor": "some processor"}
    stages = {"01_a": {"seconds": 61.4, "uncached": True}, "02_b": {"seconds": 600.0, "uncached": True}}

    def shown():
        made = {name: {**stage, "machine": machine, "threads": 1} for name, stage in stages.items()}
        (tmp_path / "figures/p/MANIFEST.json").write_text(json.dumps({"stages": made}))
        return pages.render_page("<!-- begin times p -->\nold\n<!-- end -->")

    assert shown() == ("<!-- begin times p -->\nProfile p: cpu (some processor), 1 thread.\n\n| notebook | time |\n"
                       "| --- | --- |\n| 01_a | 61 s |\n| 02_b | 10 min |\n| all | 11 min |\n<!-- end -->")
    for stages["02_b"]["uncached"] in (False, None):
        assert "| 02_b | not measured |" in shown() and "| all |" not in shown()
    assert "not yet measured" in pages.times("unknown")


def test_readme_says_what_a_run_took(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "figures" / "p").mkdir(parents=True)
    (tmp_path / "notebooks/profiles").mkdir(parents=True)
    (tmp_path / "notebooks/profiles/p.yaml").write_text("02_b: {recorded: [prompted_llama]}\n")
    (archive,) = LLAMA_PROMPTS.files.values()
    machine = {"processor": "Some CPU", "device": "cpu", "packages_mib": 1536}
    stages = {"01_a": {"seconds": 61.0, "uncached": True, "peak_memory_mib": 512, "machine": machine},
              "02_b": {"seconds": 60.0, "uncached": True, "peak_memory_mib": 2048, "machine": machine}}

    def shown():
        (tmp_path / "figures/p/MANIFEST.json").write_text(json.dumps({"profile": "p", "stages": stages}))
        return pages.render_page("<!-- begin figures/p/MANIFEST.json -->\n<!-- end -->\n").splitlines()[1]

    fetched = f"{archive.bytes / 2**20:.0f} MiB of downloads on: Some CPU."
    assert shown() == ("The committed results of profile `p` took 3 minutes, one stage at a time, 2.0 GiB of memory, "
                       f"1.5 GiB of disk for the packages and {fetched}")
    stages["01_a"]["uncached"] = False
    del machine["packages_mib"]  # of a run that did not tell
    assert shown() == f"The committed results of profile `p` took 2.0 GiB of memory and {fetched}"


def test_where_rules_answer_nothing_is_read_from_the_tables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "figures/p").mkdir(parents=True)
    (tmp_path / "figures/p/table4_coverage.csv").write_text(
        'score,"a / erm, risk 0.1, delta 0.1","a / erm, risk 0.05, delta 0.1","b / erm, risk 0.1, delta 0.1",'
        '"b / sua_tr, risk 0.1, delta 0.1"\nmsp,0.000 ± 0.000,0.000 ± 0.000,0.000 ± 0.000,0.500 ± 0.100\n'
        'entropy,0.000 ± 0.000,0.000 ± 0.000,0.002 ± 0.003,\n', encoding="utf-8")
    (tmp_path / "figures/p/table6.csv").write_text("setting,accuracy,answered\nx,0.3,0.0\ny,0.52,0.0\nz,0.8,0.4\n")
    assert pages.render_page("<!-- begin silent p -->\nold\n<!-- end -->") == (
        "<!-- begin silent p -->\nAt a risk of 10%, delta 0.1, the rule by `msp` answers nothing for 2 of 3 trainings "
        "of the profile p and for 2 of 3 settings of language models (accuracies 0.30 to 0.52); none of 2 scores "
        "answers anything for a/erm.\n<!-- end -->")
