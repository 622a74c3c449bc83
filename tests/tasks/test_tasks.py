"""Tasks from real and made-up mirrors: splits that do not overlap, hidden labels, and what a gap in them says."""

import hashlib
import json
import os
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

import sua.tasks.hub
from mirrors import raw_rows
from sua import load_task, paths
from sua.perturb import KERNELS, Perturbation
from sua.tasks import HUB_SETS, HUB_TASKS, SPLITS, HubTask, Task, clarifications, inputs

SIZES = {"train": 6, "validation": 3, "calibration": 4, "test": 5}
PAIRS = HubTask("lab/pairs", "0" * 40, ("no", "yes"), text="premise", text_pair="hypothesis", config="plain")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty mirror, and a working directory without one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUA_MIRROR", str(tmp_path / "mirror"))
    return tmp_path


def fill(home, labels, spec=PAIRS, drop=None):
    """Write {split: labels} as the mirror's parquet files; row i's texts say where they came from."""
    folder = home / "mirror" / "datasets" / spec.hub_id / spec.config
    folder.mkdir(parents=True, exist_ok=True)
    for split, values in labels.items():
        columns = {"premise": [f"premise {split} {i}" for i in range(len(values))],
                   "hypothesis": [f"hypothesis {split} {i}" for i in range(len(values))], "label": list(values)}
        pq.write_table(pa.table({name: column for name, column in columns.items() if name != drop}),
                       folder / f"{split}.parquet")
    return folder


def ids(task):
    return {split: list(task[split]["id"]) for split in SPLITS}


def test_sst2_from_the_mirror(mirror):
    sizes = {"train": 300, "validation": 50, "calibration": 100, "test": 200}
    task = load_task("sst2", sizes)
    assert {split: len(task[split]) for split in SPLITS} == sizes
    every = [i for split in SPLITS for i in ids(task)[split]]
    assert len(set(every)) == len(every) == sum(sizes.values())
    origin = {"train": "train", "validation": "train", "calibration": "validation", "test": "test"}
    for split in SPLITS:
        table = pq.read_table(mirror / "datasets/stanfordnlp/sst2/default" / f"{origin[split]}.parquet")
        for row in task[split]:
            name, number = row["id"].split("-")
            assert name == origin[split]
            assert row["text"] == table["sentence"][int(number)].as_py() and row["text"].strip()
            assert row["label"] == table["label"][int(number)].as_py() in (0, 1)
    assert task.n_classes == 2 and task.label_names == ("negative", "positive")
    assert task.source["origin"] == "mirror" and task.source["splits"] == "drawn anew, not the official ones"
    # whole sentences, balanced to within five standard errors
    assert abs(np.mean(task["train"]["label"]) - 0.52) < 5 * 0.5 / np.sqrt(300)


def test_loading_is_a_function_of_sizes_and_seed(mirror):
    sizes = {"train": 60, "validation": 20, "calibration": 20, "test": 20}
    first, again, other = load_task("sst2", sizes), load_task("sst2", sizes), load_task("sst2", sizes, seed=1)
    assert first.digest == again.digest != other.digest and ids(first) == ids(again)
    assert set(ids(first)["train"]) != set(ids(other)["train"])
    rows = hashlib.sha256()
    for split in sorted(SPLITS):
        rows.update(split.encode() + json.dumps(first[split].to_dict(), sort_keys=True).encode())
    assert first.digest == rows.hexdigest()[:16]


def test_every_registered_set_is_in_the_mirror(mirror):
    for name, spec in HUB_TASKS.items():
        trains = name not in ("boolq", "commonsense_qa")  # the mirror has no training rows of these
        task = load_task(name, SIZES if trains else {**SIZES, "train": 0, "validation": 0})
        assert task.n_classes == len(spec.label_names) and task.name == name
        assert all(0 <= label < task.n_classes for split in task.splits for label in task[split]["label"])


