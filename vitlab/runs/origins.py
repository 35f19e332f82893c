"""Where a run's code and weights come from, by hash, which version numbers do not show.

`environment.json` gets `code` always, the others where there is something to record:

    code       of vitlab's own files that train, committed or not; `git` changes with each commit and hides in -dirty
               what differs
    sources    by class path, of each class from outside the packages whose versions are recorded
    weights    by key of the configuration, of each file that the training started from or was taught by
    changed    the entries that were different when the run was last continued
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from vitlab.config import Config, texts_of, weights_of
from vitlab.objectives.objective import weights_path

PACKAGES = ("vitlab", "torch", "torchvision", "lightning", "torchmetrics", "timm", "jsonargparse", "numpy")
"""Their versions are in environment.json, so their classes need no hash."""

CODE = ("code", "sources")
ELSEWHERE = ("__main__.py", "analysis", "commands", "deployment", "studies")  # what no training uses
DIGITS = 16  # hexadecimal, of each hash


def origins(config: Config, before: Mapping[str, Path]) -> dict[str, Any]:
    """Return the entries of a run that is about to start; its classes are imported.

    Args:
        before: by key, the runs that weights are taken from where the configuration names an experiment.
    """
    entries = {"code": code(), "sources": sources(config), "weights": weights(config, before)}
    return {name: entry for name, entry in entries.items() if entry}


def continued(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a run that continues: with the weights it began with, and what has changed since."""
    changed = [name for name in CODE if before.get(name) != now.get(name)]
    names = dict.fromkeys([*before.get("changed", []), *changed])
    kept = {name: before[name] for name in ("weights",) if name in before}
    return {**now, **kept} | ({"changed": list(names)} if names else {})


def code() -> str:
    """Return the hash of vitlab's files that train."""
    package = Path(__file__).parents[1]
    files = sorted(path.relative_to(package) for path in package.rglob("*.py"))
    names = [file for file in files if file.parts[0] not in ELSEWHERE]
    return _hash([part for name in names for part in (name.as_posix().encode(), (package / name).read_bytes())])


def sources(config: Config) -> dict[str, dict[str, str]]:
    """Return file and hash of each class of the user's own, by its class path.

    The hash is of the class's module and of the modules from the same folder that are loaded, which it may use.
    """
    own: dict[str, dict[str, str]] = {}
    for path in sorted({text for text, _ in texts_of(config)}):  # a class path, or a class as a value: `my.Block`
        module = sys.modules.get(path.rpartition(".")[0])
        file = getattr(module, "__file__", None)
        if module is not None and file is not None and _package(module) not in PACKAGES:
            files = sorted({Path(str(each.__file__)) for each in _together_with(module)})
            own[path] = {"file": file, "hash": _hash([each.read_bytes() for each in files if each.is_file()])}
    return own


def weights(config: Config, before: Mapping[str, Path]) -> dict[str, dict[str, str | None]]:
    """Return path and hash of each file of weights that a configuration names, by its key; no hash if it is gone."""
    named: dict[str, dict[str, str | None]] = {}
    for key, source in weights_of(config).items():
        source = str(before.get(key, source))
        file = _hub_name(source.removeprefix("timm/")) if key.endswith(".pretrained") else source
        named[key] = {"path": source, "hash": _hash_of_file(file)}
    return named


def _hub_name(name: str) -> str:
    import timm

    cfg = timm.get_pretrained_cfg(name) if timm.is_model(name.partition(".")[0]) else None
    return str(cfg.hf_hub_id) if cfg is not None else f"timm/{name}"


def _hash_of_file(source: str) -> str | None:
    try:
        with _path(source).open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:DIGITS]
    except (OSError, ValueError):  # a continued run no longer needs them
        return None


def _path(source: str) -> Path:
    """Return the file that was read, without asking the hub again."""
    if not source.startswith("timm/"):
        return weights_path(source)
    from huggingface_hub import try_to_load_from_cache

    return Path(str(try_to_load_from_cache(source, "model.safetensors")))


def _hash(contents: Iterable[bytes]) -> str:
    digest = hashlib.blake2b()
    for content in contents:
        digest.update(hashlib.blake2b(content).digest())
    return digest.hexdigest()[:DIGITS]


def _package(module: ModuleType) -> str:
    return module.__name__.partition(".")[0]


def _together_with(module: ModuleType) -> Iterator[ModuleType]:
    """Yield the loaded modules that lie where the module's package lies; of an installed one, its own package."""
    depth = module.__name__.count(".") + hasattr(module, "__path__")
    home = Path(str(module.__file__)).parents[depth]
    installed = home.name.endswith("-packages")
    for other in list(sys.modules.values()):
        file = getattr(other, "__file__", None)
        if other.__name__ == "__main__" or file is None or not Path(file).is_relative_to(home):
            continue
        inside = any(part.endswith("-packages") for part in Path(file).relative_to(home).parts)
        if _package(other) == _package(module) or not (installed or inside or _package(other) in PACKAGES):
            yield other
