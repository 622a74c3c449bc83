"""The pages that show committed results: marked blocks are filled from files, times and costs from manifests."""

import json

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
    machine = {"processor": "Some CPU", "device": "cpu"}
    stages = {"01_a": {"seconds": 61.0, "uncached": True, "peak_memory_mib": 512, "machine": machine},
              "02_b": {"seconds": 60.0, "uncached": True, "peak_memory_mib": 2048, "machine": machine}}
    (tmp_path / "figures/p/MANIFEST.json").write_text(json.dumps({"profile": "p", "stages": stages}))
    filled = pages.render_page("<!-- begin figures/p/MANIFEST.json -->\n<!-- end -->\n").splitlines()[1]
    assert filled == ("The committed results of profile `p` took 3 minutes, one stage at a time, and 2.0 GiB of memory "
                      "on: Some CPU.")
