"""The conclusion of a verdict in words."""

import math
from collections.abc import Sequence

from referee.formats import SPACE, counted, joined, listed
from referee.verdict import Pair, Verdict

MANY = 8  # others, from which the sentence counts them
SOME = 3  # others of one kind, from which it gives the range of leads instead of each with its interval


def conclusion(verdict: Verdict) -> str:
    """Summarize in one sentence who leads, by how much, and how sure that is."""
    ranking, metric = verdict.ranking, verdict.metric
    if not ranking:
        return "No run finished, so there is nothing to compare."
    best = ranking[0]
    if len(ranking) == 1:
        return f"Only {best.name} has finished runs, so there is nothing to compare."
    against = [pair for pair in verdict.pairs if pair.better is best and verdict.counts(pair)]
    if all(pair.difference is None for pair in against):
        score = metric.text(best.score.mean, verdict.digits)
        shown = f"{score}{SPACE}%" if metric.is_fraction else f"{metric.name} {score}"
        scored = f"{best.name} scored {'highest' if metric.mode == 'max' else 'lowest'} ({shown})"
        return f"{scored}, but a single seed cannot distinguish a difference from chance."
    margin = "" if verdict.margin is None else metric.size(verdict.margin)
    ahead = [pair for pair in against if pair.settled and not pair.equal]
    equal = [pair for pair in against if pair.equal]
    level = [pair for pair in against if not pair.settled and not pair.equal]
    if all(pair.equal for pair in verdict.pairs):
        return f"Equal to within {margin}: {joined([variant.name for variant in ranking])} ({_seeds(verdict)})."
    seeds = _seeds(verdict) + (f"; margin {margin}" if margin and not equal else "")
    if not ahead and not equal:
        leads = joined([f"{pair.worse.name} by {_gap(pair, verdict)}" for pair in level])
        return f"No winner yet ({seeds}): {best.name} leads {leads}; leads of this size can still be chance."
    parts = [f"{best.name} is better than {_leads(ahead, ' by ', len(against), verdict)}"] if ahead else []
    if near := [pair.worse.name for pair in ahead if margin and not pair.interval.low > (verdict.margin or 0.0)]:
        than = "" if len(near) == len(ahead) == len(against) else f" than {listed(near)}"
        parts.append(f"whether by more than {margin}{than} is open")
    if equal:
        who = joined([pair.worse.name for pair in equal])
        parts.append(f"equal to within {margin} to {who}" if ahead else f"{best.name} equals {who} to within {margin}")
    if len(level) > MANY:
        parts.append(f"no winner yet against {listed([pair.worse.name for pair in level])}")
    elif level:
        parts.append(f"no winner yet against {_leads(level, ', which it leads by ', len(against), verdict)}")
    return f"{'; '.join(parts)} ({seeds})."


def _leads(pairs: Sequence[Pair], by: str, others: int, verdict: Verdict) -> str:
    """Return over whom the best variant leads and by how much, of more than a few by the least and the largest lead."""
    if len(pairs) <= (SOME if others <= 2 * SOME else 1):
        return joined([f"{pair.worse.name}{by}{_gap(pair, verdict)}" for pair in pairs])
    leads = [pair.lead for pair in pairs]
    low, high = verdict.metric.text(min(leads), verdict.digits), verdict.metric.difference(max(leads), verdict.digits)
    who = joined([pair.worse.name for pair in pairs]) if len(pairs) <= MANY else f"{len(pairs)} of {others} others,"
    return f"{who}{by}{low} to {high}"


def scope(verdict: Verdict) -> str:
    """Return what the verdict is about: which chance its intervals are over."""
    if verdict.of_models:
        which = "either" if len(verdict.ranking) == 2 else "any of them"
        about = f"It is about these models on such items; nothing is known about another training of {which}."
        if not verdict.outcomes.by_item and any(pair.difference for pair in verdict.pairs):
            return f"{about} Which items each gets right is not known, so the models are taken to be independent."
        return about
    groups, unit = verdict.outcomes.groups, verdict.outcomes.unit
    if verdict.items == 1:
        return "Intervals are over seeds alone: other test items may turn a lead."
    of_groups = "" if groups is None else f"{counted(int(groups.max()) + 1, 'group')} of "
    return f"Intervals are over seeds and {of_groups}test {unit}s."


def _gap(pair: Pair, verdict: Verdict) -> str:
    low, high = (verdict.metric.text(end, verdict.digits) for end in pair.interval[1:])
    lead = verdict.metric.difference(pair.lead, verdict.digits)
    return lead if math.isnan(pair.interval.low) else f"{lead} ({low} to {high})"


def _seeds(verdict: Verdict) -> str:
    if verdict.of_models:
        return "these models, one seed each"
    counts = sorted({len(variant.runs) for variant in verdict.ranking})
    if not verdict.design.seeds:
        counts = [count for count in counts if count > 1] or counts
    return (f"{counts[0]} to " if len(counts) > 1 else "") + f"{counted(counts[-1], 'seed')} each"
