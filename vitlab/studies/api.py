"""A study in Python: `vitlab.Study("study.yaml")`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from referee.verdict import Pair

from vitlab.atomic_files import write_text
from vitlab.config import dump_yaml, flatten, short
from vitlab.studies.compare import compare, results_of
from vitlab.studies.file.fairness import Images
from vitlab.studies.file.study import read_study, slug
from vitlab.studies.report.verdict import verdict
from vitlab.studies.results import StudyResults, VariantResult


@dataclass(frozen=True)
class Results:
    """What a study shows, `details` being all that its report is written from, and `images` its data module."""

    details: StudyResults
    images: Images

    @property
    def sentence(self) -> str:
        """Who leads, by how much, and how sure that is."""
        return verdict(self.details)

    def _repr_html_(self) -> str:
        metric, digits = self.details.metric, self.details.verdict.digits
        rows = [(each.variant, metric.text(each.score.mean, digits), len(each.runs)) for each in self.ranking]
        table = pd.DataFrame(rows, columns=["Variant", metric.column, "Seeds"])
        return f"<p>{escape(self.sentence)}</p>{table.to_html(index=False)}"

    @property
    def ranking(self) -> list[VariantResult]:
        """The variants with finished runs, the best mean score first."""
        return self.details.ranking

    @property
    def pairs(self) -> list[Pair]:
        """Every two variants: their difference with its interval, and whether it is settled."""
        return self.details.verdict.pairs


class Study:
    """A study's YAML, or a mapping of its keys, with a name; and `root`, the folder of all runs."""

    def __init__(self, path: str | Path | Mapping[str, Any], root: str | Path = "runs") -> None:
        self.root = Path(root)
        if isinstance(path, Mapping):  # kept in its folder; claims have a record beside it
            if not (name := slug(str(path.get("name", "")))):
                raise ValueError("A study that is a mapping needs a `name`, that of its folder.")
            content, path = json.loads(json.dumps({**path}, default=str)), self.root / name / "study.yaml"
            write_text(path, dump_yaml(content))
        self.path = Path(path)
        study = read_study(self.path)
        if study.along:
            raise ValueError(f"{path}: with `along` there is a verdict at each place; use `python -m vitlab compare`.")
        self.folder = study.folder(self.root)

    def _repr_html_(self) -> str:
        study = read_study(self.path)
        rows = [(name, short(key), x) for name, own in study.variants.items() for key, x in flatten(own).items()]
        table = pd.DataFrame(rows, columns=["Variant", "Setting", "Value"])
        return f"<p>{escape(study.question or study.name)}</p>{table.to_html(index=False)}"

    def run(self, overwrite: bool = False) -> Results:
        """Train what is missing and write `folder/report.html`, as `python -m vitlab compare` does.

        Raises:
            RunsFailed: some runs failed; the report names them.
        """
        compare(self.path, self.root, overwrite)
        return self.results()

    def results(self) -> Results:
        """Read the runs that are finished; train nothing."""
        if not self.folder.is_dir():
            raise FileNotFoundError(f"There is no {self.folder.resolve()}. Call run(), or give `root`.")
        return Results(*results_of(self.path, self.root))
