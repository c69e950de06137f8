"""Readers on small files of the same formats, and on the originals where present."""

import contextlib
import gzip
import struct
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io

from vgm import data
from vgm.data import catalogue, files, observations
from vgm.errors import UserError


def write_idx(path, magic, array):
    content = struct.pack(f">{1 + array.ndim}I", magic, *array.shape)
    content += array.astype(np.uint8).tobytes()
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def make_idx_folder(folder, *, suffix=".gz", seed=0):
    generator = np.random.default_rng(seed)
    arrays = {}
    for prefix, count in (("train", 20), ("t10k", 6)):
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = generator.integers(0, 10, count, dtype=np.uint8)
        labels[0] = 9
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", 0x803, images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", 0x801, labels)
        arrays[prefix] = images, labels
    return arrays


def make_amat_folder(folder):
    generator = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 9), ("valid", 4), ("test", 5)):
        x = generator.integers(0, 2, (count, 784))
        text = "\n".join(" ".join(map(str, row)) for row in x) + "\n"
        path = folder / f"binarized_mnist_{split}.amat.gz"
        path.write_bytes(gzip.compress(text.encode()))
        arrays[split] = x
    return arrays


def test_digits_have_the_stated_split():
    digits = data.load("digits", None, num_validation=0)
    sizes = [len(split.x) for split in (digits.train, digits.validation, digits.test)]
    assert sizes == [1197, 303, 297]
    assert digits.train.x.shape[1:] == (8, 8, 1)
    assert digits.levels == 17
    everything = np.concatenate([digits.train.x, digits.validation.x, digits.test.x])
    assert everything.max() == 16
    # The split is default_rng(0).permutation of scikit-learn's order.
    from sklearn.datasets import load_digits

    order = np.random.default_rng(0).permutation(1797)
    np.testing.assert_array_equal(
        digits.test.x[..., 0], load_digits().images[order[1500:]].astype(np.uint8)
    )


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_idx_files_come_back(tmp_path, suffix):
    arrays = make_idx_folder(tmp_path, suffix=suffix)
    loaded = data.load("mnist", tmp_path, num_validation=4)
    images, labels = arrays["train"]
    np.testing.assert_array_equal(loaded.train.x[..., 0], images[:16])
    np.testing.assert_array_equal(loaded.validation.x[..., 0], images[16:])
    np.testing.assert_array_equal(loaded.train.labels, labels[:16])
    np.testing.assert_array_equal(loaded.test.x[..., 0], arrays["t10k"][0])
    assert loaded.levels == 256


def test_amat_files_come_back(tmp_path):
    arrays = make_amat_folder(tmp_path)
    loaded = data.load("binarized_mnist", tmp_path, num_validation=3)
    for split, name in ((loaded.train, "train"), (loaded.validation, "valid")):
        np.testing.assert_array_equal(split.x.reshape(-1, 784), arrays[name])
    assert loaded.levels == 2
    assert loaded.train.labels is None


def test_a_validation_split_that_is_trained_on_ends_the_training_split(tmp_path):
    arrays = make_amat_folder(tmp_path)
    loaded = data.load(
        "binarized_mnist", tmp_path, num_validation=3, train_on_validation=True
    )
    both = np.concatenate([arrays["train"], arrays["valid"]])
    np.testing.assert_array_equal(loaded.train.x.reshape(-1, 784), both)
    assert loaded.validation is None
    digits = data.load("digits", None, num_validation=0)
    all_digits = data.load(
        "digits", None, num_validation=0, train_on_validation=True
    ).train
    labels = np.concatenate([digits.train.labels, digits.validation.labels])
    np.testing.assert_array_equal(all_digits.labels, labels)


def test_omniglot_matrices_come_back(tmp_path):
    generator = np.random.default_rng(0)
    image = generator.random((28, 28))
    columns = np.stack([image.flatten(order="F")] * 3, axis=1)
    path = tmp_path / "chardata.mat"
    scipy.io.savemat(path, {"data": columns, "testdata": columns[:, :2]})
    for place in (tmp_path, path):
        loaded = data.load("omniglot", place, num_validation=1)
        expected = np.rint(image * 255).astype(np.uint8)
        np.testing.assert_array_equal(loaded.train.x[0, ..., 0], expected)
        assert [len(s.x) for s in (loaded.train, loaded.validation, loaded.test)] == [
            2,
            1,
            2,
        ]


