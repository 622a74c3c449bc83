"""The rooms of sua: imports go down the floors that README's "The house" lists and never in a circle, the core needs
numpy and scipy alone, public names stay and are typed, lines fit a page, and files of earlier versions load."""

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import sua

ROOT = Path(__file__).parents[1]
FIXTURES = Path(__file__).parent / "fixtures"
CORE = ("extras", "files", "inputs", "storage", "divergences", "predictions", "outputs", "metrics", "perturb",
        "predict", "scores", "decide.abstention", "decide.selective", "decide.certificates", "decide.diagnosis",
        "decide.regimes", "report")


def imports_of(package):
    """{module: modules of the package that it imports, in functions too}; names are relative to the package."""
    files = {file.relative_to(package).with_suffix("").parts: file for file in package.rglob("*.py")}
    files = {".".join(p for p in parts if p != "__init__"): file for parts, file in files.items()}
    found = {}
    for name, file in files.items():
        here = name.split(".") if file.stem == "__init__" and name else name.split(".")[:-1]
        found[name] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets = [alias.name.split(".") for alias in node.names]
                targets = [target[1:] for target in targets if target[0] == package.name]
            elif isinstance(node, ast.ImportFrom):
                base = node.module.split(".") if node.module else []
                if node.level:
                    base = here[:len(here) + 1 - node.level] + base
                elif base[0] == package.name:
                    base = base[1:]
                else:
                    continue
                targets = [[*base, alias.name] for alias in node.names]
            else:
                continue
            for target in targets:  # a module, or a name in one
                found[name].add(".".join(target) if ".".join(target) in files else ".".join(target[:-1]))
    return {name: targets - {name} for name, targets in found.items()}


def circle(imports):
    """Modules that import each other in a circle, as a list, or None."""
    left = dict(imports)
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    if not left:
        return None
    path = [next(iter(left))]
    while path.count(path[-1]) == 1:
        path.append(min(left[path[-1]] & left.keys()))
    return path[path.index(path[-1]):]


def climbs(imports, floors):
    """Imports between rooms that do not go down: (module, imported). The front door imports what it likes."""
    of = {module: floors.index(module.split(".")[0]) for module in imports if module}
    return [(module, target) for module in of for target in sorted(imports[module])
            if not target or of[target] >= of[module] and target.split(".")[0] != module.split(".")[0]]


def floors():
    house = (ROOT / "README.md").read_text(encoding="utf-8").split("## The house")[1].split("```")[1]
    return re.findall(r"^sua/(\w+)", house, re.MULTILINE)


def test_no_circle_and_no_import_up_a_floor():
    imports = imports_of(ROOT / "sua")
    assert {module.split(".")[0] for module in imports if module} == set(floors())
    assert circle(imports) is None
    assert climbs(imports, floors()) == []


def test_the_checker_finds_what_is_planted(tmp_path):
    house = tmp_path / "house"
    for name, text in {"__init__": "", "low": "", "up/__init__": "from .one import x", "up/one": "from .. import low",
                       "up/two": "from .one import x\nimport numpy\nfrom os import path"}.items():
        (house / name).parent.mkdir(exist_ok=True, parents=True)
        (house / f"{name}.py").write_text(text)
    imports = imports_of(house)
    assert imports == {"": set(), "low": set(), "up": {"up.one"}, "up.one": {"low"}, "up.two": {"up.one"}}
    assert circle(imports) is None and climbs(imports, ["low", "up"]) == []
    assert climbs(imports, ["up", "low"]) == [("up.one", "low")]
    (house / "low.py").write_text("def f():\n    from house.up.two import f\n")
    imports = imports_of(house)
    assert set(circle(imports)) == {"low", "up.two", "up.one"}
    assert climbs(imports, ["low", "up"]) == [("low", "up.two")]
    (house / "low.py").write_text("import house\n")
    assert climbs(imports_of(house), ["low", "up"]) == [("low", "")]


