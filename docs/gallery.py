"""Live reports: run the commands of gallery.yaml and keep the reports, one HTML file each.

`make gallery` trains what is missing; `python docs/gallery.py --collect` keeps what there is.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import yaml
from referee.answer import STATUS

from vitlab.studies.file.study import read_study

ROOT = Path(__file__).parents[1]
GALLERY = ROOT / "docs/gallery"
OTHERS = ROOT / "build/gallery"
PUBLISHED = ROOT / "build/published"  # reports on results that others published
PAGE = """# Gallery

Reports as vitlab and referee write them, one HTML file each, to be read without a network. In a clone, a study's
command trains what is missing and writes its report into `runs/`; nothing but packages is downloaded. `make gallery`
runs all of them and more, which takes hours. A report's section *Configuration* names machine and versions.

| report | it says | command | written |
|---|---|---|---|
"""


def entry_of(item: str | dict[str, str]) -> tuple[str, list[str], Path, str]:
    """Return an entry's name, command, folder and title."""
    if isinstance(item, dict):
        folder = PUBLISHED / item["name"]
        return item["name"], [*shlex.split(item["command"]), "--out", str(folder)], folder, item["title"]
    study = read_study(Path(item))
    if study.claim:
        root, command = ROOT / "runs/claims", ["vitlab", "compare", item, "--root", "runs/claims"]
    else:
        root, command = ROOT / "runs", ["make", item]  # trains a teacher first where there is one
    head = study.path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
    title = study.question or (study.claim.sentence if study.claim else head)
    return item.replace("/", "-"), command, study.folder(root), title


def main() -> int:
    """Write the gallery; return 1 if a command failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--collect", action="store_true", help="run nothing, keep the reports that there are")
    options = parser.parse_args()
    failed = False
    entries = yaml.safe_load((Path(__file__).parent / "gallery.yaml").read_text())
    for gallery, items in ((GALLERY, entries["kept"]), (OTHERS, entries["others"])):
        gallery.mkdir(parents=True, exist_ok=True)
        rows = []
        for item in items:
            name, command, folder, title = entry_of(item)
            if not options.collect:
                program = command if command[0] == "make" else [sys.executable, "-m", *command]
                fine = STATUS.values() if command[0] == "referee" else [0]
                failed |= subprocess.run(program, cwd=ROOT, check=False).returncode not in fine
            if not (folder / "report.html").is_file():
                continue
            page = (folder / "report.html").read_text(encoding="utf-8").replace(str(ROOT), ".")
            (gallery / f"{name}.html").write_text(page, encoding="utf-8")
            verdict = folder / "verdict.json"
            headline = json.loads(verdict.read_text())["headline"] if verdict.is_file() else ""
            said = item["command"] if isinstance(item, dict) else " ".join(command)
            written = time.strftime("%Y-%m-%d", time.gmtime((folder / "report.html").stat().st_mtime))
            rows.append(f"| [{title}]({name}.html) | {headline.replace('|', '/')} | `{said}` | {written} |")
        (gallery / "README.md").write_text(PAGE + "\n".join(rows) + "\n", encoding="utf-8")
        print(f"{len(rows)} reports in {gallery.relative_to(ROOT)}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