def test_npz_archives_come_back(tmp_path):
    x = np.random.default_rng(0).integers(0, 4, (7, 3, 2), dtype=np.int64)
    path = tmp_path / "own.npz"
    np.savez(path, x_train=x, x_test=x[:2], y_train=np.arange(7), levels=4)
    loaded = data.load("own", path, num_validation=2)
    assert loaded.levels == 4
    assert (len(loaded.train.x), len(loaded.validation.x)) == (5, 2)
    # In another order, and as images of one channel.
    labels = [*loaded.train.labels, *loaded.validation.labels]
    assert labels != sorted(labels)
    for split in (loaded.train, loaded.validation):
        np.testing.assert_array_equal(split.x, x[split.labels][..., None])
    np.savez(path, x_train=x, x_valid=x[:3], x_test=x[:2], levels=4)
    np.testing.assert_array_equal(data.load("own", path).train.x[..., 0], x)
    np.savez(path, x_train=x * 0.5, x_test=x[:2] * 0.5)
    assert data.load("own", tmp_path, num_validation=0).levels == 0


def test_booleans_are_bits(tmp_path):
    x = np.random.default_rng(0).random((9, 4)) < 0.5
    np.savez(tmp_path / "own.npz", x_train=x, x_test=x.astype(np.int64))
    loaded = data.load("own", tmp_path / "own.npz", num_validation=0)
    assert loaded.levels == 2
    np.testing.assert_array_equal(loaded.test.x, x)
    assert loaded.train.x.dtype == loaded.test.x.dtype == np.uint8


def test_a_tenth_is_held_out_unless_said(tmp_path):
    """Of 50,000 examples and more 5,000, as is customary for MNIST."""
    x = np.arange(43, dtype=np.int64).reshape(43, 1)
    np.savez(tmp_path / "own.npz", x_train=x, x_test=x[:2], levels=43)
    loaded = data.load("own", tmp_path / "own.npz")
    assert (len(loaded.train.x), len(loaded.validation.x)) == (38, 5)
    both = np.concatenate([loaded.train.x, loaded.validation.x])
    np.testing.assert_array_equal(np.sort(both, axis=0), x)
    assert data.num_held_out(None, 60_000) == 5000


ERRORS = {
    "truncated gzip": (
        lambda p: (p / "train-images-idx3-ubyte.gz").write_bytes(
            (p / "train-images-idx3-ubyte.gz").read_bytes()[:-100]
        ),
        r"train-images-idx3-ubyte\.gz is damaged or cut short",
    ),
    "cut data": (
        lambda p: write_idx_cut(p / "train-images-idx3-ubyte.gz"),
        r"train-images.* holds 100 bytes of data, its header says 15680",
    ),
    "wrong magic": (
        lambda p: write_idx(
            p / "train-images-idx3-ubyte.gz", 0x802, np.zeros((1, 28, 28))
        ),
        r"train-images.* has magic number 0x00000802, expected 0x00000803",
    ),
    "label count": (
        lambda p: write_idx(p / "t10k-labels-idx1-ubyte.gz", 0x801, np.zeros(3)),
        r"t10k-labels.* has 3 labels for 6 images",
    ),
    "missing file": (
        lambda p: (p / "t10k-images-idx3-ubyte.gz").unlink(),
        r"t10k-images-idx3-ubyte\(\.gz\) is missing",
    ),
}


def write_idx_cut(path):
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[: 16 + 100]))


