"""What a recorded verdict answers, as an exit status, so that a script can ask whether a gain is noise."""

from collections.abc import Mapping
from typing import Any

STATUS = {"better": 0, "no winner yet": 1, "equal": 3, "not comparable": 4, "worse": 5}  # 2 is a user's mistake
DOUBT = ("better", "equal", "no winner yet", "worse")  # against several variants, the least favorable one counts


def answered(
    record: Mapping[str, Any],
    better: str | None = None,
    than: str | None = None,
    where: str = "",
    in_general: bool = False,
) -> tuple[list[str], str]:
    """Return in words, and as one of STATUS, whether a record (verdict.json) says that `better` is better than `than`.

    Without `better`, the best mean; without `than`, than all others; of two that are named, alone, without a correction
    for the other pairs. `where` the record is from is for messages; `in_general` asks for other data sets of the kind.

    Raises:
        ValueError: not two variants of the record, or a record of fewer than five data sets.
    """
    if in_general and not all("in_general" in pair for pair in record["pairs"]):
        raise ValueError("--in-general needs five data sets or more that all variants have (--dataset COLUMN).")
    if better is None and than is None and not in_general:
        return [record["headline"]], str(record["verdict"])
    names = [variant["variant"] for variant in record["variants"]]
    for name in (better, than):
        if name is not None and name not in names:
            raise ValueError(f"{name!r} is not a variant with finished runs{where}: {', '.join(names)}.")
    asked = better or names[0]
    if asked == than:
        raise ValueError(f"--better {asked} --than {than}: name two different variants of {', '.join(names)}.")
    kind = "in_general" if in_general else "verdict" if better is None or than is None else "alone"
    of_asked = [pair for pair in record["pairs"] if asked in (pair["better"], pair["worse"])]
    pairs = [pair for pair in of_asked if than in (None, pair["better"], pair["worse"])]
    words = [
        "worse" if word == "better" and pair["worse"] == asked else word
        for pair in pairs
        for word in [pair.get(kind, pair["verdict"])]
    ]
    void = record["verdict"] == "not comparable"
    if void and in_general:  # a data set that a variant lacks is left out
        void = any(check["void"] and check["code"] != "R017" for check in record["checks"])
    word = "not comparable" if void or not words else str(max(words, key=DOUBT.index))
    lines = [record["headline"], f"{asked} against {than or 'all others'}{', in general' * in_general}: {word}."]
    for pair in pairs if kind == "alone" else ():
        if pair.get("low_alone") is not None:
            ends = f"{pair['low_alone']:.3g} to {pair['high_alone']:.3g}; p {pair['p_alone']:.2g}"
            lines.append(f"Alone: {pair['better']} leads {pair['worse']} by {pair['mean']:.3g} ({ends}).")
    return lines, word
