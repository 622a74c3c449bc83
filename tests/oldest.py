"""The core's tests with the oldest versions that pyproject.toml allows: `python tests/oldest.py`, in minutes.

A new environment gets each of the core's packages at its lower bound, and what these tests need beside.
"""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOLS = ("pytest", "hypothesis", "mpmath", "packaging", "scikit-learn", "MAPIE")
TESTS = ("tests/scores/test_scores.py", "tests/decide/test_abstention.py", "tests/decide/test_certificates.py",
         "tests/test_house.py", "tests/test_outputs.py", "tests/test_main.py")
# what needs torch, transformers, matplotlib or pandas
LEFT_OUT = ("real_pipeline", "report", "public_names", "public_functions", "table_lists")


def lower_bounds() -> list[str]:
    """The core's requirements, each at its lower bound: "numpy==1.25"."""
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    found = [re.fullmatch(r"([\w-]+)>=([\w.]+)", entry) for entry in entries]
    assert all(found), f"a requirement without a lower bound alone: {entries}"
    return [f"{name}=={low}" for name, low in (match.groups() for match in found)]


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = Path(folder) / "bin/python"
        print("installing", ", ".join(lower_bounds()), flush=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *lower_bounds(), *TOOLS], check=True)
        chosen = " and ".join(f"not {name}" for name in LEFT_OUT)
        return subprocess.run([python, "-m", "pytest", "-p", "no:cacheprovider", "-k", chosen, *TESTS], cwd=ROOT,
                              env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}).returncode


if __name__ == "__main__":
    sys.exit(main())
