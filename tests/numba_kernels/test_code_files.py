"""Codes in files: what is written is read, mapped; what is damaged or of another kind is refused."""

import itertools
import mmap
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from numba_kernels import Codes, Grid, ModelFileError, container, load, quantize
from numba_kernels.codebook import Codewords, learned_codewords
from numba_kernels.run.code_file import load_codes, save_codes, save_parts

from .test_search import grids

DRAW = np.random.default_rng(0)
VALUES = DRAW.standard_normal((20, 9)).astype(np.float32)


@pytest.mark.parametrize("bits", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_codes_come_back_mapped(bits, tmp_path):
    for name, grid in grids(9, bits):
        codes = quantize(VALUES, grid)
        codes.save(tmp_path / name)
        for check in (False, True):
            found = Codes.load(tmp_path / name, check=check)
            assert np.array_equal(found.values(), codes.values())
            assert found.grid.spec.to_json(np.ndarray.tolist) == grid.spec.to_json(np.ndarray.tolist)
        base = found.packed
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(base.obj if isinstance(base, memoryview) else base, mmap.mmap)
        assert codes.save(tmp_path / "again").read_bytes() == (tmp_path / name).read_bytes()
        queries = VALUES[:2]
        assert np.array_equal(found.search(queries, 3)[1], codes.search(queries, 3)[1])


def test_what_is_written_in_parts_is_the_same_file_and_none_where_parts_fail(tmp_path, monkeypatch):
    for name, grid in grids(9, 2):
        whole = quantize(VALUES, grid).save(tmp_path / name)
        parts = [quantize(VALUES[rows], grid) for rows in (slice(0, 7), slice(7, 7), slice(7, 20))]
        assert save_parts(iter(parts), 20, tmp_path / "parts").read_bytes() == whole.read_bytes(), name
        header, arrays = container.read(whole.read_bytes())
        assert container.write(arrays, header.metadata) == whole.read_bytes()  # in memory
    words = learned_codewords(VALUES, 4, words=7)
    some = [replace(words, packed=words.packed[rows]) for rows in (slice(0, 5), slice(5, 20))]
    assert save_parts(some, 20, tmp_path / "parts").read_bytes() == save_codes(words, tmp_path / "words").read_bytes()
    for rows in (19, 21):
        with pytest.raises(ValueError, match=f"not {rows} rows"):
            save_parts(parts, rows, tmp_path / "none")
    assert not (tmp_path / "none").exists() and not list(tmp_path.glob(".lowbit*"))


def test_of_what_is_written_one_part_is_in_memory(tmp_path):
    part = quantize(np.zeros((1 << 14, 64), np.float32), Grid(64, 2))
    tracemalloc.start()
    save_parts(itertools.repeat(part, 64), 64 << 14, tmp_path / "codes")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "codes").stat().st_size > 64 * part.packed.nbytes and peak < 2 * part.packed.nbytes


def test_codes_go_through_a_pipe(tmp_path):
    reader, writer = os.pipe()
    codes = quantize(VALUES, Grid(9, 2))
    codes.save(f"/dev/fd/{writer}")
    os.close(writer)
    assert Path(f"/dev/fd/{reader}").read_bytes() == codes.save(tmp_path / "codes").read_bytes()
    os.close(reader)


def test_words_of_a_codebook_come_back(tmp_path):
    words = learned_codewords(VALUES, 4, words=7)
    save_codes(words, tmp_path / "words")
    found = load_codes(tmp_path / "words", check=True)
    assert np.array_equal(found.values(), words.values()) and found.columns == 9
    with pytest.raises(ModelFileError, match="words of a codebook"):
        Codes.load(tmp_path / "words")


def test_words_are_the_nearest_and_do_not_depend_on_what_else_is_coded():
    words = learned_codewords(VALUES, 3, words=5, seed=1)
    pieces = VALUES.reshape(20, 3, 3)
    distances = ((pieces[:, :, None] - words.book[None]) ** 2).sum(-1)
    np.testing.assert_allclose(
        np.take_along_axis(distances, words.packed[..., None], 2)[..., 0], distances.min(-1), rtol=1e-4, atol=1e-5
    )
    assert np.array_equal(words.packed, learned_codewords(VALUES, 3, words=5, seed=1).packed)
    assert np.array_equal(words.rows([3, 3]).values(), words.values()[[3, 3]])


def test_as_many_words_as_different_pieces_lose_nothing():
    values = np.tile(np.eye(4, dtype=np.float32), (5, 2))
    words = learned_codewords(values, 4, words=20)
    np.testing.assert_allclose(words.values(), values, atol=1e-6)


def test_a_book_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        Codewords(np.zeros((2, 3), np.uint8), np.zeros((3, 4, 2), np.float32), 4)
    with pytest.raises(ValueError, match="finite"):
        Codewords(np.zeros((2, 1), np.uint8), np.full((1, 4, 2), np.nan, np.float32), 2)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "codes"
    quantize(VALUES, Grid(9, 2)).save(path)
    whole = path.read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    for at in (9, length - 40, length + 1):  # the header twice, the scales
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ModelFileError):
            Codes.load(path)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # packed rows: where they are asked to be checked
    Codes.load(path)
    with pytest.raises(ModelFileError, match="'packed' is damaged"):
        Codes.load(path, check=True)
    for part in (b"", whole[:5], whole[:-1], whole + b"\0"):
        path.write_bytes(part)
        with pytest.raises(ModelFileError):
            Codes.load(path)
    with pytest.raises(FileNotFoundError):
        Codes.load(tmp_path / "none")


def test_models_and_codes_are_told_apart(tmp_path):
    quantize(VALUES, Grid(9, 2)).save(tmp_path / "codes")
    with pytest.raises(ModelFileError):
        load(tmp_path / "codes")
    with pytest.raises(ModelFileError, match="holds no codes"):
        Codes.load("tests/data/version3.safetensors")
