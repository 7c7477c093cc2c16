"""From the paths of images to their classes."""

from collections.abc import Collection, Iterable

from ftbc_pl.data.listing import ANNOTATIONS, Files, LeftOut, image_suffixes, natural_key

UNLABELLED = -1

__all__ = ["UNLABELLED", "class_names", "empty_folders", "no_images", "number", "wrapping"]


def class_names(files: Files, depth: int = 0) -> list[str | None]:
    """Return the class of each image: the name of the first folder in its path; None where there is no folder.

    Tiny-ImageNet's validation images lie in one folder, and their classes are stated in a file beside it.

    Args:
        files: The images.
        depth: How many folders come before those of the classes.

    Raises:
        ValueError: The file of Tiny-ImageNet's classes can't be read.
    """
    paths = [name.split("/") for name in files.names]
    stated = files.annotations.get("/".join([*(paths[0][:depth] if paths else []), ANNOTATIONS]))
    if stated is not None:
        by_name = _stated(stated, files.title)
        return [by_name.get(path[-1]) for path in paths]
    return [path[depth] if len(path) > depth + 1 else None for path in paths]


def number(names: Iterable[str | None]) -> dict[str, int]:
    """Number the classes in their natural order, as timm does."""
    return {name: index for index, name in enumerate(sorted({n for n in names if n is not None}, key=natural_key))}


def empty_folders(files: Files, depth: int = 0) -> list[str]:
    """Return the folders at the place of those of the classes that hold no image."""
    full = {"/".join(name.split("/")[: depth + 1]) for name in files.names}
    return sorted(folder for folder in files.folders - full if folder.count("/") == depth)


def wrapping(files: Files, known: Collection[str] = ()) -> int:
    """Return how many folders of a tar file hold all class folders: `tar cf train.tar train` puts one there.

    A folder is taken for one of these as long as it is the only one, is none of the `known` classes and has folders in
    it.
    """
    paths = [name.split("/") for name in files.names]
    depth = 0
    while True:
        tops = {path[depth] for path in paths if len(path) > depth + 1}
        deep = any(len(path) > depth + 2 for path in paths)
        if len(tops) != 1 or not deep or tops <= set(known):
            return depth
        depth += 1


def _stated(text: bytes, title: str) -> dict[str, str]:
    """Read the classes of Tiny-ImageNet's validation images: file, class and four numbers in a line."""
    classes: dict[str, str] = {}
    for place, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
        fields = line.split("\t")
        if not line.strip():
            continue
        if len(fields) < 2 or not fields[0].strip() or not fields[1].strip():
            raise ValueError(
                f"expected a file name, a tab and a class in line {place} of {ANNOTATIONS} in {title}, "
                f"got {line[:80]!r}"
            )
        classes[fields[0].strip()] = fields[1].strip()
    return classes


def no_images(files: Files, left_out: LeftOut) -> FileNotFoundError:
    """Return the error of a folder or tar file without a single image."""
    found = f" but {left_out}" if len(left_out) else ""
    return FileNotFoundError(
        f"Found 0 images in {files.title}{found}; images end in one of {', '.join(sorted(image_suffixes()))}"
    )
