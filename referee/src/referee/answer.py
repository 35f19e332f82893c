"""What a recorded verdict answers, as an exit status, so that a script can ask whether a gain is noise."""

from collections.abc import Mapping
from typing import Any

STATUS = {"better": 0, "no winner yet": 1, "equal": 3, "not comparable": 4, "worse": 5}  # 2 is a user's mistake
DOUBT = ("better", "equal", "no winner yet", "worse")  # against several variants, the least favorable one counts


def answer(
    record: Mapping[str, Any],
    better: str | None = None,
    than: str | None = None,
    where: str = "",
    in_general: bool = False,
) -> str:
    """Return one of STATUS: whether a record (verdict.json) says that `better` (the best mean) is better than `than`.

    Without `than`, than all others; of two that are named, alone, without a correction for the other pairs. `where` the
    record is from is for messages; `in_general` asks for other data sets of the kind, not these.

    Raises:
        ValueError: not two variants of the record, or a record of fewer than five data sets.
    """
    if in_general and not all("in_general" in pair for pair in record["pairs"]):
        raise ValueError("--in-general needs five data sets or more that all variants have (--dataset COLUMN).")
    if better is None and than is None and not in_general:
        return str(record["verdict"])
    names = [variant["variant"] for variant in record["variants"]]
    for name in (better, than):
        if name is not None and name not in names:
            raise ValueError(f"{name!r} is not a variant with finished runs{where}: {', '.join(names)}.")
    asked = better or names[0]
    if asked == than:
        raise ValueError(f"--better {asked} --than {than}: name two different variants of {', '.join(names)}.")
    kind = "in_general" if in_general else "verdict" if better is None or than is None else "alone"
    verdicts = [
        "worse" if word == "better" and pair["worse"] == asked else word
        for pair in record["pairs"]
        if asked in (pair["better"], pair["worse"]) and than in (None, pair["better"], pair["worse"])
        for word in [pair.get(kind, pair["verdict"])]
    ]
    void = record["verdict"] == "not comparable"
    if void and in_general:  # a data set that a variant lacks is left out
        void = any(check["void"] and check["code"] != "R017" for check in record["checks"])
    if void or not verdicts:
        return "not comparable"
    return str(max(verdicts, key=DOUBT.index))


def answered(
    record: Mapping[str, Any], better: str | None, than: str | None, where: str = "", in_general: bool = False
) -> tuple[list[str], int]:
    """Return the headline and the answer, if one is asked for, with the exit status; see `answer`."""
    verdict, lines = answer(record, better, than, where, in_general), [record["headline"]]
    if better is not None or than is not None or in_general:
        asked = better or record["variants"][0]["variant"]
        lines.append(f"{asked} against {than or 'all others'}{', in general' * in_general}: {verdict}.")
        for pair in record["pairs"] if better and than and not in_general else []:
            if {pair["better"], pair["worse"]} == {better, than} and pair.get("low_alone") is not None:
                ends = f"{pair['low_alone']:.3g} to {pair['high_alone']:.3g}; p {pair['p_alone']:.2g}"
                lines.append(f"Alone: {pair['better']} leads {pair['worse']} by {pair['mean']:.3g} ({ends}).")
    return lines, STATUS[verdict]
