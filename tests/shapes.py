"""Check the shapes in signatures at every call: the type checker that `make unit` gives to jaxtyping's import hook.

Annotations without a shape are left to mypy and to the command line: tests pass wrong values that the package refuses
in its own words.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from operator import or_
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from beartype import beartype
from beartype.door import is_bearable
from beartype.vale import Is
from jaxtyping import AbstractArray


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, which then raises where an array lacks the annotated shape."""
    hints = {name: shapes_of(hint) for name, hint in function.__annotations__.items()}
    function.__annotations__ = {name: hint for name, hint in hints.items() if has_shape(hint)}
    return beartype(function)


def has_shape(hint: Any) -> bool:
    """Whether an annotation says something of a shape; what a callable takes is checked where it is defined."""
    if get_origin(hint) in (Annotated, Callable):
        return get_origin(hint) is Annotated
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or any(map(has_shape, get_args(hint)))


def shapes_of(hint: Any) -> Any:
    """Return what an annotation says of shapes; the fields of a named tuple count as parts of the signature.

    Of a sequence beartype checks one element, which it draws from Python's generator: a training that is repeated to
    the bit would see another one. All elements are checked here.
    """
    if get_origin(hint) in (Union, UnionType):
        return reduce(or_, (shapes_of(part) if has_shape(part) else part for part in get_args(hint)))
    if get_origin(hint) is tuple:
        parts = [shapes_of(part) if has_shape(part) else object for part in get_args(hint) if part is not Ellipsis]
        return tuple[(*parts, ...) if Ellipsis in get_args(hint) else tuple(parts)]  # type: ignore[misc]
    if get_origin(hint) in (list, Sequence) and has_shape(hint):
        (element,) = map(shapes_of, get_args(hint))
        return Annotated[get_origin(hint), Is[lambda value: all(is_bearable(part, element) for part in value)]]
    if has_shape(hint):
        return hint
    if isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields"):
        fields = {name: shapes_of(field) for name, field in get_type_hints(hint).items() if has_shape(field)}

        def fit(value: Any) -> bool:
            return all(is_bearable(getattr(value, name), field) for name, field in fields.items())

        return Annotated[hint, Is[fit]] if fields else object
    return object
