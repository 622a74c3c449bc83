"""What a processor's kernels make of the same recipe: `python tests/processors.py out.npz` trains one tiny model of
each kind in float64 and computes what else is published from numpy and scipy alone, and leaves every number in out.npz.

By hand, under another vendor's processor (needs qemu-user, which takes half a minute for a step of training):

    PYTHONPATH=. python tests/processors.py compare

It runs itself natively and under an emulated AMD EPYC, with few steps, and prints the largest difference of each array.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

# every library's own switch for the kernels of a processor without AVX-512
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "DNNL_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE",
        "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"}
SIZES = {"train": 120, "validation": 1, "calibration": 100, "test": 60}
FEW = {"train": 32, "validation": 1, "calibration": 40, "test": 20}
TRAINED = {"topic": ("tiny", "sua_tr"), "nli": ("tiny", "adversarial"),
           "facts": ("tiny_llama", "augment_share_smoothed")}


def measure(sizes, epochs) -> dict[str, np.ndarray]:
    """Probabilities of one trained model per world, stochastic passes too, and scores, metrics and bounds of them."""
    import torch

    import sua
    from sua import metrics, theory
    from sua.study.report import score_all

    torch.set_num_threads(1)
    found = {}
    for world, (model, objective) in TRAINED.items():
        task = sua.load_task(world, sizes)
        kernel = task.perturbation(["synonyms", "wording"])
        trained, _ = sua.train(model, task, sua.OBJECTIVES[objective], kernel, epochs=epochs, batch_size=8,
                               learning_rate=0.005)
        test, calibration = (sua.predict(trained, task[split], kernel, 4, samples=5, internals=True, dropout=2)
                             for split in ("test", "calibration"))
        found |= {f"{world} probs": test.orbit, f"{world} dropout": test.dropout, f"{world} p*": test.label_dist,
                  f"{world} samples": test.samples}
        for name, values in score_all(test, calibration).items():
            found |= {f"{world} score {name}": values, f"{world} AUROC {name}": metrics.auroc(test.is_error, values)}
        runs = [{"model": test}]
        interval = metrics.intervals(runs, metrics.ece, ["model"], 50)[0]
        found[f"{world} interval"] = [interval["low"], interval["high"]]
        found[f"{world} floor"] = sua.error_floor(test).bound
        found[f"{world} misalignment"] = sua.misalignment_test(test).bound
    worlds = theory.random_worlds(200, np.random.default_rng(0))
    found |= {"worlds p": worlds.p, "worlds p*": worlds.truth}
    return found


def differences(one: Path, other: Path) -> dict[str, float]:
    """{name: largest absolute difference} of what two runs have left."""
    with np.load(one) as first, np.load(other) as second:
        assert set(first) == set(second)
        return {name: float(np.abs(first[name] - second[name]).max()) for name in first}


def run(out, *few, prefix=(), **environment) -> subprocess.Popen:
    """Starts this file in a process of its own, which writes `out`."""
    return subprocess.Popen([*prefix, sys.executable, __file__, str(out), *few],
                            env={**os.environ, "OMP_NUM_THREADS": "1", **environment})


def main(out, *few) -> None:
    if out != "compare":
        np.savez(out, **measure(FEW if few else SIZES, 1 if few else 4))
        return
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "native.npz"), Path(folder, "epyc.npz")
        started = run(files[0], "few"), run(files[1], "few", prefix=["qemu-x86_64", "-cpu", "EPYC"])
        assert [process.wait() for process in started] == [0, 0]
        for name, largest in differences(*files).items():
            print(f"{largest:.1e}  {name}")


if __name__ == "__main__":
    main(*sys.argv[1:])
