"""Packages that only some commands need, and how to install them."""

from importlib.util import find_spec


def need(extra: str, *packages: str, what: str) -> None:
    """Raise a ValueError that names the first package that is not installed, and the command that installs it.

    Args:
        extra: of `pip install 'vitlab[extra]'`.
        packages: by the names under which they are imported.
        what: needs them; an option or a class, for the message.
    """
    for package in packages:
        if find_spec(package) is None:
            raise ValueError(f"{what} needs the package {package}: pip install 'vitlab[{extra}]'")