def test_the_core_needs_numpy_and_scipy_alone():
    script = f"""
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top not in {{"sua", "numpy", "scipy", *sys.stdlib_module_names}} and not top.startswith("_"):
            raise ImportError(f"refused: {{name}}")

sys.meta_path.insert(0, Refuse())
import sua
for name in {CORE!r}:
    importlib.import_module(f"sua.{{name}}")
p = sua.Predictions(probs=[[0.5, 0.5], [1, 0]], perturbed=[[[0.5, 0.5]], [[1, 0]]], labels=[0, 1])
print(sua.score(p, "orbit_msp")[0], sua.perturb.KERNELS["typos"].name, sua.metrics.auroc([0, 1], [0, 1]))
model = type("Model", (), {{"predict_proba": lambda self, x: [[0.5, 0.5]] * len(x)}})()
assert len(sua.predict(model, ["a text"], sua.perturb.KERNELS["typos"], k=2)) == 1
try:
    import yaml
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["0.5 typos 1.0", "refused: yaml"]


PUBLIC = {  # every name of sua, and those of its modules that are written after a dot
    "": """ABSTAIN AbstentionRule CallableModel ChoiceLM ContextualCalibration EncoderChoice EncoderClassifier
        Entailment ErrorProbability GENERATION_SCORES Generations GenerativeLM OBJECTIVES Objective OrbitModel
        Predictions PriDe RemoteError RemoteLM SCORES SUATrainer SameText SelectiveModel Task answer_sets
        calibrate checks error_floor experiment from_lm_eval from_outputs generation generation_score
        lambda_diagnosis load_model load_task meaning_clusters metrics misalignment_test numerical_floor
        orbit_calibration_error perturb predict recorded regimes reliability removable_risk report_html score
        similarities stability_certificate statements theory train worlds""",
    "perturb": """Audit KERNELS LETTERS OPTION_ORDER RETRIES Input Perturbation audit given has_options lettered mixture
        on_first option_columns repeats synonyms variants""",
    "metrics": """FLOOR MODEL_METRICS SCORE_METRICS SingleClassError accuracy augrc aurc auroc auroc_intervals brier
        debiased_ece e_aurc ece equal_mass_ece holm intervals mean_of_k nll prr robust_accuracy selective_accuracy
        selective_risk two_classes worst_of_k""",
    "theory": """COUNTEREXAMPLES DIVERGENCES LAMBDA_ALARM LAMBDA_JS LAMBDA_TOP LAMBDA_TV LN2 LOSSES TOLERANCE World
        binormal_auroc binormal_lambda calibrated_pairs clarification_split fano grid_worlds js_cost population_auroc
        random_worlds rational unseen_share""",
    "statements": "PRINTED REPAIRED Search search slack",
    "regimes": """LABEL_RULES MEAN_ERROR REGIMES SAMPLES STEEPNESS Thresholds absolute_d regime regime_table
        regime_thresholds strict_d synthetic_benchmark validity""",
    "recorded": """MOST_READINGS OPEN_QUESTIONS SameAnswer advglue ambient ambignq ambiguous_questions chaosnli
        checklist_groups llms own_questions prompt_sensitivity prompted_llama recorded_chaosnli triviaqa""",
    "worlds": "LABEL_RULES WORLDS generate",
    "experiment": """Run SPLITS execute execute_all kernel_of orbit_log_loss saved select task_of trained varied
        world_setting""",
    "study.comparison": """Comparison attack_accuracy differences for_new_training interval_table new_training_table
        parts plot_curves preservation selection_table standings""",
    "generation": """Clusters Entailment GENERATION_SCORES Generations GenerativeLM P_TRUE SameText Triple cluster
        cocoa deg discrete_semantic_entropy eigenscore eigv generation_score kernel_language_entropy
        lexical_similarity mean_token_entropy meaning_clusters normalise p_true perplexity rauq relevance rouge
        rouge_l sar semantic_entropy sentence_sar sequence_nll similarities token_sar verbalised""",
    "scores": """ACCESS DIVERGENCES FLOOR LAMBDAS SCORES SIGNED_LAMBDAS Score affordable alarm available choose_lambda
        clarification_sua collapse_index disagreement divergence_named energy entropy entropy_scaled fused logistic
        mahalanobis margin msp msp_scaled mutual_information orbit_entropy orbit_msp probe relative_mahalanobis score
        self_consistency sensitivity spuq sua sua_calibrated sua_positive sua_repaired sua_signed table unknown_name""",
    "tasks": """HUB_SETS HUB_TASKS HubSet HubTask MULTI_NLI SNLI SPLITS Task clarifications hub_rows inputs
        load_task""",
    "files": "json_lines put sweep whole write_text",
    "paths": """NotAvailableError build code_digest figures in_mirror mirrors not_available of_checkout root
        stage_folder tell_runner""",
}


@pytest.mark.parametrize("room", PUBLIC)
def test_public_names_are_what_they_were(room):
    names = PUBLIC[room].split()
    if not room:
        assert set(names) == set(sua.__all__) == set(dir(sua))
    home = sua if not room else getattr(sua, room) if room in sua.__all__ else importlib.import_module(f"sua.{room}")
    assert [name for name in names if not hasattr(home, name)] == []


def public_functions(value, name):
    """(name, function) of a function, of a class's own public methods, or of all that a module or package makes."""
    if inspect.ismodule(value):
        for key, member in vars(value).items():
            if not key.startswith("_") and getattr(member, "__module__", "").startswith(value.__name__):
                yield from public_functions(member, f"{name}.{key}")
    elif inspect.isclass(value):
        for key, member in vars(value).items():
            function = getattr(member, "__func__", getattr(member, "fget", member))  # of a method or property
            if inspect.isfunction(function) and function.__module__ == value.__module__ and (
                    not key.startswith("_") or key in ("__init__", "__call__")):
                yield f"{name}.{key}", function
    elif inspect.isfunction(value):
        yield name, value


