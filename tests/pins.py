"""Exit status 0 if the running Python has every exact pin of the lock file given; with --sua, and run as python -P, if
its sua is that of the working directory. Standard library only.
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def unmet(lock: str) -> list[str]:
    """Pins of `lock` that are not installed in that version; a local build label (+cpu) counts as the version."""
    pins = [line.split("==") for line in Path(lock).read_text().splitlines() if "==" in line and line[0] != "#"]
    missing = []
    for name, pin in pins:
        try:
            if version(name).split("+")[0] != pin:
                missing.append(name)
        except PackageNotFoundError:
            missing.append(name)
    return missing


def other_sua(here: Path) -> str:
    """What to know where the environment's sua is not that of the folder; "" where it is."""
    try:
        import sua
        found = Path(sua.__file__).parent
    except ImportError:
        found = "not installed"
    if found == here / "sua":
        return ""
    return (f"note: sua of this environment is {found}, not {here / 'sua'}. What make runs takes the latter; for "
            f"notebooks and scripts of your own: python -m pip install --no-deps -e {here}, or PYTHONPATH={here}")


if __name__ == "__main__":
    wrong = other_sua(Path.cwd()) if sys.argv[1] == "--sua" else bool(unmet(sys.argv[1]))
    sys.exit(wrong or 0)
