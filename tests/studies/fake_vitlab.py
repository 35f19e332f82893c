"""Stands in for `python -m vitlab` in the tests of studies: writes the run directory of the real one, trains nothing.

The accuracy is planted: `backbone.init_args.accuracy` of the configuration, plus a draw of the seed, less ten points
where the learning rate is not `best_lr`. `law` (floor, factor, rate) plants it by the number of training images, and
`harder` of the data lowers it. `fail` makes the run of that seed end with an error, `fail_beyond` those with more
training images, `cut_short` makes it no whole run, `pause` makes it take seconds and `fit` leave only a begun run when
it is ended.
"""

import json
import os
import sys
import time
from pathlib import Path

import yaml


def fit(config: dict, overwrite: bool) -> None:
    import numpy as np

    from vitlab.evaluation.predictions import Predictions, write_predictions

    plan = {**config["model"]["init_args"]["backbone"]["init_args"]}
    seed, epochs = config["seed_everything"], config["trainer"]["max_epochs"]
    folder = Path(config["run"]["root"]) / config["run"]["name"] / f"seed-{seed}"
    if (folder / "summary.json").exists() and not overwrite:
        print("finished already")
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pid").write_text(str(os.getpid()))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lr = config["model"]["init_args"].get("lr", 0.2)
    many = config["data"]["init_args"].get("train_images", 0) > plan.get("fail_beyond", 1e9)
    fold = (config["data"]["init_args"].get("folds") or {}).get("test")
    if seed in plan.get("fail", []) or [seed, fold] == plan.get("fail_fold") or lr == plan.get("fail_lr") or many:
        print("epoch 1\repoch 2\rValueError: the loss is not finite at epoch 3")
        sys.exit(1)

    test = np.load(config["data"]["init_args"]["test_set"])
    labels, names, classes = test["labels"], test["names"].tolist(), int(test["classes"])
    if "law" in plan:
        floor, factor, rate = plan["law"]
        plan["accuracy"] = 1 - floor - factor * config["data"]["init_args"]["train_images"] ** -rate
    rng = np.random.default_rng([seed, int(1e6 * plan["accuracy"])])
    accuracy = (
        plan["accuracy"]
        - config["data"]["init_args"].get("harder", 0)
        + rng.normal(0, 0.004)
        - 0.1 * (lr != plan.get("best_lr", lr))
    )
    speed, flops = speed_and_flops(plan)
    speed *= plan.get("slower_in_runs", 1)
    rates = f"{speed},{plan.get('waiting', 0.1)},{speed * flops / 1e12}"
    with (folder / "metrics.csv").open("w") as log:
        log.write("step,epoch,lr,train/loss,val/loss,val/top1,images_per_second,data_wait,tflops\n")
        for epoch in range(epochs):
            reached = 1 - np.exp(-6 * (epoch + 1) / epochs)
            loss = 2.3 * (1 - 0.97 * reached) + abs(rng.normal(0, 0.02))
            top1 = min(1.0, accuracy * reached + rng.normal(0, 0.004))
            log.write(f"{10 * epoch + 9},{epoch},0.001,{loss:.5f},,,{rates}\n")
            log.write(f"{10 * epoch + 9},{epoch},,,{loss + 0.1:.5f},{top1:.5f},,,\n")
            log.flush()
            time.sleep(plan.get("pause", 0))

    # Some images are hard for everybody: difficulty is a property of the image, the rest is the model's own luck.
    difficulty = np.random.default_rng(7).random(len(labels))
    wrong = 0.75 * difficulty + 0.25 * rng.random(len(labels))
    wrong = wrong > np.quantile(wrong, accuracy)
    logits = rng.normal(0, 0.7, (len(labels), classes))
    guess = np.where(wrong, (labels + rng.integers(1, classes, len(labels))) % classes, labels)
    logits[np.arange(len(labels)), guess] += np.where(wrong, 3.0, 5.0) + rng.random(len(labels))
    if folds := config["data"]["init_args"].get("folds"):
        from vitlab.data.folds import fold_numbers

        number = fold_numbers(labels, folds["count"], config["data"]["init_args"]["split_seed"])
        tested = np.flatnonzero(number == folds["test"] - 1)
        names, labels, logits = [names[index] for index in tested], labels[tested], logits[tested]
    if plan.get("other_images"):
        names = names[::-1]
    write_predictions(folder / "predictions.parquet", Predictions(names, labels, logits.astype(np.float32)))
    environment = {
        "vitlab": "0.1.0",
        "python": "3.11.9",
        "torch": os.environ.get("FAKE_TORCH", "2.15.0"),
        "device": "CPU",
        "command": str(seed),
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    summary = {"finished": True, "seconds": 20.0 + 3 * seed, "images_seen": 1000, "epochs": epochs}
    summary["metrics"] = {"test/top1": float((logits.argmax(axis=1) == labels).mean())}
    size = plan.get("size", 1.0)
    if not plan.get("no_cost"):
        summary["cost"] = {
            "parameters": int(96_000 * size),
            "flops": int(7_400_000 * size),
            "train_forward_flops": int(7_400_000 * size),
            "inference_images_per_second": 8_900 / size,
            "train_peak_bytes": int(41_000_000 * size),
            "inference_peak_bytes": int(9_000_000 * size),
            "train_joules": plan.get("joules"),
        }
    if seed in plan.get("cut_short", []):
        summary["partial"] = ["tested on 184 of 597 images"]
    (folder / "summary.json").write_text(json.dumps(summary))
    facts = {"test_is_validation": plan.get("test_is_validation", False), "splits": {"test": {"digest": "digits"}}}
    (folder / "data.json").write_text(json.dumps(facts))


def speed_and_flops(plan: dict) -> tuple[float, int]:
    """Return images per second and FLOPs per image in training."""
    return 2_400 / plan.get("size", 1.0), int(22_000_000 * plan.get("size", 1.0))


if __name__ == "__main__":
    arguments = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
    chosen = yaml.safe_load(Path(arguments["--config"]).read_text())
    fit(chosen, arguments.get("--run.overwrite") == "true")
