"""Made-up mirrors, and the rows of raw/, which scripts outside of the project made of the same sources."""

import json

from datasets import Dataset, Features, List, Sequence, Value

from sua.tasks import HUB_SETS


def with_hub_sets(mirror, folder):
    """Links in `folder` to the parts of a mirror, and beside its data sets BBQ and AmbigNQ with the hub's columns."""
    (folder / "datasets").mkdir()
    for name in ("github", "models", *(f"datasets/{owner.name}" for owner in (mirror / "datasets").iterdir())):
        (folder / name).symlink_to(mirror / name)
    text, texts = Value("string"), List(Value("string"))
    annotations = Sequence({"type": text, "answer": texts, "qaPairs": Sequence({"question": text, "answer": texts})})
    in_hub_layout("bbq", [_bbq_row(row) for row in raw_rows(mirror, "bbq", "test")], folder)
    in_hub_layout("ambignq", [_ambignq_row(row) for row in raw_rows(mirror, "ambignq", "validation")], folder,
                  Features(id=text, question=text, annotations=annotations))
    return folder


def raw_rows(mirror, name, *splits):
    """Rows of raw/<name>."""
    return [json.loads(line) for split in splits
            for line in (mirror / "raw" / name / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def in_hub_layout(name, rows, folder, features=None):
    """Write rows as the hub's parquet file of a set into a mirror."""
    source = HUB_SETS[name]
    file = folder / "datasets" / source.hub_id / source.config / f"{source.splits[0]}.parquet"
    file.parent.mkdir(parents=True)
    Dataset.from_list(rows, features=features).to_parquet(file)


def _bbq_row(row):
    return {"example_id": int(row["id"].rsplit("-", 1)[1]), "question_index": str(row["question_index"]),
            "context_condition": row["condition"], "label": row["answer"],
            **{name: row[name] for name in ("category", "context", "question")},
            **{f"ans{i}": choice for i, choice in enumerate(row["choices"])}}


def _ambignq_row(row):
    single, several = iter(row["single_answers"]), iter(row["interpretations"])
    annotations = {"type": row["annotator_types"], "answer": [], "qaPairs": []}
    for kind in row["annotator_types"]:
        pairs = next(several) if kind == "multipleQAs" else []
        annotations["answer"].append(next(single) if kind == "singleAnswer" else [])
        annotations["qaPairs"].append({name: [pair[name] for pair in pairs] for name in ("question", "answer")})
    return {"id": row["id"], "question": row["question"], "annotations": annotations}
