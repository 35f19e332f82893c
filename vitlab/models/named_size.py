"""Named sizes of an architecture, as data: a class and the defaults that differ."""

import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
Model = TypeVar("Model")


def variant(name: str, build: Callable[P, Model], **defaults: Any) -> Callable[P, Model]:
    """Return `build` as a function called `name` with other defaults and, for the rest, the same signature.

    To an editor, to `help` and to a command line that reads signatures it is a function written out by hand: all
    arguments typed, the variant's own defaults, nothing accepted that `build` does not take.
    """
    signature = inspect.signature(build)
    unknown = defaults.keys() - signature.parameters.keys()
    assert not unknown, f"{name} sets {sorted(unknown)}, which {build} does not take"

    def create(*args: P.args, **kwargs: P.kwargs) -> Model:
        bound = create.__signature__.bind(*args, **kwargs)  # type: ignore[attr-defined]
        bound.apply_defaults()
        return build(*bound.args, **bound.kwargs)

    parameters = [p.replace(default=defaults.get(p.name, p.default)) for p in signature.parameters.values()]
    create.__signature__ = signature.replace(parameters=parameters, return_annotation=build)  # type: ignore[attr-defined]
    create.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": build}
    create.__module__, create.__name__, create.__qualname__ = (
        "vitlab.models",
        name,
        name,
    )  # the path to be written in YAML
    create.__doc__ = inspect.getdoc(build)
    return create
