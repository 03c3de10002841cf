"""A folder as an archive in parts, with their checksums."""

import gzip
import hashlib
import tarfile
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm
from tqdm.utils import CallbackIOWrapper

ARCHIVE = "trimlab-bundle.tar.gz"
MANIFEST = "MANIFEST"
LEVEL = 1  # of compression: wheels are compressed already, and weights hardly shrink


class PartWriter:
    """A file to write to, which is cut into parts.

    Args:
        folder: Folder of the parts, `trimlab-bundle.tar.gz.000` and so on.
        size: Bytes of a part, at most.

    Attributes:
        sums: The sha256 of each part, by name.
    """

    def __init__(self, folder: Path, size: int):
        self.folder, self.size = folder, size
        self.sums: dict[str, str] = {}
        self._file: IO[bytes] | None = None
        self._digest = hashlib.sha256()
        self._left = 0

    def write(self, content: Any) -> int:
        """Writes to the present part, and to new ones as need be."""
        view = memoryview(content).cast("B")
        written = 0
        while written < len(view):
            if self._file is None or self._left == 0:
                self.close()
                name = f"{ARCHIVE}.{len(self.sums):03}"
                self.sums[name] = ""
                self._file = (self.folder / name).open("wb")
                self._digest, self._left = hashlib.sha256(), self.size
            chunk = view[written : written + self._left]
            self._file.write(chunk)
            self._digest.update(chunk)
            self._left -= len(chunk)
            written += len(chunk)
        return written

    def flush(self) -> None:
        """For gzip; the parts are flushed when they are closed."""

    def close(self) -> None:
        """Ends the present part."""
        if self._file is not None:
            self._file.close()
            self.sums[list(self.sums)[-1]] = self._digest.hexdigest()
            self._file = None


def write_archive(tree: Path, folder: Path, size: int) -> dict[str, str]:
    """Writes a folder as an archive in parts. The same files give the same bytes.

    Args:
        tree: What is archived.
        folder: Folder of the parts.
        size: Bytes of a part, at most.

    Returns:
        The sha256 of each part, by name and in order.
    """
    files = sorted(path for path in tree.rglob("*") if path.is_file())
    parts: Any = PartWriter(folder, size)
    with (
        tqdm(
            total=sum(p.stat().st_size for p in files), unit="B", unit_scale=True, disable=None
        ) as bar,
        gzip.GzipFile("", "wb", LEVEL, parts, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in files:
            entry = tarfile.TarInfo(path.relative_to(tree).as_posix())
            entry.size = path.stat().st_size  # time, owner and mode are the same everywhere
            with path.open("rb") as file:
                content: Any = CallbackIOWrapper(bar.update, file, "read")
                archive.addfile(entry, content)
    parts.close()
    return parts.sums