def test_one_held_out_split_serves_calibration_and_test_without_overlap(mirror):
    task = load_task("ag_news", {"train": 10, "validation": 10, "calibration": 400, "test": 600})
    calibration, test = set(ids(task)["calibration"]), set(ids(task)["test"])
    assert len(calibration) == 400 and len(test) == 600 and not calibration & test
    assert {i.split("-")[0] for i in calibration | test} == {"test"}


def test_a_digest_sees_every_value():
    make = lambda **split: Task("toy", DatasetDict({"test": Dataset.from_dict(split)}), ("a", "b"))
    digests = [make(text=text, label=label).digest for text, label in (
        (["x", "y"], [0, 1]), (["x", "y"], [1, 0]), (["y", "x"], [0, 1]), (["xy", ""], [0, 1]))]
    assert len(set(digests)) == 4 and make(text=["x", "y"], label=[0, 1]).digest == digests[0]


def test_pairs_and_the_whole_pool(home):
    fill(home, {"train": [0, 1] * 10, "validation": [1] * 4, "test": [0] * 5})
    task = load_task(PAIRS, {**SIZES, "train": 17, "validation": 3})
    assert task.name == "pairs" and task["test"].column_names == ["id", "text", "text_pair", "label"]
    assert sorted(inputs(task["test"])) == [(f"premise test {i}", f"hypothesis test {i}") for i in range(5)]
    used = ids(task)["train"] + ids(task)["validation"]
    assert sorted(used) == sorted(f"train-{i}" for i in range(20))
    assert set(task["calibration"]["label"]) == {1} and set(task["test"]["label"]) == {0}


def test_drawn_rows_are_in_the_order_of_the_draw(home):
    """A file sorted by its labels is none of a split's first rows."""
    fill(home, {"train": [0] * 50 + [1] * 50, "validation": [0] * 50 + [1] * 50, "test": [0] * 50 + [1] * 50})
    task = load_task(PAIRS, {"train": 60, "validation": 40, "calibration": 100, "test": 100})
    for split in SPLITS:  # of 20 rows drawn from two halves all but 1 in 10^5 draws hold both labels
        assert {0, 1} == set(task[split]["label"][:20]) and ids(task)[split] != sorted(ids(task)[split])
    assert ids(task) == ids(load_task(PAIRS, {"train": 60, "validation": 40, "calibration": 100, "test": 100}))


OFFICIAL = {"train": "train", "calibration": "validation", "test": "test"}


def test_official_splits_are_whole_and_in_order_unless_sizes_ask_for_fewer(home):
    fill(home, {"train": [0, 1] * 10, "validation": [1, 0, -1, 1], "test": [0] * 5})
    spec = replace(PAIRS, official=OFFICIAL)
    task = load_task(spec)
    assert list(task.splits) == ["train", "calibration", "test"] and task.source["splits"] == "the official ones"
    assert {split: task[split]["id"][:] for split in task.splits} == {
        "train": [f"train-{i}" for i in range(20)], "calibration": [f"validation-{i}" for i in (0, 1, 3)],
        "test": [f"test-{i}" for i in range(5)]}
    fewer = load_task(spec, {"train": 6})
    assert len(set(fewer["train"]["id"])) == 6 and fewer["test"]["id"][:] == task["test"]["id"][:]
    assert fewer.source["splits"] == "drawn from the official ones"


def test_official_splits_that_share_one_of_the_hubs_need_sizes(home):
    fill(home, {"train": [0, 1] * 10, "validation": [1] * 8, "test": [0] * 5})
    spec = replace(PAIRS, official={"calibration": "validation", "test": "validation"})
    with pytest.raises(ValueError, match="calibration shares validation with another split: give sizes..calibration"):
        load_task(spec)
    task = load_task(spec, {"calibration": 5, "test": 3})
    assert sorted(task["calibration"]["id"][:] + task["test"]["id"][:]) == [f"validation-{i}" for i in range(8)]
    for sizes, said in (({"calibration": 5, "test": 4}, "test asks for 4 rows, validation has 3 left of 8"),
                        ({"train": 2}, "sizes names .'train'., but its official splits are calibration, test")):
        with pytest.raises(ValueError, match=said):
            load_task(spec, sizes)


