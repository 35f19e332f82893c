"""What the runs of a study will take, before the first of them."""

import math
from collections.abc import Mapping, Sequence

from referee.formats import counted

from vitlab.evaluation.cost import Cost
from vitlab.runs.directory import SUMMARY
from vitlab.studies.file.budget import epoch_of
from vitlab.studies.file.format import duration, engineering
from vitlab.studies.file.runs import Run, own_share
from vitlab.studies.file.state import is_finished
from vitlab.studies.file.study import Study, slug
from vitlab.studies.resolved import ResolvedStudy

START = 10.0  # seconds of a run outside its steps: imports, data, validation, test
COPIES = 4  # weights and moments in the checkpoint of a run, with room


def estimate(study: Study, plans: Sequence[ResolvedStudy], costs: Sequence[Mapping[str, Cost]], jobs: int) -> str:
    """Return the number, time and disk of the runs that are missing, from the speeds measured at each place.

    Where not all speeds are known, the number alone. A study that looks at its results trains all seeds at most.
    """
    seconds = size = 0.0
    missing = tuning = 0
    for planned, measured in zip(plans, costs, strict=True):
        images = {run.variant: planned.training_images(run) for run in planned.first_runs()}
        for run, count in [*((run, 1) for run in planned.runs if not is_finished(run)), *_tuning(planned)]:
            missing += count
            cost = measured.get(run.variant)
            if cost is None:
                seconds = math.nan
                continue
            epoch = epoch_of(run.config, images[run.variant])
            speed = cost.train_images_per_second / cost.mean_share  # small images take less
            images_seen = own_share(study, run) * run.epochs * epoch.batches * epoch.images
            embedded = images[run.variant] / cost.inference_images_per_second if run.is_frozen else 0.0
            seconds += count * (START + images_seen / speed + embedded)
            size += count * 4.0 * COPIES * cost.parameters
        tuning += sum(count for _, count in _tuning(planned))
    most = " at most" if study.looks else ""
    of_tuning = f" ({tuning:,} of tuning)" if tuning else ""
    runs = f"To train: {counted(missing, 'run')}{most}{of_tuning}"
    if math.isnan(seconds):
        return f"{runs}; what they take is not measured here."
    time = duration(0.8 * seconds / jobs, 1.3 * seconds / jobs)
    return f"{runs}, {time} at the measured speed, {engineering(size, 'B')} on the disk."


def _tuning(planned: ResolvedStudy) -> list[tuple[Run, int]]:
    """Return a run like the tuning runs of each variant, and how many of these are missing."""
    study, folder = planned.study, planned.study.tuning_folder(planned.root)
    if study.tuning is None:
        return []
    each = study.tuning.runs(len(study.seeds))
    done = {run.variant: len([*folder.glob(f"{slug(run.variant)}/**/{SUMMARY}")]) for run in planned.first_runs()}
    return [(run, max(0, each - done[run.variant])) for run in planned.first_runs()]
