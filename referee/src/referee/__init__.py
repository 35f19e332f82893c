"""Which of these models is better, and how sure am I? From result files, whoever trained the models.

verdict = referee.judge("predictions/")
print(verdict.sentence)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from referee.judging import assert_better, judge
    from referee.outcomes import Outcomes
    from referee.verdict import Verdict

__all__ = ["Outcomes", "Verdict", "__version__", "assert_better", "judge"]
PLACES = {"Verdict": "verdict", "Outcomes": "outcomes"}  # the others are in judging


def __getattr__(name: str) -> Any:
    """Import scipy and pandas when they are first used."""
    if name == "__version__":
        from importlib.metadata import version

        return version("referee")
    if name not in __all__:
        raise AttributeError(f"module 'referee' has no attribute {name!r}")
    return getattr(import_module(f"referee.{PLACES.get(name, 'judging')}"), name)