def voted(home, votes):
    """A mirror's set whose rows have people's votes and no label, and its HubTask."""
    spec = HubTask("lab/voted", label_names=("no", "perhaps", "yes"), label=None, votes="counts",
                   official={"test": "test"})
    folder = home / "mirror/datasets/lab/voted/default"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"text": [f"t{i}" for i in range(len(votes))], "counts": votes}), folder / "test.parquet")
    return spec


def test_votes_become_label_dist_and_without_labels_the_majority(home):
    """No revision either: a mirror's rows are taken as they are."""
    task = load_task(voted(home, [[1, 2, 1], [0, 0, 5], [3, 3, 0]]))
    assert task["test"]["label_dist"][:] == [[0.25, 0.5, 0.25], [0, 0, 1], [0.5, 0.5, 0]]
    assert task["test"]["label"][:] == [1, 2, 0]


@pytest.mark.parametrize("row", [[1, 2], [0, 0, 0], [1, -1, 2], None])
def test_votes_that_are_none_are_named_with_their_row(home, row):
    with pytest.raises(ValueError, match="lab/voted: row 1 of test has counts = .*expected 3 numbers"):
        load_task(voted(home, [[1, 2, 1], row]))


@pytest.mark.parametrize("given, said", [
    ({"label_names": ("yes",)}, "at least two"), ({"label_names": "ab"}, "label_names = 'ab'"),
    ({"label": None}, "name the column of the labels, or of votes"),
    ({"official": {"dev": "validation"}}, "official names the splits .'dev'.: known are train, validation")])
def test_a_hub_task_that_cannot_be_read_says_so_at_once(given, said):
    with pytest.raises(ValueError, match=said):
        replace(PAIRS, **given)


def test_mirrors_are_asked_in_their_order(home, monkeypatch):
    for mirror, splits in (("one", ("train",)), ("two", ("train", "validation", "test"))):
        (home / "mirror").mkdir()
        fill(home, {split: [0, 1] * 10 if mirror == "one" else [1] * 20 for split in splits})
        (home / "mirror").rename(home / mirror)
    monkeypatch.setenv("SUA_MIRROR", os.pathsep.join([str(home / "one"), "", "two"]))
    assert paths.mirrors() == [home / "one", home / "two", home / "data/hub"]
    task = load_task(PAIRS, {"train": 16, "validation": 4, "calibration": 2, "test": 2})
    assert {*task["train"]["label"]} == {0, 1} and {*task["test"]["label"]} == {1}


def test_hidden_test_labels_leave_one_split_to_share(home):
    fill(home, {"train": [0, 1] * 10, "validation": [0, 1, -1] * 4, "test": [-1] * 9})
    task = load_task(PAIRS, {**SIZES, "calibration": 4, "test": 4})
    calibration, test = ids(task)["calibration"], ids(task)["test"]
    # rows without a label are left out, and ids still say which row of the file each one is
    assert sorted(calibration + test) == sorted(f"validation-{i}" for i in range(12) if i % 3 != 2)
    for row in [*task["calibration"], *task["test"]]:
        assert row["label"] == int(row["id"].split("-")[1]) % 3
        assert row["text"] == "premise validation " + row["id"].split("-")[1]


def test_a_single_held_out_split_that_is_too_small_is_shared_in_proportion(home):
    fill(home, {"train": [0, 1] * 10, "validation": [0, 1] * 6, "test": [-1] * 9})
    task = load_task(PAIRS, {**SIZES, "calibration": 8, "test": 16})
    assert (len(task["calibration"]), len(task["test"])) == (4, 8)
    assert not set(ids(task)["calibration"]) & set(ids(task)["test"])


def test_a_hub_task_takes_no_arguments_of_a_world():
    with pytest.raises(ValueError, match="'sst2' takes no .'label_rule'.: only generated worlds do"):
        load_task("sst2", label_rule="sampled")