@pytest.mark.parametrize("name", ERRORS)
def test_bad_idx_files_are_named(tmp_path, name):
    damage, message = ERRORS[name]
    make_idx_folder(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        data.load("mnist", tmp_path, num_validation=0)


NPZ_ERRORS = {
    "NaN": ({"x_train": np.full((2, 3), np.nan)}, "x_train holds NaN or infinity"),
    "dtype": ({"x_train": np.array(["a", "b"])}, r"x_train has dtype <U1"),
    "range": (
        {"x_train": np.full((2, 3), 300), "x_test": np.zeros((1, 3), int)},
        r"levels run from 0 to 300, outside 0 \.\. 255",
    ),
    "missing": ({"x_train": np.zeros((2, 3), int)}, "lacks x_test"),
    "empty": (
        {"x_train": np.zeros((2, 3), int), "x_test": np.zeros((0, 3), int)},
        "x_test must be an array of examples",
    ),
    "levels": (
        {
            "x_train": np.zeros((2, 3), int),
            "x_test": np.zeros((2, 3), int),
            "levels": 1,
        },
        "levels must be one integer from 2 to 65536",
    ),
    "labels": (
        {
            "x_train": np.zeros((2, 3), int),
            "x_test": np.zeros((2, 3), int),
            "y_train": np.zeros(2),
        },
        "y_train must be 2 integers; got float64",
    ),
    "shapes": (
        {"x_train": np.zeros((2, 3), int), "x_test": np.zeros((2, 4), int)},
        "differ in shape or dtype",
    ),
    "many levels": (
        {
            "x_train": np.zeros((2, 3), int),
            "x_test": np.zeros((2, 3), int),
            "levels": 2**40,
        },
        "levels must be one integer from 2 to 65536",
    ),
    "labels beyond int32": (
        {
            "x_train": np.zeros((2, 3), int),
            "x_test": np.zeros((2, 3), int),
            "y_train": np.asarray([0, 2**32 + 1]),
        },
        "y_train must be from 0 to 65535.*; got 0 to 4294967297",
    ),
    "negative labels": (
        {
            "x_train": np.zeros((2, 3), int),
            "x_test": np.zeros((2, 3), int),
            "y_train": np.asarray([0, -1]),
        },
        "y_train must be from 0 to 65535.*; got -1 to 0",
    ),
}


@pytest.mark.parametrize("name", NPZ_ERRORS)
def test_bad_npz_archives_are_named(tmp_path, name):
    arrays, message = NPZ_ERRORS[name]
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(UserError, match=message):
        data.load("own", tmp_path / "own.npz", num_validation=0)


def test_other_bad_files_are_named(tmp_path):
    (tmp_path / "own.npz").write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"own\.npz is not a readable \.npz"):
        data.load("own", tmp_path / "own.npz", num_validation=0)
    with pytest.raises(UserError, match="does not exist"):
        data.load("mnist", tmp_path / "nowhere", num_validation=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no data set 'mnist': expected IDX"):
        data.load("mnist", tmp_path / "empty", num_validation=0)
    (tmp_path / "chardata.mat").write_bytes(b"no matrix")
    with pytest.raises(UserError, match="no MATLAB file"):
        data.load("omniglot", tmp_path / "chardata.mat", num_validation=0)
    (tmp_path / "b.amat").write_bytes(b"0 1 2\n")
    with pytest.raises(UserError, match="784 zeros and ones a line"):
        files.read_amat(tmp_path / "b.amat")
    np.save(tmp_path / "array.npy", np.zeros((2, 3)))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with zipfile.ZipFile(tmp_path / "notes.npz", "w") as archive:
        archive.writestr("README.txt", "no array")
    for name, message in (
        ("array", "not a readable"),
        ("notes", r"README.txt is no array"),
    ):
        with pytest.raises(UserError, match=message):
            data.load("own", tmp_path / f"{name}.npz", num_validation=0)
    for pixels in (255.0, np.nan, 0.5j, "a"):
        columns = np.full((784, 2), pixels)
        content = {"data": columns, "testdata": columns}
        scipy.io.savemat(tmp_path / "chardata.mat", content)
        with pytest.raises(UserError, match="must be real numbers from 0 to 1"):
            data.load("omniglot", tmp_path / "chardata.mat", num_validation=0)
    make_idx_folder(tmp_path / "empty")
    with pytest.raises(UserError, match=r"the files are in .*empty; give that"):
        data.load("empty", tmp_path, num_validation=0)
    with pytest.raises(UserError, match=r"data\.num-validation must be"):
        data.load("mnist", tmp_path / "empty", num_validation=20)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((0, 28, 28), "no test examples; add some"),
        ((6, 32, 32), r"shape \(28, 28, 1\) and test examples of \(32, 32, 1\)"),
    ],
)
def test_splits_have_examples_alike(tmp_path, shape, message):
    make_idx_folder(tmp_path)
    for end, magic, array in (
        ("images-idx3", 0x803, np.zeros(shape)),
        ("labels-idx1", 0x801, np.zeros(shape[:1])),
    ):
        write_idx(tmp_path / f"t10k-{end}-ubyte.gz", magic, array)
    with pytest.raises(UserError, match=message):
        data.load("mnist", tmp_path, num_validation=0)


