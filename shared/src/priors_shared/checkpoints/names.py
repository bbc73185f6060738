"""What a user's name for trained weights means: a folder, a run, shipped weights, or a Hugging Face Hub id."""

import re
from pathlib import Path

from priors_shared.checkpoints.pair import CONFIG, WEIGHTS, read_record
from priors_shared.errors import UserError, first_line


def has_weights(folder: Path) -> bool:
    """Whether `save_weights` wrote a model there; of a run, look at OUT/model."""
    return (folder / CONFIG).is_file()


def checkpoint_kind(folder: Path) -> str | None:
    """What kind of checkpoint a folder holds, or a run folder's `model`; None: no whole one."""
    for place in (folder, folder / "model"):
        record = read_record(place / CONFIG, tolerant=True)
        if record is not None:
            return str(record["kind"])
    return None


def find_weights(name: str | Path, *, shipped: Path, command: str) -> str | Path:
    """What a user's name for trained weights means: a folder or Hub id for `load_weights`.

    Args:
        name: a folder of `save_weights`, a run folder, the name of shipped weights, or a Hub id.
        shipped: folder of the checkpoints inside a package, one folder each.
        command: goes on with an unfinished run, such as "memory-adapt train".

    Raises:
        UserError: a file, a run that has not finished, or a name that nothing has.
    """
    path = Path(name)
    exists = _exists(path)
    if path.is_file():
        raise UserError(f"{name} is a file: give the folder that holds {CONFIG} and the weights")
    if (path / "model").is_dir():
        return path / "model"
    if (path / "metrics.jsonl").is_file():
        raise UserError(
            f"{name}: the training has not finished, there is no model yet: resume it ({command})"
        )
    if exists or "/" in str(name):
        return name
    if not (shipped / path).is_dir():
        names = sorted(p.parent.name for p in shipped.glob(f"*/{CONFIG}"))
        raise UserError(
            f"{name}: neither a folder nor shipped weights ({', '.join(names) or 'none'})"
        )
    return shipped / path


def locate(folder_or_repo_id: str | Path, revision: str | None) -> Path:
    """The folder of a checkpoint, downloaded first where its name is a Hub id.

    Raises:
        UserError: neither a folder nor to be had from the Hub.
    """
    folder = Path(folder_or_repo_id)
    if _exists(folder):
        return folder
    if isinstance(folder_or_repo_id, Path) or not _is_repo_id(folder_or_repo_id):
        raise UserError(f"{folder_or_repo_id}: no such checkpoint folder")
    return _download(folder_or_repo_id, revision)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a name that is too long, or a folder that may not be read
        raise UserError(f"{str(path)[:60]}: cannot be read ({error.strerror})") from error


def _is_repo_id(name: str) -> bool:
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None


def _download(repo_id: str, revision: str | None) -> Path:
    # Late: most checkpoints are local.
    from huggingface_hub import get_session, hf_hub_download, hf_hub_url

    offline, path, reason = False, "", ""
    try:
        # The client would retry for 20 s where there is no network.
        get_session().head(hf_hub_url(repo_id, CONFIG, revision=revision), timeout=10)
    except Exception as error:  # the HTTP library's or the system's, by version of the client
        offline, reason = True, first_line(error)
    try:
        for name in (CONFIG, WEIGHTS):
            path = hf_hub_download(repo_id, name, revision=revision, local_files_only=offline)
    except Exception as error:  # the client's own besides
        raise UserError(
            f"{repo_id}: no such folder here, and not to be had from the Hugging Face Hub "
            f"({reason or first_line(error)})"
        ) from error
    return Path(path).parent