def test_training_rows_without_a_label_are_left_out(home):
    fill(home, {"train": [0, 1, -1] * 10, "validation": [1] * 4, "test": [0] * 5})
    task = load_task(PAIRS, {**SIZES, "train": 15, "validation": 5})
    assert {*task["train"]["label"], *task["validation"]["label"]} == {0, 1}


def test_no_labelled_held_out_split(home):
    fill(home, {"train": [0, 1] * 10, "validation": [-1] * 4, "test": [-1] * 9})
    with pytest.raises(ValueError, match="lab/pairs: none of validation, test has labels; name a labelled split"):
        load_task(PAIRS, SIZES)


@pytest.mark.parametrize("column", ["premise", "hypothesis", "label"])
def test_a_missing_column_is_named_with_its_file(home, column):
    folder = fill(home, {"train": [0, 1] * 10, "validation": [1] * 4, "test": [0] * 5}, drop=column)
    kept = ", ".join(name for name in ("premise", "hypothesis", "label") if name != column)
    with pytest.raises(ValueError, match=f"{re.escape(str(folder / 'train.parquet'))} has no column '{column}'; "
                                         f"it has {kept}.*HubTask"):
        load_task(PAIRS, SIZES)


@pytest.mark.parametrize("split, size, pool", [("train", 21, "train"), ("validation", 15, "train"),
                                               ("calibration", 5, "validation"), ("test", 6, "test")])
def test_too_many_rows_asked_for(home, split, size, pool):
    fill(home, {"train": [0, 1] * 10, "validation": [1] * 4, "test": [0] * 5})
    with pytest.raises(ValueError, match=f"{split} asks for {size} rows, {pool} has .* lower sizes..{split}"):
        load_task(PAIRS, {**SIZES, split: size})


def test_unknown_names_list_what_is_known(home):
    with pytest.raises(ValueError, match="unknown task 'sst3'; known: topic, .*sst2.*HubTask"):
        load_task("sst3")
    with pytest.raises(ValueError, match="unknown splits .'dev'.*known: train, validation, calibration, test"):
        load_task("topic", {"dev": 3})
    task = load_task("topic", SIZES)
    with pytest.raises(ValueError, match="'topic' has no split 'dev'; it has train, validation, calibration, test"):
        task["dev"]
    with pytest.raises(ValueError, match="no perturbation 'typo'; known: typos.*synonyms"):
        task.perturbation("typo")
    with pytest.raises(ValueError, match="no perturbation 'negation'"):
        task.perturbation(["typos", "negation"])


def test_perturbations_by_name_the_tasks_own_first():
    own = Perturbation.of_text("typos", lambda text, rng: text)
    task = Task("toy", DatasetDict(train=Dataset.from_dict({"text": ["x"]})), ("a",), {"typos": own})
    assert task.perturbation("typos") is task.perturbation(["typos"]) is own
    assert task.perturbation("framing") is KERNELS["framing"]
    assert task.perturbation(["framing", "surface"]).name == "framing+surface"


@pytest.mark.parametrize("missing", ["train", "test"])
def test_nothing_available_names_the_set_the_places_and_both_remedies(home, monkeypatch, missing):
    fill(home, {split: [0, 1] * 10 for split in ("train", "validation", "test") if split != missing})

    def offline(*args, **options):
        assert options["split"] == missing and options["revision"] == PAIRS.revision
        raise ConnectionError("no route to host")

    monkeypatch.setattr("sua.tasks.hub.load_dataset", offline)
    with pytest.raises(paths.NotAvailableError) as error:
        load_task(PAIRS, SIZES)
    for part in ("data set 'lab/pairs (plain, " + missing, str(home / "mirror"), str(home / "data" / "hub"),
                 "Hugging Face hub", "ConnectionError", "SUA_MIRROR", "MIRROR=", "make download"):
        assert part in str(error.value)
    assert isinstance(error.value, OSError)


