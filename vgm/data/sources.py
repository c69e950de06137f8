"""Where data come from: the embedded digits, folders of original files, and TFDS."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vgm.data import files
from vgm.data.arrays import Dataset as Dataset
from vgm.data.arrays import Split as Split
from vgm.data.arrays import hold_out, take
from vgm.data.plane import PLANE, load_plane
from vgm.data.tables import load_csv
from vgm.errors import UserError

DIGITS_SPLIT = (1197, 303, 297)
FOLDER_HELP = (
    "expected IDX files (train-images-idx3-ubyte.gz, ...), "
    "binarized_mnist_{train,valid,test}.amat.gz, chardata.mat, data_batch_1.bin and on "
    "with test_batch.bin (CIFAR-10), one .npz or .csv, or a TFDS data directory"
)


def load(
    name: str, path: Path | None, *, num_validation: int, missing: str = "none"
) -> Dataset:
    """Load a data set into memory.

    Args:
        name: "digits" (embedded), a name of ``plane.PLANE`` (drawn), or of a TFDS image
            set; with original files, a name to report.
        path: Folder or file with the original data, or a TFDS data directory; None for
            the embedded digits or TFDS's own directory.
        num_validation: Examples held out at the end of the training split where the
            data have no validation split of their own; 0 for none.
        missing: "nan" where NaN marks a missing number in an ``.npz``.

    Returns:
        The data set.

    Raises:
        UserError: If it is missing, damaged or unknown.
    """
    dataset = _built_in(name) if path is None else _load_path(name, path, missing)
    if dataset is None:
        dataset = load_tfds(name, path)
    if dataset.validation is None:
        if not 0 <= num_validation < len(dataset.train.x):
            raise UserError(
                f"data.num-validation must be at least 0 and below the "
                f"{len(dataset.train.x)} training examples; got {num_validation}"
            )
        train, validation = hold_out(dataset.train, num_validation)
        dataset = dataset._replace(train=train, validation=validation)
    return dataset


def _built_in(name: str) -> Dataset | None:
    if name == "digits":
        return load_digits()
    return load_plane(name) if name in PLANE else None


def load_digits() -> Dataset:
    """The 1,797 handwritten digits that ship with scikit-learn, 8 x 8, 17 levels.

    Returns:
        1,197 training, 303 validation and 297 test examples, a fixed random split.
    """
    from sklearn.datasets import load_digits as sklearn_digits

    bunch: Any = sklearn_digits()
    x = np.asarray(bunch["images"]).astype(np.uint8)[..., None]
    everything = Split(x, np.asarray(bunch["target"]).astype(np.int32))
    order = np.random.default_rng(0).permutation(len(x))
    ends = np.cumsum(DIGITS_SPLIT)
    train, validation, test = (
        take(everything, index) for index in np.split(order, ends[:-1])
    )
    return Dataset(train, validation, test, levels=17)


def load_tfds(name: str, path: Path | None) -> Dataset:
    """An image set prepared by TensorFlow Datasets as array_record; no TensorFlow.

    Args:
        name: Name in the TFDS catalogue.
        path: TFDS data directory; None for its default.

    Returns:
        The data set, its validation split None if TFDS has none.

    Raises:
        UserError: If the name is unknown or the set is not prepared.
    """
    with warnings.catch_warnings():
        # Third-party deprecation notices at import are not this program's to mend.
        warnings.simplefilter("ignore")
        try:
            import tensorflow_datasets as tfds
        except ImportError as error:
            raise UserError(
                f"data.name {name!r} is read by tensorflow-datasets, which is not "
                "installed; run: pip install tensorflow-datasets array_record"
            ) from error
        try:
            builder = tfds.builder(name, data_dir=path, file_format="array_record")
        except (tfds.core.DatasetNotFoundError, ValueError) as error:
            raise UserError(
                f"data.name {name!r} is no known data set; use 'digits', 'two-moons', "
                "'checkerboard', a name of the TFDS catalogue (mnist, cifar10, ...), "
                "or give the original files with --data.path"
            ) from error
        splits = builder.info.splits
        if "train" not in splits:
            where = "" if path is None else f" --data_dir {path}"
            raise UserError(
                f"data set {name!r} is not prepared in {builder.data_dir}; run: "
                f"pip install 'vgm[prepare]' && tfds build {name} "
                f"--file_format=array_record{where}"
            )
        read = {
            split: _read_tfds(tfds, name, split, path)
            for split in ("train", "validation", "test")
            if split in splits
        }
    if "test" not in read:
        raise UserError(f"data set {name!r} has no test split; use another")
    return _image_dataset(read["train"], read.get("validation"), read["test"])


def _read_tfds(tfds: object, name: str, split: str, path: Path | None) -> Split:
    source = tfds.data_source(  # pyright: ignore[reportAttributeAccessIssue]
        name, split=split, data_dir=path, download=False
    )
    first = source[0]
    if "image" not in first:
        raise UserError(f"data set {name!r} has no images; use an image data set")
    x = np.empty((len(source), *np.shape(first["image"])), np.uint8)
    labels = np.zeros(len(source), np.int32) if "label" in first else None
    for row, record in enumerate(source):
        if np.shape(record["image"]) != x.shape[1:]:
            raise UserError(
                f"data set {name!r} has images of several sizes; use one of fixed size"
            )
        x[row] = record["image"]
        if labels is not None:
            labels[row] = record["label"]
    return Split(x, labels)


def _image_dataset(train: Split, validation: Split | None, test: Split) -> Dataset:
    # Images of zeros and ones are binary already; all others have 256 levels.
    levels = 2 if max(train.x.max(), test.x.max()) <= 1 else 256
    return Dataset(train, validation, test, levels)


def _load_path(name: str, path: Path, missing: str) -> Dataset | None:
    """Original files, or None where ``path`` is a TFDS directory."""
    if not path.exists():
        raise UserError(f"data.path {path} does not exist; give a folder or a file")
    if path.is_file():
        return _load_file(path, missing)
    if (path / name).is_dir():
        return None
    for pattern, loader in _FOLDERS:
        if any(path.glob(pattern)):
            return loader(path)
    single = [found for end in _FILES for found in sorted(path.glob(f"*{end}"))]
    if len(single) == 1:
        return _load_file(single[0], missing)
    raise UserError(f"data.path {path} holds no data set {name!r}: {FOLDER_HELP}")


def _load_file(path: Path, missing: str) -> Dataset:
    if path.suffix == ".npz":
        return _load_npz(path, missing)
    if path.suffix == ".mat":
        return _load_omniglot(path)
    if path.name.endswith((".csv", ".csv.gz")):
        return load_csv(path)
    raise UserError(
        f"data.path {path} is no .npz, .csv or .mat file; give its folder instead"
    )


def _find(folder: Path, *names: str) -> Path:
    for name in names:
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.exists():
                return candidate
    raise UserError(f"{folder / names[0]}(.gz) is missing; put it there")


def _load_idx(folder: Path) -> Dataset:
    splits = []
    for prefix in ("train", "t10k"):
        images = files.read_idx(
            _find(folder, f"{prefix}-images-idx3-ubyte", f"{prefix}-images.idx3-ubyte"),
            files.IDX_IMAGES,
        )
        label_path = _find(
            folder, f"{prefix}-labels-idx1-ubyte", f"{prefix}-labels.idx1-ubyte"
        )
        labels = files.read_idx(label_path, files.IDX_LABELS)
        if len(labels) != len(images):
            raise UserError(
                f"{label_path} has {len(labels)} labels for {len(images)} images; "
                "fetch both files again"
            )
        splits.append(Split(images[..., None], labels.astype(np.int32)))
    train, test = splits
    return Dataset(train, None, test, levels=256)


def _load_amat(folder: Path) -> Dataset:
    train, validation, test = (
        Split(files.read_amat(_find(folder, f"binarized_mnist_{split}.amat")), None)
        for split in ("train", "valid", "test")
    )
    return Dataset(train, validation, test, levels=2)


def _load_cifar(folder: Path) -> Dataset:
    train = [
        files.read_cifar(path) for path in sorted(folder.glob("data_batch_*.bin*"))
    ]
    test = files.read_cifar(_find(folder, "test_batch.bin"))
    images, labels = (np.concatenate(parts) for parts in zip(*train, strict=True))
    return Dataset(Split(images, labels), None, Split(*test), levels=256)


def _load_omniglot(path: Path) -> Dataset:
    path = path / "chardata.mat" if path.is_dir() else path
    splits = files.read_omniglot(path)
    train, test = Split(splits["train"], None), Split(splits["test"], None)
    return Dataset(train, None, test, levels=256)


def _load_npz(path: Path, missing: str) -> Dataset:
    arrays = files.read_npz(path, missing=missing)
    absent = {"x_train", "x_test"} - arrays.keys()
    if absent:
        raise UserError(
            f"{path} lacks {' and '.join(sorted(absent))}; expected x_train, x_test "
            "and optionally x_valid, y_train, y_valid, y_test, levels"
        )
    x = {split: arrays[f"x_{split}"] for split in ("train", "test")}
    if "x_valid" in arrays:
        x["valid"] = arrays["x_valid"]
    empty = [name for name, array in x.items() if array.ndim < 2 or not array.size]
    if empty:
        raise UserError(
            f"{path}: x_{empty[0]} must be an array of examples with at least one "
            "number each; got an empty or flat one"
        )
    kinds = {split: array.dtype.kind for split, array in x.items()}
    shapes = {split: array.shape[1:] for split, array in x.items()}
    if len(set(shapes.values())) > 1 or len(set(kinds.values())) > 1:
        raise UserError(
            f"{path}: x_train, x_valid and x_test differ in shape or dtype; make them "
            "alike"
        )
    levels = 0
    if kinds["train"] != "f":
        levels = _npz_levels(path, arrays, x)
        dtype = np.uint8 if levels <= 256 else np.int32
        x = {split: array.astype(dtype) for split, array in x.items()}
    splits = {
        split: Split(array, _npz_labels(path, arrays, split, len(array)))
        for split, array in x.items()
    }
    return Dataset(splits["train"], splits.get("valid"), splits["test"], levels)


def _npz_levels(
    path: Path, arrays: dict[str, np.ndarray], x: dict[str, np.ndarray]
) -> int:
    lowest = min(int(array.min()) for array in x.values())
    highest = max(int(array.max()) for array in x.values())
    stated = arrays.get("levels", np.asarray(2 if highest <= 1 else 256))
    if stated.size != 1 or stated.dtype.kind not in "ui" or stated.item() < 2:
        raise UserError(f"{path}: levels must be one integer of at least 2")
    levels = int(stated.item())
    if lowest < 0 or highest >= levels:
        raise UserError(
            f"{path}: levels run from {lowest} to {highest}, outside 0 .. "
            f"{levels - 1}; store the number of levels as 'levels'"
        )
    return levels


def _npz_labels(
    path: Path, arrays: dict[str, np.ndarray], split: str, count: int
) -> np.ndarray | None:
    labels = arrays.get(f"y_{split}")
    if labels is None:
        return None
    if labels.shape != (count,) or labels.dtype.kind not in "ui":
        raise UserError(
            f"{path}: y_{split} must be {count} integers; got {labels.dtype} of shape "
            f"{labels.shape}"
        )
    return labels.astype(np.int32)


_FILES = (".npz", ".csv", ".csv.gz")
_FOLDERS: tuple[tuple[str, Callable[[Path], Dataset]], ...] = (
    ("*-images*idx3-ubyte*", _load_idx),
    ("binarized_mnist_*.amat*", _load_amat),
    ("chardata.mat", _load_omniglot),
    ("data_batch_*.bin*", _load_cifar),
)
