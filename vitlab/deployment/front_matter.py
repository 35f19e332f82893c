"""The head of a model card that the Hugging Face Hub reads: task, tags, base model, and results with intervals.

https://huggingface.co/docs/hub/model-cards#model-card-metadata
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCardData

from vitlab.evaluation.probe import Accuracy

if TYPE_CHECKING:
    from vitlab.deployment.card import Exported


def front_matter(
    exported: "Exported", architecture: str, data_set: str, accuracy: Accuracy | str, study: Mapping[str, Any] | None
) -> str:
    """Return YAML between two lines `---`.

    Accuracies are fractions. What the Hub has no field for, the 95 % interval and what it is over, is in `metric_args`.

    Args:
        accuracy: of this run, or why it is not known; then no result is stated.
        study: this model's row in the verdict of its study, see `vitlab.studies.report.verdict_file.standing`.
    """
    start = exported.config["model"]["init_args"].get("init_from")
    data = ModelCardData(
        library_name="vitlab",
        pipeline_tag="image-classification" if exported.classifies else "image-feature-extraction",
        tags=["vitlab", architecture, exported.objective.__name__, data_set],
        base_model=start if str(start).startswith("timm/") else None,
        model_name=f"{architecture} on {data_set}",
        eval_results=_results(exported, data_set, accuracy, study) or None,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _results(
    exported: "Exported", data_set: str, accuracy: Accuracy | str, study: Mapping[str, Any] | None
) -> list[EvalResult]:
    if isinstance(accuracy, str):
        return []
    split = "validation" if exported.test_is_validation else "test"

    def result(name: str, metric: str, value: float, **told: Any) -> EvalResult:
        return EvalResult(
            task_type="image-classification",
            dataset_type=data_set.lower(),
            dataset_name=data_set,
            dataset_split=split,
            metric_type=metric,
            metric_value=round(value, 6),
            metric_name=name,
            metric_args=told,
        )

    interval = [round(accuracy.low, 6), round(accuracy.high, 6)]
    seed = exported.config["seed_everything"]
    results = [
        result(f"Accuracy of seed {seed}", "accuracy", accuracy.value, interval=interval, over=f"{split} images")
    ]
    if study is not None and study["mean"] is not None:
        percent = study["metric"] == "top1"
        mean, low, high = (
            study[key] / 100 if percent and study[key] is not None else study[key] for key in ("mean", "low", "high")
        )
        results.append(
            result(
                f"Mean of {study['seeds']} seeds",
                "accuracy" if percent else study["metric"],
                mean,
                interval=None if low is None else [round(low, 6), round(high, 6)],
                over="seeds",
                study=study["study"],
                variant=study["variant"],
                verdict=study["verdict"],
                headline=study["headline"],
            )
        )
    return results