def test_the_hub_is_asked_where_no_mirror_has_the_set(home, monkeypatch):
    from datasets import Dataset

    asked = []

    def hub(hub_id, config, split, revision):
        asked.append((hub_id, config, split, revision))
        return Dataset.from_dict({"premise": ["p"] * 20, "hypothesis": ["h"] * 20, "label": [0, 1] * 10})

    monkeypatch.setattr("sua.tasks.hub.load_dataset", hub)
    task = load_task(PAIRS, SIZES)
    assert asked == [("lab/pairs", "plain", split, "0" * 40) for split in ("train", "validation", "test")]
    assert task.source["origin"] == "hub" and task.source["revision"] == "0" * 40


def test_data_hub_is_a_mirror_too(home, monkeypatch):
    fill(home, {"train": [0, 1] * 10, "validation": [1] * 4, "test": [0] * 5})
    monkeypatch.delenv("SUA_MIRROR")
    (home / "data").mkdir()
    (home / "mirror").rename(home / "data" / "hub")
    assert len(load_task(PAIRS, SIZES)["test"]) == 5


def test_what_a_stage_reads_of_the_mirror_is_listed(home, monkeypatch):
    fill(home, {"train": [0, 1] * 10, "validation": [1] * 4, "test": [0] * 5})
    monkeypatch.setenv("SUA_STAGE_DIR", str(home))
    load_task(PAIRS, SIZES)
    assert (home / ".mirrored").read_text().splitlines() == [
        f"datasets/lab/pairs/plain/{split}.parquet" for split in ("train", "validation", "test")]


def test_multiple_choice_keeps_rows_with_as_many_options_and_finds_the_right_one(home):
    spec = HubTask("lab/quiz", "0" * 40, ("A", "B", "C"), text="question", options="choices", label="answerKey")
    folder = home / "mirror" / "datasets" / spec.hub_id / "default"
    folder.mkdir(parents=True)
    rows = {"question": [f"question {i}" for i in range(12)],
            "choices": [{"text": [f"o{i}{j}" for j in range(2 if i == 5 else 3)],
                         "label": ["1", "2", "3"][:2 if i == 5 else 3] if i % 2 else ["A", "B", "C"]}
                        for i in range(12)],
            "answerKey": ["2" if i % 2 else "C" for i in range(12)]}
    for split in ("train", "validation", "test"):
        pq.write_table(pa.table(rows), folder / f"{split}.parquet")
    task = load_task(spec, {"train": 8, "validation": 3, "calibration": 11, "test": 11})
    assert task.is_multiple_choice and task.n_classes == 3
    for (question, *options), label in zip(inputs(task["test"]), task["test"]["label"]):
        i = int(question.split()[1])
        assert i != 5 and options == [f"o{i}{j}" for j in range(3)] and label == (1 if i % 2 else 2)
    kernel = task.perturbation(["typos", "framing"])
    x = inputs(task["test"])[0]
    drawn = kernel.sample(x, 20, np.random.default_rng(0))
    assert all(variant[1:] == x[1:] for variant in drawn) and any(variant[0] != x[0] for variant in drawn)


def test_human_nli_trains_on_both_sets_and_tests_on_votes(mirror):
    sizes = {"train": 31, "validation": 10, "calibration": 40, "test": 60}
    task = load_task("chaosnli", sizes)
    assert {split: len(task[split]) for split in SPLITS} == sizes
    premises = {name: set(pq.read_table(mirror / "datasets" / name / "train.parquet")["premise"].to_pylist())
                for name in ("stanfordnlp/snli/plain_text", "nyu-mll/multi_nli/default")}
    found = [[text in texts for text in task["train"]["text"]] for texts in premises.values()]
    assert np.sum(found, axis=1).tolist() == [16, 15]
    every = load_task("chaosnli", {**sizes, "train": 66733})  # as many of MultiNLI as the validation rows leave
    texts = every["train"]["text"][:]
    assert [sum(text in of_set for text in texts) for of_set in premises.values()] == [59995, 6738]
    assert set(task["train"]["text"]) <= set(texts)
    votes = np.array(task["test"]["label_dist"])
    assert np.allclose(votes.sum(1), 1) and (votes.argmax(1) == task["test"]["label"]).mean() > 0.98  # ties aside
    assert not set(task["calibration"]["id"]) & set(task["test"]["id"])
    with pytest.raises(ValueError, match="ask for 4000 rows, there are 3113"):
        load_task("chaosnli", {**sizes, "test": 3960})


