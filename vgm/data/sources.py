"""Where data come from: the embedded digits, folders of original files, and TFDS."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vgm.data import catalogue, files
from vgm.data.archives import load_npz
from vgm.data.arrays import Dataset as Dataset
from vgm.data.arrays import Split as Split
from vgm.data.arrays import hold_out, take, with_validation_trained_on
from vgm.data.arrays import num_held_out as num_held_out
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
    name: str,
    path: Path | None,
    *,
    num_validation: int | None = None,
    train_on_validation: bool = False,
    missing: str = "none",
) -> Dataset:
    """Load a data set into memory.

    Args:
        name: "digits" (embedded), a name of ``plane.PLANE`` (drawn), or of a TFDS image
            set; with original files, a name to report.
        path: Folder or file with the original data, or a TFDS data directory; None for
            the embedded digits or TFDS's own directory.
        num_validation: Examples held out at the end of the training split where the
            data have no validation split of their own; 0 for none, None for a tenth,
            at most 5,000.
        train_on_validation: Whether what would be the validation split is training
            data instead.
        missing: "nan" where NaN marks a missing number in an ``.npz`` or ``.csv``.

    Returns:
        The data set.

    Raises:
        UserError: If it is missing, damaged or unknown.
    """
    dataset = _built_in(name) if path is None else _load_path(name, path, missing)
    if dataset is None:
        dataset = catalogue.load(name, path)
    _require_examples(name, dataset)
    if train_on_validation:
        dataset = with_validation_trained_on(dataset)
    elif dataset.validation is None:
        count = len(dataset.train.x)
        num_validation = num_held_out(num_validation, count)
        if not 0 <= num_validation < count:
            raise UserError(
                f"data.num-validation must be at least 0 and below the {count} "
                f"training examples, that many of which are held out to choose by; got "
                f"{num_validation}: give --data.num-validation "
                f"{num_held_out(None, count)}"
            )
        train, validation = hold_out(dataset.train, num_validation)
        dataset = dataset._replace(train=train, validation=validation)
    if missing == "nan":
        _require_observed(name, dataset)
    return dataset


def _require_observed(name: str, dataset: Dataset) -> None:
    """Check that what is observed elsewhere was observed in training too."""
    never = np.isnan(dataset.train.x).all(axis=0).ravel()
    for split in ("validation", "test"):
        found = getattr(dataset, split)
        if found is None:
            continue
        here = ~np.isnan(found.x).all(axis=0).ravel()
        if (never & here).any():
            raise UserError(
                f"data set {name!r}: number {np.argmax(never & here) + 1} of each "
                f"example is observed in the {split} split and never in the train "
                "split; leave it out, or split the data otherwise"
            )


def _require_examples(name: str, dataset: Dataset) -> None:
    """Check that every split has examples, all of one shape."""
    shape = dataset.train.x.shape[1:]
    for split in ("train", "validation", "test"):
        found = getattr(dataset, split)
        if found is not None and not len(found.x):
            raise UserError(f"data set {name!r} has no {split} examples; add some")
        if found is not None and found.x.shape[1:] != shape:
            raise UserError(
                f"data set {name!r} has training examples of shape {shape} and "
                f"{split} examples of {found.x.shape[1:]}; make them alike"
            )


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


def _load_path(name: str, path: Path, missing: str) -> Dataset | None:
    """Original files, or None where ``path`` is a TFDS directory."""
    if not path.exists():
        raise UserError(f"data.path {path} does not exist; give a folder or a file")
    if path.is_file():
        return _load_file(path, missing)
    if name and (path / name).is_dir():
        inside = path / name
        if any(any(inside.glob(pattern)) for pattern, _ in _FOLDERS):
            raise UserError(f"data.path {path}: the files are in {inside}; give that")
        return None
    for pattern, loader in _FOLDERS:
        if any(path.glob(pattern)):
            return loader(path)
    single = [found for end in _FILES for found in sorted(path.glob(f"*{end}"))]
    if len(single) == 1:
        return _load_file(single[0], missing)
    raise UserError(
        f"data.path {path} holds no data set {name!r}: {FOLDER_HELP}, filled by: "
        f"tfds build {name} --file_format=array_record --data_dir {path}"
    )


def _load_file(path: Path, missing: str) -> Dataset:
    if path.suffix == ".npz":
        return load_npz(path, missing)
    if path.suffix == ".mat":
        return _load_omniglot(path)
    if path.name.endswith((".csv", ".csv.gz")):
        return load_csv(path, missing=missing)
    if path.suffix == ".npy":
        remedy = "write x_train and x_test into one .npz with numpy.savez"
    else:
        remedy = "give its folder instead"
    raise UserError(f"data.path {path} is no .npz, .csv or .mat file; {remedy}")


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
    names = [f"data_batch_{number}.bin" for number in range(1, 6)]
    *train, test = (
        files.read_cifar(_find(folder, name)) for name in (*names, "test_batch.bin")
    )
    images, labels = (np.concatenate(parts) for parts in zip(*train, strict=True))
    return Dataset(Split(images, labels), None, Split(*test), levels=256)


def _load_omniglot(path: Path) -> Dataset:
    path = path / "chardata.mat" if path.is_dir() else path
    splits = files.read_omniglot(path)
    train, test = Split(splits["train"], None), Split(splits["test"], None)
    return Dataset(train, None, test, levels=256)


_FILES = (".npz", ".csv", ".csv.gz")
_FOLDERS: tuple[tuple[str, Callable[[Path], Dataset]], ...] = (
    ("*-images*idx3-ubyte*", _load_idx),
    ("binarized_mnist_*.amat*", _load_amat),
    ("chardata.mat", _load_omniglot),
    ("data_batch_*.bin*", _load_cifar),
)
