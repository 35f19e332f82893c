"""What the runs of a study with axes will take, before the first of them."""

from collections.abc import Mapping, Sequence

from vitlab.evaluation.cost import Cost
from vitlab.studies.branching import own_share
from vitlab.studies.execution.local import is_finished
from vitlab.studies.format import counted, duration, engineering
from vitlab.studies.prepared import Prepared
from vitlab.studies.spending import epoch_of
from vitlab.studies.study import Study

START = 10.0  # seconds of a run outside its steps: imports, data, validation, test
STATES, COPIES = 3, 4  # checkpoints of a run; weights and moments in each, with room


def estimate(study: Study, plans: Sequence[Prepared], costs: Sequence[Mapping[str, Cost]], jobs: int) -> str:
    """Return the number, time and disk of the runs that are missing, from the speeds measured at each place."""
    seconds = size = 0.0
    missing = 0
    for planned, measured in zip(plans, costs, strict=True):
        images = {run.variant: planned.training_images(run) for run in planned.first_runs()}
        for run in planned.runs:
            cost = measured.get(run.variant)
            if cost is None or is_finished(run):
                continue
            epoch = epoch_of(run.config, images[run.variant])
            speed = cost.train_images_per_second / cost.mean_share  # small images take less
            images_seen = own_share(study, run) * run.epochs * epoch.batches * epoch.images
            seconds += START + images_seen / speed
            size += 4.0 * STATES * COPIES * cost.parameters
            missing += 1
    time = duration(0.8 * seconds / jobs, 1.3 * seconds / jobs)
    return f"To train: {counted(missing, 'run')}, {time}, {engineering(size, 'B')} on the disk."