BBQ_SIZES = {"train": 400, "validation": 40, "calibration": 100, "test": 200}


def test_bbq_keeps_templates_together_and_knows_which_contexts_are_ambiguous(mirror, hub_sets):
    """Its texts hold stereotypes by design: compared here, never printed."""
    rows = {row["id"]: row for row in raw_rows(mirror, "bbq", "test")}
    task, seen = load_task("bbq", BBQ_SIZES), {}
    for split in SPLITS:
        assert len(task[split]) == BBQ_SIZES[split] and 0.4 < np.mean(task[split]["ambiguous"]) < 0.6
        for i, x, label, ambiguous in zip(task[split]["id"], inputs(task[split]), task[split]["label"],
                                          task[split]["ambiguous"]):
            row = rows[i]
            assert ambiguous is (row["condition"] == "ambig") and label == row["answer"]
            same = x == (f"{row['context']} {row['question']}", *row["choices"])
            assert same and (not ambiguous or label == row["unknown_index"])
            assert seen.setdefault((row["category"], row["question_index"]), split) == split
    assert task.is_multiple_choice and task.n_classes == 3
    assert load_task("bbq", BBQ_SIZES).digest == task.digest != load_task("bbq", BBQ_SIZES, seed=1).digest
    file = hub_sets / "datasets" / HUB_SETS["bbq"].hub_id / HUB_SETS["bbq"].config / "test.parquet"
    assert task.source["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="bbq: train asks for 5000 rows, there are .*: lower sizes"):
        load_task("bbq", {**BBQ_SIZES, "train": 5000})


def test_clarifications_have_the_form_of_the_inputs():
    texts = Dataset.from_dict({"clarified": [["a", "b"], ["c", "d"]]})
    assert clarifications(texts) == [["a", "b"], ["c", "d"]]
    pairs = texts.add_column("clarified_pair", [["A", "B"], ["C", "D"]])
    assert clarifications(pairs) == [[("a", "A"), ("b", "B")], [("c", "C"), ("d", "D")]]


def test_every_label_has_a_name():
    def make(labels, names):
        split = Dataset.from_dict({"text": ["x"] * len(labels), "label": labels})
        return Task("toy", DatasetDict({"test": split}), names)

    for labels, names, said in (([0, 2], ("a", "b"), "split 'test' of task 'toy' has the label 2, but there are 2"),
                                ([0, -1], ("a", "b"), "has the label -1"), ([0], "ab", "label_names = 'ab': give")):
        with pytest.raises(ValueError, match=said):
            make(labels, names)
    assert make([0, 1], ("a", "b")).n_classes == 2 and not make([0], ("a", "b")).is_multiple_choice


def test_splits_of_no_rows_are_left_out(mirror):
    task = load_task("boolq", {"train": 0, "validation": 0, "calibration": 30, "test": 50})  # no training rows there
    assert {split: len(rows) for split, rows in task.splits.items()} == {"calibration": 30, "test": 50}
    assert task.label_names == ("no", "yes") and set(task["test"]["label"]) == {0, 1}
    passage, question = inputs(task["test"])[0]
    assert len(passage) > len(question) and not question.endswith("?")
    of_five = load_task("commonsense_qa", {"train": 0, "validation": 0, "calibration": 10, "test": 10})
    assert task.n_classes == 2 and of_five.n_classes == 5 and {len(x) for x in inputs(of_five["test"])} == {6}
    world = load_task("topic", {"train": 0, "validation": 0, "calibration": 0, "test": 10})
    assert list(world.splits) == ["test"]
    # what is drawn for a split does not depend on whether others are
    assert world["test"].to_dict() == load_task("topic", {"train": 5, "test": 10})["test"].to_dict()
    with pytest.raises(ValueError, match="give test at least one row"):
        load_task("topic", {"test": 0})
