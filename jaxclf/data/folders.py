"""Trees of pictures: folders on the disk, and zip archives read in place by any number of threads, never extracted."""

import dataclasses
import os
import zipfile
import zlib
from pathlib import Path
from typing import Protocol

#: What counts as a picture, by ending; anything else in a class folder is passed over.
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif"}
    | {".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
)
#: Names of the folders that hold the parts of a data set, in lower case.
PART_FOLDERS = {"train": ("train", "training"), "valid": ("valid", "val", "validation"), "test": ("test",)}
#: A picture that claims to be larger than this when unpacked is not read.
MAX_MEMBER_BYTES = 2**30


class ImageBytes(Protocol):
    """An encoded picture that is not a file of its own; `str()` names it for messages."""

    def read_bytes(self) -> bytes: ...


def is_hidden(name: str) -> bool:
    """Whether a file or folder is passed over: dot files, and what macOS puts into its zips."""
    return name.startswith(".") or name == "__MACOSX"


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as a picture: a known ending, and not hidden."""
    return not is_hidden(name) and Path(name).suffix.lower() in IMAGE_SUFFIXES


def part_folder(folders: list[str], part: str) -> str | None:
    """The folder that holds "train", "valid" or "test", or None."""
    return next((name for name in folders if name.lower() in PART_FOLDERS[part]), None)


class Directory:
    """A folder of pictures on the disk; `str()` names it for messages. Hidden entries do not exist here."""

    def __init__(self, root: str | os.PathLike[str]):
        self.root = Path(root)

    def __str__(self) -> str:
        return str(self.root)

    def folders(self) -> list[str]:
        """Names of the folders directly in it, sorted."""
        return sorted(entry.name for entry in self.root.iterdir() if entry.is_dir() and not is_hidden(entry.name))

    def files(self) -> list[str]:
        """Names of the files directly in it, sorted."""
        return sorted(entry.name for entry in self.root.iterdir() if entry.is_file() and not is_hidden(entry.name))

    def pictures(self) -> list[str]:
        """Paths of all pictures below it, relative to it, with forward slashes, sorted part by part."""
        found: list[tuple[str, ...]] = []
        for parent, folders, files in os.walk(self.root):
            folders[:] = [name for name in folders if not is_hidden(name)]
            above = Path(parent).relative_to(self.root).parts
            found += [(*above, name) for name in files if is_image_name(name)]
        return ["/".join(parts) for parts in sorted(found)]

    def child(self, name: str) -> "Directory":
        """One of its folders."""
        return Directory(self.root / name)

    def image(self, path: str) -> Path:
        """One of its pictures, for `Example.image`."""
        return self.root / path


@dataclasses.dataclass(frozen=True, slots=True)
class ZipMember:
    """One file in a zip: `read_bytes()` unpacks it in memory.

    Each read opens the archive anew at the member's own place, so threads share nothing and it pickles as it is.
    """

    archive: str
    name: str
    header_offset: int
    method: int
    packed_size: int
    size: int
    crc: int

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    def read_bytes(self) -> bytes:
        """The unpacked content.

        Raises:
          ValueError: naming archive and member, if the archive is gone, has changed or is damaged.
        """
        try:
            with open(self.archive, "rb") as file:
                file.seek(self.header_offset)
                header = file.read(30)
                if len(header) != 30 or header[:4] != b"PK\3\4":
                    raise ValueError("no file begins where the archive's list says")
                names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
                file.seek(names, os.SEEK_CUR)
                packed = file.read(self.packed_size)
            data = packed
            if self.method == zipfile.ZIP_DEFLATED:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, self.size + 1)
            if len(data) != self.size or zlib.crc32(data) != self.crc:
                raise ValueError("its content does not match its checksum")
        except (OSError, ValueError, zlib.error) as error:
            raise ValueError(
                f"image {self} cannot be read: {error}; the archive is damaged or was replaced: restore it"
            ) from error
        return data


class ZipFolder:
    """A folder inside a zip archive, with the methods of `Directory`.

    Args:
      archive: path of the zip.
      members: what lies below the folder, by relative path split into parts; `None` for a folder.
      prefix: the folder inside, in parts.
    """

    def __init__(self, archive: str, members: dict[tuple[str, ...], ZipMember | None], prefix: tuple[str, ...] = ()):
        self.archive = archive
        self.prefix = prefix
        self.members = members

    def __str__(self) -> str:
        return "/".join((self.archive, *self.prefix))

    def folders(self) -> list[str]:
        return sorted({parts[0] for parts, member in self.members.items() if len(parts) > 1 or member is None})

    def files(self) -> list[str]:
        return sorted(parts[0] for parts, member in self.members.items() if len(parts) == 1 and member is not None)

    def pictures(self) -> list[str]:
        found = [parts for parts, member in self.members.items() if member is not None and is_image_name(parts[-1])]
        return ["/".join(parts) for parts in sorted(found)]

    def child(self, name: str) -> "ZipFolder":
        members = {parts[1:]: member for parts, member in self.members.items() if parts[0] == name and len(parts) > 1}
        return ZipFolder(self.archive, members, (*self.prefix, name))

    def image(self, path: str) -> ZipMember:
        member = self.members[tuple(path.split("/"))]
        assert member is not None  # `pictures` lists no folders
        return member


Tree = Directory | ZipFolder


def open_zip(path: str | os.PathLike[str]) -> ZipFolder:
    """Reads a zip's list of files. If all lie in one folder of folders, as `zip -r` makes them, that is the root.

    Raises:
      ValueError: naming the path, if it is not a whole zip, or holds an encrypted, exotically packed or absurdly large
        picture.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # BadZipFile, OSError, struct.error, NotImplementedError, UnicodeError, ..
        raise ValueError(
            f"data {path} cannot be read as a zip: {type(error).__name__}: {error}; it is damaged or incomplete: "
            "fetch or pack it again"
        ) from error
    members: dict[tuple[str, ...], ZipMember | None] = {}
    for entry in entries:
        parts = tuple(part for part in entry.filename.replace("\\", "/").split("/") if part)
        if not parts or any(is_hidden(part) for part in parts):
            continue
        if entry.is_dir():
            members.setdefault(parts)
            continue
        if is_image_name(parts[-1]):
            _check_entry(path, entry)
        place = entry.header_offset, entry.compress_type, entry.compress_size, entry.file_size, entry.CRC
        members[parts] = ZipMember(str(path), entry.filename, *place)
    root = ZipFolder(str(path), members)
    tops = root.folders()
    if len(tops) == 1 and not root.files() and root.child(tops[0]).folders():
        is_part = any(part_folder(tops, part) for part in PART_FOLDERS)  # a lone train/ is not entered
        return root if is_part else root.child(tops[0])
    return root


def _check_entry(path: str | os.PathLike[str], entry: zipfile.ZipInfo) -> None:
    if entry.flag_bits & 1:
        raise ValueError(f"data {path} is encrypted ({entry.filename}); pack it again without a password")
    if entry.file_size > MAX_MEMBER_BYTES:
        raise ValueError(
            f"data {path}: {entry.filename} claims to be {entry.file_size} bytes large, which is no photo "
            f"(at most {MAX_MEMBER_BYTES}); remove it from the zip"
        )
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(
            f"data {path}: {entry.filename} is packed with method {entry.compress_type}, which is not read; "
            "pack it again with plain zip (stored or deflate)"
        )


def open_tree(path: str | os.PathLike[str]) -> Tree:
    """A folder or a zip of one.

    Raises:
      ValueError: naming the path, if it is neither.
    """
    path = Path(path)
    if path.is_dir():
        return Directory(path)
    if path.is_file() and path.suffix.lower() == ".zip":
        return open_zip(path)
    kind = "is a file, not a folder" if path.exists() else "does not exist"
    raise ValueError(f"data folder {path} {kind}; give a folder that holds one folder per class, or a .zip of one")
