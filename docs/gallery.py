"""The gallery of live reports: `python docs/gallery.py FOLDER` copies those of gallery.yaml that there are, and a page.

With `--train` it first runs the commands, which train what is missing; `make gallery` does so. A report is one HTML
file and needs no network.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "build/published"  # reports on results that others published
PAGE = """# Gallery

Reports as vitlab and referee write them, one HTML file each, to be read without a network. In a clone, a study's
command trains what is missing and writes its report into `runs/`; nothing but packages is downloaded. `make gallery`
runs all of them, which takes hours. A report's last section says on which machine and with which versions it was made.

| report | it says | command | written |
|---|---|---|---|
"""


def entry_of(item: str | dict[str, str]) -> tuple[str, list[str], Path, str]:
    """Return an entry's name, command, folder and title."""
    if isinstance(item, dict):
        folder = PUBLISHED / item["name"]
        return item["name"], [*shlex.split(item["command"]), "--out", str(folder)], folder, item["title"]
    file = ROOT / "experiments" / (f"{item}.yaml" if "/" in item else f"studies/{item}.yaml")
    study = yaml.safe_load(file.read_text(encoding="utf-8"))
    name = study.get("name", file.stem)
    slug = "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
    if item.startswith("claims/"):
        root, command = ROOT / "runs/claims", ["vitlab", "compare", item, "--root", "runs/claims"]
    else:
        root, command = ROOT / "runs", ["make", item]  # trains a teacher first where there is one
    title = study.get("question") or (study.get("claim") or {}).get("sentence") or name
    return item.replace("/", "-"), command, root / slug, title


def main() -> int:
    """Write the gallery; return 1 if a command failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", action="store_true", help="run the commands of the reports first")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rows, failed = [], False
    for item in yaml.safe_load((Path(__file__).parent / "gallery.yaml").read_text()):
        name, command, folder, title = entry_of(item)
        if options.train:
            program = command if command[0] == "make" else [sys.executable, "-m", *command]
            # 3 and 4 are verdicts of referee's, 1 is "no winner yet"
            failed |= subprocess.run(program, cwd=ROOT, check=False).returncode not in (0, 1, 3, 4)
        if not (folder / "report.html").is_file():
            continue
        shutil.copyfile(folder / "report.html", options.folder / f"{name}.html")
        verdict = folder / "verdict.json"
        headline = json.loads(verdict.read_text())["headline"] if verdict.is_file() else ""
        said = " ".join(command[: command.index("--out")] if "--out" in command else command)
        written = time.strftime("%Y-%m-%d", time.gmtime((folder / "report.html").stat().st_mtime))
        rows.append(f"| [{title}]({name}.html) | {headline.replace('|', '/')} | `{said}` | {written} |")
    missing = "No report is here yet: `make gallery` writes them.\n"
    (options.folder / "README.md").write_text(PAGE + "\n".join(rows) + "\n" if rows else f"# Gallery\n\n{missing}")
    size = sum(file.stat().st_size for file in options.folder.glob("*.html")) / 1e6
    print(f"{len(rows)} reports, {size:.1f} MB")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