def test_cells_of_a_table_are_what_they_look_like(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("1.5\n\n2.5\n" + "3.5\n" * 17)
    found = data.load("own", path, num_validation=0, missing="nan")
    x = np.concatenate([found.train.x, found.test.x])
    assert len(x) == 20
    assert np.isnan(x).sum() == 1
    path.write_text("1.5,1_000\n" + "1.5,2.5\n" * 20)
    with pytest.raises(UserError, match=r"line 1, column 2: '1_000' is no finite"):
        data.load("own", path, num_validation=0)


@pytest.mark.parametrize("name", ["no_such_data_set", "not/a name"])
def test_an_unknown_data_set_is_named(name):
    with pytest.raises(UserError, match="is no known data set"):
        data.load(name, None, num_validation=0)


def test_damaged_records_are_named(shared_data, monkeypatch):
    def corrupted(*arguments):
        raise RuntimeError("Corrupted Riegeli file\nand more")

    folder = require(shared_data / "tfds")
    monkeypatch.setattr(catalogue, "_read", corrupted)
    with pytest.raises(
        UserError, match=r"is damaged \(Corrupted Riegeli file\); remove"
    ):
        data.load("mnist", folder, num_validation=0)


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def refused(*arguments, **how):
        raise PermissionError(13, "Permission denied")

    np.savez(tmp_path / "own.npz", x_train=np.zeros((2, 3)), x_test=np.zeros((2, 3)))
    monkeypatch.setattr(np, "load", refused)
    with pytest.raises(UserError, match="may not be read; change its permissions"):
        data.load("own", tmp_path / "own.npz", num_validation=0)


def test_an_unprepared_data_set_says_how_to_prepare_it(tmp_path):
    (tmp_path / "mnist").mkdir()
    with pytest.raises(UserError, match=r"tfds build mnist --file_format=array_record"):
        data.load("mnist", tmp_path, num_validation=0)


def test_observations_of_levels():
    x = np.asarray([[0, 128, 255]], np.uint8)
    key = jax.random.key(0)
    seen = {
        name: observations.observer(name, levels=256, binarization="static")(key, x)
        for name in ("levels", "grey-bernoulli")
    }
    assert seen["levels"].dtype == np.int32
    np.testing.assert_array_equal(seen["levels"], x)
    np.testing.assert_allclose(seen["grey-bernoulli"], x / 255, rtol=1e-6)


def test_dynamic_binarisation_draws_afresh_with_the_grey_probability():
    x = np.full((20_000, 1), 64, np.uint8)
    draw = observations.observer("binary", levels=256, binarization="dynamic")
    first, second = (np.asarray(draw(jax.random.key(n), x)) for n in range(2))
    assert set(np.unique(first)) == {0.0, 1.0}
    assert (first != second).any()
    p = 64 / 255
    assert abs(first.mean() - p) < 4 * np.sqrt(p * (1 - p) / len(x))


def test_half_of_the_images_are_mirrored_left_to_right():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (2000, 2, 3, 3)).astype(np.uint8)
    observe = observations.observer("levels", levels=256, binarization="static")
    seen = np.asarray(observations.mirrored(observe)(jax.random.key(0), jnp.asarray(x)))
    as_it_is = (seen == x).all((1, 2, 3))
    mirrored = (seen == x[:, :, ::-1]).all((1, 2, 3))
    assert (as_it_is ^ mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(x))
    again = observations.mirrored(observe)(jax.random.key(1), jnp.asarray(x))
    assert (np.asarray(again) != seen).any()


def test_static_binarisation_is_drawn_once(tmp_path):
    make_idx_folder(tmp_path)
    grey = data.load("mnist", tmp_path, num_validation=5)
    first, again = (observations.binarize_once(grey) for _ in range(2))
    np.testing.assert_array_equal(first.train.x, again.train.x)
    assert first.levels == 2
    assert set(np.unique(first.train.x)) == {0, 1}
    sure = grey.train.x == 255
    assert (first.train.x[sure] == 1).all()
    assert (first.train.x[grey.train.x == 0] == 0).all()


