"""Exit status 0 if the running Python has every exact pin of the lock file given; standard library only."""

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


if __name__ == "__main__":
    sys.exit(bool(unmet(sys.argv[1])))
