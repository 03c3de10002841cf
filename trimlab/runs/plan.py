"""The plan of a sweep: an experiment file and a profile become runs.

An experiment file says what is compared; a profile (`profiles/NAME.yaml` beside it) gives the model
and the size of every run. The name of a run is the hash of its resolved config: the same run of
two experiments is made once.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trimlab.errors import InputError
from trimlab.files import read_yaml
from trimlab.records.result_row import ExperimentCell
from trimlab.records.rows import JsonObject
from trimlab.runs.config import Resolver
from trimlab.runs.options import present_name, present_names
from trimlab.runs.recipe import merged
from trimlab.runs.run_id import run_id


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    Attributes:
        place: The experiment, the cell in it, and the id of the run.
        config: Its config, as `trimlab fit --config` reads it.
    """

    place: ExperimentCell
    config: JsonObject

    @property
    def id(self) -> str:
        """Hash of the resolved config."""
        return self.place.run

    @property
    def title(self) -> str:
        """The run in a few words."""
        values = (f"{k.rpartition('.')[2]} {v}" for k, v in self.place.cell.items())
        return ", ".join([*values, f"seed {self.place.seed}"])


def plan(
    path: Path,
    profile: str,
    *,
    seeds: int = 1,
    limit: int | None = None,
    only: Sequence[str] = (),
    settings: Sequence[str] = (),
    data_root: Path | None = None,
) -> list[PlannedRun]:
    """Reads an experiment, and checks every run of it.

    Args:
        path: The experiment file.
        profile: Name of the profile.
        seeds: Seeds 0, 1, ... of every cell; all cells of one seed come before the next seed.
        limit: Rehearse: at most so many rows per set.
        only: Conditions on cells: `trim.scorer=two_step,random` keeps those with one of the values.
        settings: Overrides of every run, `model.lr=5e-5`; they become part of the cell.
        data_root: Folder of the rows, for every run.

    Raises:
        InputError: A file, a key, a value or a name in it cannot work.
    """
    if seeds < 1 or (limit is not None and limit < 1):
        raise InputError("--seeds and --limit must be at least 1")
    experiment = _read_experiment(path)
    if not isinstance(experiment.get("config") or {}, dict):
        raise InputError(f"{path}: config holds options of every run, in sections")
    # the settings of an experiment stand above the size that a profile gives to everything
    common = merged(
        present_names(_read_profile(path.parent, profile)),
        present_names(experiment.get("config") or {}),
    )
    if data_root is not None:
        data_root = data_root.expanduser()
        if not data_root.exists():
            raise InputError(f"--data.root {data_root} is no folder and no file")
        common = merged(common, {"data": {"root": str(data_root)}})
    overrides = dict(_assignment(text) for text in settings)
    cells = [cell | overrides for cell in _cells(experiment["runs"], path, profile)]
    cells = _kept(cells, only)
    resolve, found = Resolver(), dict[str, PlannedRun]()
    configs = []
    for cell in cells:
        config = merged(common, nested(cell), {"seed_everything": 0})
        try:
            if limit is not None:
                config = merged(config, _rehearsal(resolve(config), limit))
            configs.append((cell, config, resolve(config)))
        except InputError as error:
            raise InputError(f"{path.name}, {cell}: {error}") from error
    for seed in range(seeds):
        for cell, of_first, resolved in configs:
            config = of_first | {"seed_everything": seed}
            identity = run_id(resolved | {"seed_everything": seed})
            place = ExperimentCell(
                experiment=path.stem,
                profile=profile,
                cell=cell,
                run=identity,
                seed=seed,
                limit=limit,
                overrides=overrides,
            )
            found.setdefault(identity, PlannedRun(place, config))
    return list(found.values())


def nested(dotted: JsonObject) -> JsonObject:
    """`{"trim.r": 1}` as `{"trim": {"r": 1}}`."""
    row: JsonObject = {}
    for name, value in dotted.items():
        *sections, option = name.split(".")
        place = row
        for section in sections:
            place = place.setdefault(section, {})
        place[option] = value
    return row


# ---- inside ------------------------------------------------------------------------------------


def _read_experiment(path: Path) -> JsonObject:
    experiment = read_yaml(path)
    unknown = sorted(set(experiment) - {"config", "runs"})
    if unknown or not isinstance(experiment.get("runs"), list) or not experiment["runs"]:
        raise InputError(
            f"{path} must hold `runs`, a list of what to compare, and may hold `config`"
            + (f"; it also holds {', '.join(unknown)}" if unknown else "")
        )
    return experiment


def _read_profile(folder: Path, name: str) -> JsonObject:
    path = folder / "profiles" / f"{name}.yaml"
    if not path.exists():
        there = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise InputError(f"no profile {name!r}; there are {', '.join(there) or 'none'}")
    return read_yaml(path)


def _cells(blocks: Sequence[Any], path: Path, profile: str) -> list[JsonObject]:
    """The cells of an experiment for a profile: dotted names and values."""
    cells = []
    for block in blocks:
        for cell in _combinations(block, path):
            its_own = cell.pop("profile", profile)
            if its_own == profile:
                cells.append(cell)
            else:
                _read_profile(path.parent, its_own)  # refuses a misspelt name
    if not cells:
        raise InputError(f"{path} has no run for the profile {profile}")
    return cells


def _combinations(block: Any, path: Path) -> Iterator[JsonObject]:
    """Every combination of the values of a block; a value that is no list is the only one."""
    if not isinstance(block, dict):
        raise InputError(f"{path}: an entry of `runs` must hold dotted names and values")
    axes = [value if isinstance(value, list) else [value] for value in block.values()]
    names = [present_name(name) for name in block]
    for values in itertools.product(*axes):
        yield dict(zip(names, values, strict=True))


def _kept(cells: list[JsonObject], only: Sequence[str]) -> list[JsonObject]:
    for condition in only:
        name, _, values = condition.partition("=")
        wanted = _values(values)
        if not wanted or name.startswith("["):
            raise InputError(f"--only takes NAME=VALUE[,VALUE], not {condition!r}")
        name = present_name(name)
        there = {str(cell[name]) for cell in cells if name in cell}
        cells = [cell for cell in cells if name in cell and cell[name] in wanted]
        if not cells:
            raise InputError(
                f"--only {condition} leaves no run; {name} is {', '.join(sorted(there)) or 'unset'}"
            )
    return cells


def _values(text: str) -> list[Any]:
    """Values between commas, which may be lists: `two_step,random`, `[billm, fasp]`."""
    try:
        return yaml.safe_load(f"[{text}]")
    except yaml.YAMLError:
        return []


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or name.startswith("["):
        raise InputError(f"--set takes NAME=VALUE, not {text!r}")
    return present_name(name), yaml.safe_load(value)


def _rehearsal(config: JsonObject, limit: int) -> JsonObject:
    """The same run with at most `limit` rows in every set."""
    sizes = {
        name: min(limit, config["data"][name] or limit)
        for name in ("train_rows", "calibration_rows", "dev_rows", "test_rows")
    }
    return {"data": sizes}