def test_held_out_examples_change_no_test_bit(tmp_path):
    make_idx_folder(tmp_path)
    bits = [
        observations.binarize_once(data.load("mnist", tmp_path, num_validation=n))
        for n in (0, 7)
    ]
    np.testing.assert_array_equal(bits[0].test.x, bits[1].test.x)
    together = np.concatenate([bits[1].train.x, bits[1].validation.x])
    np.testing.assert_array_equal(bits[0].train.x, together)


def test_npz_of_zeros_and_ones_has_two_levels(tmp_path):
    x = np.random.default_rng(0).integers(0, 2, (7, 4))
    np.savez(tmp_path / "own.npz", x_train=x, x_test=x)
    assert data.load("own", tmp_path, num_validation=0).levels == 2


def test_an_observation_that_cannot_be_is_refused(tmp_path):
    digits = data.load("digits", None, num_validation=0)
    with pytest.raises(UserError, match="'density' needs floats"):
        observations.require_observable(digits, "density")
    with pytest.raises(UserError, match="needs integer levels"):
        observations.require_observable(digits._replace(levels=0), "levels")


def require(folder):
    if not folder.exists():
        pytest.skip(f"{folder.name}: the original files are not here")
    return folder


def test_the_original_mnist(shared_data):
    loaded = data.load("mnist", require(shared_data / "mnist"), num_validation=10_000)
    sizes = [len(split.x) for split in (loaded.train, loaded.validation, loaded.test)]
    assert sizes == [50_000, 10_000, 10_000]
    np.testing.assert_allclose(loaded.test.x.mean() / 255, 0.13251, atol=1e-5)
    assert loaded.train.labels[:5].tolist() == [5, 0, 4, 1, 9]


def test_the_original_fashion_mnist(shared_data):
    folder = require(shared_data / "fashion_mnist")
    loaded = data.load("fashion_mnist", folder, num_validation=0)
    assert loaded.validation is None
    np.testing.assert_allclose(loaded.train.x.mean() / 255, 0.28604, atol=1e-5)


def test_the_original_binarized_mnist(shared_data):
    folder = require(shared_data / "binarized_mnist")
    loaded = data.load("binarized_mnist", folder, num_validation=0)
    splits = (loaded.train, loaded.validation, loaded.test)
    assert [len(split.x) for split in splits] == [50_000, 10_000, 10_000]
    means = [split.x.mean() for split in splits]
    np.testing.assert_allclose(means, [0.13056, 0.13113, 0.13251], atol=1e-5)


@pytest.mark.slow
def test_a_prepared_tfds_set_equals_the_original_files(shared_data):
    prepared = data.load("mnist", require(shared_data / "tfds"), num_validation=0)
    original = data.load("mnist", require(shared_data / "mnist"), num_validation=0)
    # TFDS shuffles its records: the same multiset.
    for a, b in ((prepared.train, original.train), (prepared.test, original.test)):
        rows = [
            np.sort(
                np.concatenate(
                    [s.x.reshape(len(s.x), -1), s.labels[:, None].astype(np.uint8)], 1
                )
                .view("V785")
                .ravel()
            )
            for s in (a, b)
        ]
        assert (rows[0] == rows[1]).all()


@pytest.mark.parametrize("kind", ["csv", "npz"])
@pytest.mark.parametrize(("centre", "kept"), [(1e8, False), (1e3, True)])
def test_reals_that_float32_would_merge_are_refused(tmp_path, kind, centre, kept):
    x = np.random.default_rng(0).normal(size=(50, 3))
    x[:, 1] += centre
    if kind == "npz":
        np.savez(tmp_path / "own.npz", x_train=x, x_test=x)
    else:
        np.savetxt(tmp_path / "own.csv", x, delimiter=",", fmt="%.17g")
    path = tmp_path / f"own.{kind}"
    refused = pytest.raises(UserError, match=r"number 2 of each example .* float32")
    with contextlib.nullcontext() if kept else refused:
        data.load("own", path, num_validation=0)


