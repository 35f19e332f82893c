"""Which study a folder of runs belongs to, `study.json` in it: two files of equal names do not share one."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from referee.formats import joined

from vitlab.atomic_files import read_cache, write_text
from vitlab.config import Config, merge
from vitlab.studies.file.format import as_yaml
from vitlab.studies.file.runs import complete, experiment_of
from vitlab.studies.file.study import Study, read_study

FILE = "study.json"


def claim_folder(study: Study, root: Path) -> None:
    """Record that the folder is this study's.

    The same file may change in any way; a copy of it elsewhere may only add or remove seeds and variants.

    Raises:
        ValueError: the folder belongs to another file, with other variants.
    """
    record, base = study.folder(root) / FILE, study.base_config
    texts = {name: as_yaml(merge(base, override)) for name, override in study.variants.items()}
    digests = {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in texts.items()}
    known = read_cache(record, {})
    path, variants = str(study.path.resolve()), known.get("variants", {})
    if not isinstance(variants, dict):
        raise ValueError(f"{record} is damaged. Remove it, if {record.parent} is this study's.")
    nested = variants.items() <= digests.items() or digests.items() <= variants.items()
    if known.get("file", path) != path and not nested:
        raise ValueError(
            f"{study.path}: {record.parent} belongs to another study of the name {study.name!r}: {known['file']}, with "
            f"{joined([*variants])}. Give this one another `name`. If it is the same study, remove {record}."
        )
    claimed = {"file": path, "variants": digests} | ({"given": study.given} if study.given else {})
    if known != claimed:
        write_text(record, json.dumps(claimed, indent=2, ensure_ascii=False) + "\n")


def begun_study(path: Path, root: Path, data: Config | None = None) -> Study:
    """Read a study with arguments of its data set; without any, with those that its folder was begun with."""
    study = read_study(path)
    given = {"data": {"init_args": data}} if data else read_cache(study.folder(root) / FILE, {}).get("given", {})
    study = replace(study, given=given)
    if study.folds_without_test:
        whole = replace(study, folds=None)
        first = complete(whole.points[0], next(iter(whole.variants)), root, {})
        return whole if experiment_of(first.config).data.has_test else study
    return study
