"""benchmarks/gpu.md, from the files of results."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.gpu.measurement import ROOT, Figures, Results
from benchmarks.gpu.speed import ARCHITECTURES, SHARE_OF_TIMM, SHARE_OF_TIMM_OTHERS, TAXES
from benchmarks.measuring import markdown
from vitlab.atomic_files import write_text

SPEEDRUN = "../docs/results.md#speedrun-cifar-10-in-ten-minutes-on-two-cpu-cores"

HEAD = (ROOT / "benchmarks/gpu.md").read_text(encoding="utf-8").partition("\n## Goals")[0]  # written by hand
Rows = list[dict[str, object]]


def write(file: Path, folder: Path, steps: Sequence[str]) -> None:
    write_text(file, render({step: Results(folder, step).last() for step in steps}))


def render(results: Mapping[str, Mapping[str, Figures]]) -> str:
    """Return the page from the last line of each measurement, by step and name."""
    parts = [HEAD, *([] if any(results.values()) else ["Nothing has been measured on a GPU yet.\n"]), goals()]
    for step, lines in results.items():
        title, tables = SECTIONS[step]
        parts += [f"## {title}\n", f"{measured_on(lines)}\n" if lines else "Not measured yet.\n"]
        done = [line for line in lines.values() if line["state"] == "done"]
        parts += [*(tables(done) if done else []), *failures(lines)]
    return "\n".join(parts)


def goals() -> str:
    rows: Rows = [
        {"model": title, "goal, images/s": f"{architecture.goal:,}"}
        for title, architecture in ARCHITECTURES.items()
        if architecture.goal
    ]
    header = (
        "## Goals\n\nTraining on one H200 in bfloat16, compiled, 224 px (Swin v2: 256 px, window 8). A "
        f"training step should take at most {SHARE_OF_TIMM_OTHERS:.2f} of timm's time, for Swin v2 at most "
        f"{SHARE_OF_TIMM['Swin v2-T']:.2f}.\nOn CIFAR-10 ([speedrun]({SPEEDRUN})), a ViT should reach 94 % in three "
        "minutes and a Swin v2 95 % in ten."
    )
    return markdown(header, rows)


def measured_on(lines: Mapping[str, Figures]) -> str:
    devices = ", ".join(dict.fromkeys(line["device"] for line in lines.values()))
    torches = ", ".join(dict.fromkeys(line["torch"] for line in lines.values()))
    states = [line["state"] for line in lines.values()]
    latest = max(line["at"] for line in lines.values())[:10]
    return f"{devices}, torch {torches}, {latest}: {states.count('done')} of {len(states)} begun measurements are done."


def failures(lines: Mapping[str, Figures]) -> list[str]:
    rows: Rows = [
        {"measurement": name, "": f"{line['state']}: {line['reason']}".replace("|", "\\|")[:300]}
        for name, line in lines.items()
        if line["state"] == "failed"
    ]
    cut = [
        name + (f" after {line['epochs']} epochs" if "epochs" in line else "")
        for name, line in lines.items()
        if line["state"] in {"cut", "started"}
    ]
    failed = [markdown("What failed:", rows)] if rows else []
    return failed + ([f"To be continued: {', '.join(cut)}.\n"] if cut else [])


def tests(done: Sequence[Figures]) -> list[str]:
    rows: Rows = [{"file": f"`{x['name']}`", "passed": x["passed"], "skipped": x["skipped"]} for x in done]
    return [markdown("Tests marked `gpu`.", rows)]


def parity(done: Sequence[Figures]) -> list[str]:
    same = [x for x in done if "gradients" in x]
    rows: Rows = [{"": x["name"], "loss": f"{x['loss']:.1e}", "gradients": f"{x['gradients']:.1e}"} for x in same]
    tables = [markdown("Largest relative difference from the CPU, float32 without TF32.", rows)] if rows else []
    killed = [x["name"].removeprefix("killed: ") for x in done if "kills" in x]
    steps = [x["name"].removeprefix("two steps: ") for x in done if x["name"].startswith("two steps")]
    if killed:
        tables.append(f"Killed and continued, equal to the bit with deterministic algorithms: {', '.join(killed)}.\n")
    if steps:
        tables.append(f"Two steps of {len(steps)} experiments ran: {', '.join(steps)}.\n")
    return tables


def speed(done: Sequence[Figures]) -> list[str]:
    rows: Rows = []
    for x in done:
        judged = x["phase"] == "training" and x["mode"] == "compiled"
        goal = ARCHITECTURES[x["model"]].goal if judged else None
        share = SHARE_OF_TIMM.get(x["model"], SHARE_OF_TIMM_OTHERS)
        q1, middle, q3 = x["ratio"]
        aim = f" (goal {goal:,})" if goal else ""
        limit = f" (goal {share:.2f})" if judged else ""
        rows.append(
            {
                "model": x["model"],
                "phase": x["phase"],
                "mode": x["mode"],
                "batch": x["batch"],
                "GFLOPs an image": f"{x['gflops']:.1f}",
                "images/s": f"{x['images_per_second']:,.0f}" + aim,
                "timm's": f"{x['timm_images_per_second']:,.0f}",
                "time ratio [quartiles]": f"{middle:.2f} [{q1:.2f}, {q3:.2f}]" + limit,
                "MFU": f"{x['mfu']:.1%}",
                "timm's MFU": f"{x['timm_mfu']:.1%}",
                "peak memory, GiB": f"{x['bytes'] / 2**30:.2f}",
                "timm's, GiB": f"{x['timm_bytes'] / 2**30:.2f}",
                **gpu(x, done),
            }
        )
    peaks = ", ".join(dict.fromkeys(f"{x['peak_tflops']:,.0f}" for x in done))
    header = (
        "bfloat16, fused AdamW; vitlab's and timm's steps alternate. Ratios are vitlab over timm: below 1 is faster. "
        f"MFU is of the rate of a large product in bfloat16 (here {peaks} TFLOP/s). *Compiled by block* is "
        "`run.compile`, beside timm's compiled as a whole."
    )
    return [markdown(header, rows), *taxes(done)]


def gpu(line: Figures, done: Sequence[Figures]) -> dict[str, object]:
    return {"GPU": line["device"]} if len({x["device"] for x in done}) > 1 else {}


def taxes(done: Sequence[Figures]) -> list[str]:
    """Return the time of one architecture over another's at equal FLOPs: the ratio of their FLOP/s."""
    by_model = {(x["model"], x["phase"], x["mode"]): x for x in done}
    rows: Rows = []
    for taxed, free in TAXES:
        for phase, mode in [key[1:] for key in by_model if key[0] == taxed and (free, *key[1:]) in by_model]:
            row: dict[str, object] = {"": f"{taxed} ÷ {free}", "phase": phase, "mode": mode}
            for whose, key in (("vitlab", "images_per_second"), ("timm", "timm_images_per_second")):
                rates = [x["gflops"] * x[key] for x in (by_model[name, phase, mode] for name in (free, taxed))]
                row[whose] = f"{rates[0] / rates[1]:.2f}"
            rows.append(row)
    header = "### The architecture tax\n\nTime for equal FLOPs. Compare architectures in one mode only."
    return [markdown(header, rows)] if rows else []


def learning(done: Sequence[Figures]) -> list[str]:
    rows: Rows = [
        {
            "experiment": f"`experiments/{x['name']}.yaml`",
            "epochs": x["epochs"],
            "images seen": f"{x['images_seen']:,}",
            "minutes": f"{x['minutes']:.1f}",
            "test top-1, %": ", ".join(
                f"{100 * value:.1f} ({key.removesuffix('/top1')})" for key, value in x.items() if key.endswith("/top1")
            ),
            **gpu(x, done),
        }
        for x in done
    ]
    header = (
        "CIFAR-10, one seed each; the minutes include start-up, validation, checkpoints and test. Of a pre-training, "
        "top-1 is that of k-NN on its features."
    )
    return [markdown(header, rows)]


SECTIONS: dict[str, tuple[str, Callable[[Sequence[Figures]], list[str]]]] = {
    "tests": ("Tests", tests),
    "parity": ("The same as on a CPU", parity),
    "speed": ("Speed and memory", speed),
    "learning": ("Learning", learning),
}