def test_reals_are_checked_as_training_will_see_them(tmp_path):
    x = np.full((4, 2), 0.5)
    x[0, 0] = 1e39
    np.savez(tmp_path / "own.npz", x_train=x, x_test=x)
    with pytest.raises(UserError, match="x_train has numbers beyond float32"):
        data.load("own", tmp_path, num_validation=0)
    x[0, 0] = 1.0 - 1e-9
    np.savez(tmp_path / "own.npz", x_train=x, x_test=x)
    loaded = data.load("own", tmp_path, num_validation=0).train.x
    assert loaded.dtype == np.float32
    assert loaded.max() == 1.0


def test_missing_cells_of_a_table(tmp_path):
    rows = ["a,b", *["1,2", "3,5"] * 5, "nan,2", ",NaN"]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    loaded = data.load("table", tmp_path, num_validation=0, missing="nan")
    x = np.concatenate([loaded.train.x, loaded.test.x])
    assert np.isnan(x).sum(axis=0).tolist() == [2, 1]
    with pytest.raises(UserError, match="line 12, column 1: 'nan' is no finite number"):
        data.load("table", tmp_path, num_validation=0)


@pytest.mark.parametrize("mark", ["NA", "N/A", "null", "None", " ? ", ""])
def test_what_tables_write_for_a_missing_number(tmp_path, mark):
    rows = ["a,b", *["1,2", "3,5"] * 5, f"{mark},4"]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    loaded = data.load("table", tmp_path, num_validation=0, missing="nan")
    x = np.concatenate([loaded.train.x, loaded.test.x])
    assert np.isnan(x).sum(axis=0).tolist() == [1, 0]
    with pytest.raises(UserError, match=r"like vae-tabular model the rest"):
        data.load("table", tmp_path, num_validation=0)


COLUMNS = {
    "constant": (lambda n: np.full(n, 4.5), r"column 1 \('a'\) is 4\.5 in every row"),
    "empty": (lambda n: np.full(n, np.nan), r"column 1 \('a'\) is empty"),
    "index": (
        lambda n: np.arange(n),
        r"column 1 \('a'\) counts the rows; .* index=False",
    ),
    "index with a gap": (
        lambda n: np.where(np.arange(n) == 0, np.nan, np.arange(n)),
        r"column 1 \('a'\) counts the rows",
    ),
    "from one": (lambda n: 1 + np.arange(n), r"column 1 \('a'\) counts the rows"),
}


def test_names_that_do_not_fit_and_years_are_no_fault(tmp_path):
    years = [f"{year},{year % 7}.5,1.{year % 3}" for year in range(1990, 2010)]
    for names in ("a,b", "# measured in May", "a,b,c,d"):
        (tmp_path / "table.csv").write_text("\n".join([names, *years]))
        loaded = data.load("table", tmp_path, num_validation=0)
        assert loaded.train.x.shape == (18, 3)


@pytest.mark.parametrize("names", [",0,1", ",0"])
def test_an_index_that_pandas_counts_is_no_number(tmp_path, names):
    rows = [f"{place},{place % 3}.25,{place}.5" for place in range(12)]
    rows = [row.split(",")[: names.count(",") + 1] for row in rows]
    lines = [names, *(",".join(row) for row in rows)]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    for missing in ("none", "nan"):
        with pytest.raises(UserError, match=r"column 1 counts the rows"):
            data.load("table", tmp_path, missing=missing)


def test_names_that_pandas_counts_are_no_numbers(tmp_path):
    """As a first example they would stretch the unit of every column."""
    rows = [f"{place}.5,{place % 3}.25" for place in range(12)]
    (tmp_path / "table.csv").write_text("\n".join(["0,1", *rows]))
    loaded = data.load("table", tmp_path, num_validation=0)
    both = np.concatenate([loaded.train.x, loaded.test.x])
    assert both.shape == (12, 2)
    assert both.min() == 0.25