def untyped(name, function):
    """"name(parameter)" or "name -> " of each annotation that is missing; self and what __init__ returns need none."""
    signature = inspect.signature(function)
    parameters = [p.name for p in signature.parameters.values() if p.name not in ("self", "cls")]
    return ([f"{name}({p})" for p in parameters if signature.parameters[p].annotation is inspect.Parameter.empty]
            + [f"{name} -> "] * (signature.return_annotation is signature.empty and not name.endswith("__init__")))


def test_public_functions_are_fully_typed():
    functions = dict(named for name in sua.__all__ for named in public_functions(getattr(sua, name), name))
    assert {"predict", "metrics.auroc", "AbstentionRule.fit", "Predictions.orbit", "theory.World.risk"} < set(functions)
    assert [gap for named in functions.items() for gap in untyped(*named)] == []


def test_a_missing_annotation_is_found():
    class Room:
        def __init__(self, size, name: str):
            pass

        @classmethod
        def load(cls, path) -> "Room":
            pass

        @property
        def doors(self):
            pass

        def _hidden(self, x):
            pass

        def typed(self, x: int, **more: int) -> int:
            pass

    gaps = [gap for named in public_functions(Room, "Room") for gap in untyped(*named)]
    assert gaps == ["Room.__init__(size)", "Room.load(path)", "Room.doors -> "]


def test_lines_fit_a_page():
    files = [file for folder in ("sua", "tests") for file in sorted((ROOT / folder).rglob("*.py"))]
    assert [f"{file.relative_to(ROOT)}:{number}" for file in files
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1) if len(line) > 120] == []


def test_predictions_of_an_earlier_version_load():
    recorded = json.loads((FIXTURES / "predictions.json").read_text(encoding="utf-8"))
    loaded = sua.Predictions.load(FIXTURES / "predictions.parquet")
    for field in fields(loaded):
        value = getattr(loaded, field.name)
        assert recorded["predictions"][field.name] == (value if field.name == "meta" else value.tolist()), field.name
    for name, values in recorded["scores"].items():
        np.testing.assert_allclose(sua.score(loaded, name), values, rtol=1e-12)


def test_a_rule_of_an_earlier_version_loads():
    text = (FIXTURES / "rule.json").read_text(encoding="utf-8")
    rule = sua.AbstentionRule.from_json(text)
    assert {**json.loads(text), "checksum": None} == {**json.loads(rule.to_json()), "checksum": None}
    assert (rule.score_name, rule.k, rule.risk_bound, rule.delta) == ("orbit_entropy", 8, 0.2, 0.1)
    assert rule.accept([0.1, 0.881, 0.882], score_name="orbit_entropy", k=8).tolist() == [True, True, False]