WORDS = {
    "a column of words": (
        [f"{n},red" for n in range(12)],
        "remove the column: 12 of",
    ),
    "dates": (
        [f"2026-01-{n:02d} 10:00,1" for n in range(12)],
        "remove the column: 12 of",
    ),
    "a short row": (["1,x", "1,2", "3"], "mend or remove the row"),
    "one word": (["1,2"] * 6 + ["1,x"] + ["3,4"] * 6, "mend or remove the row"),
    "spaces": (
        [f"{n}.5 {n}.25" for n in range(12)],
        "',' between cells and not spaces",
    ),
}


@pytest.mark.parametrize("kind", WORDS)
def test_what_to_do_about_words(tmp_path, kind):
    rows, remedy = WORDS[kind]
    (tmp_path / "table.csv").write_text("\n".join(["a,b", *rows]))
    with pytest.raises(UserError, match=f"is no finite number; .*{remedy}"):
        data.load("table", tmp_path)


@pytest.mark.parametrize("kind", COLUMNS)
def test_columns_that_measure_nothing_are_refused(tmp_path, kind):
    """A density gains as much as one likes by them."""
    column, message = COLUMNS[kind]
    other = np.random.default_rng(0).normal(size=12)
    table = np.stack([column(12), other], axis=1)
    np.savetxt(tmp_path / "table.csv", table, delimiter=",", header="a,b", comments="")
    with pytest.raises(UserError, match=message):
        data.load("table", tmp_path, num_validation=0, missing="nan")


def test_a_number_of_levels_is_not_guessed(tmp_path):
    """Of 4 levels taken for 256 the baseline would be too weak."""
    x = np.random.default_rng(0).integers(0, 4, (9, 3))
    path = tmp_path / "own.npz"
    np.savez(path, x_train=x, x_test=x)
    with pytest.raises(UserError, match=r"integers up to 3, of .* store levels=4, or"):
        data.load("own", tmp_path, num_validation=0)
    np.savez(path, x_train=x - 2, x_test=x)
    with pytest.raises(UserError, match="levels run from -2 to 3, outside 0"):
        data.load("own", tmp_path, num_validation=0)
    np.savez(path, x_train=x, x_test=x, levels=4)
    assert data.load("own", tmp_path, num_validation=0).levels == 4
    np.savez(path, x_train=x + 125, x_test=x)
    assert data.load("own", tmp_path, num_validation=0).levels == 256
    np.savez(path, x_train=x % 2, x_test=x % 2)
    assert data.load("own", tmp_path, num_validation=0).levels == 2


def test_cifar_batches_are_read_in_order(tmp_path):
    """Planes of red, green and blue, a label before each image."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (7, 32, 32, 3)).astype(np.uint8)
    labels = np.arange(7, dtype=np.uint8)
    rows = np.concatenate(
        [labels[:, None], images.transpose(0, 3, 1, 2).reshape(7, -1)], axis=1
    )
    batches = {f"data_batch_{n}": rows[n - 1 : n] for n in range(1, 5)}
    batches |= {"data_batch_5": rows[4:6], "test_batch": rows[6:]}
    for name, part in batches.items():
        (tmp_path / f"{name}.bin").write_bytes(part.tobytes())
    # Left beside its packed form, a batch is one batch.
    packed = gzip.compress((tmp_path / "data_batch_1.bin").read_bytes())
    (tmp_path / "data_batch_1.bin.gz").write_bytes(packed)
    dataset = data.load("cifar10", tmp_path, num_validation=1)
    np.testing.assert_array_equal(dataset.train.x, images[:5])
    np.testing.assert_array_equal(dataset.validation.x, images[5:6])
    np.testing.assert_array_equal(dataset.test.x, images[6:])
    assert dataset.train.labels.tolist() == [0, 1, 2, 3, 4]
    assert dataset.levels == 256
    (tmp_path / "test_batch.bin").write_bytes(rows[6:].tobytes()[:-1])
    with pytest.raises(UserError, match=r"3072 bytes, no multiple of 3073"):
        data.load("cifar10", tmp_path, num_validation=0)
    rows[6, 0] = 10
    (tmp_path / "test_batch.bin").write_bytes(rows[6:].tobytes())
    with pytest.raises(UserError, match="labels above 9"):
        data.load("cifar10", tmp_path, num_validation=0)
    # A training set of four fifths would pass for the whole.
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(UserError, match=r"data_batch_3.bin\(.gz\) is missing"):
        data.load("cifar10", tmp_path, num_validation=0)
