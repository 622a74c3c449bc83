"""The same recipe under two sets of processor kernels gives the same numbers."""

from processors import AVX2, differences, run


def test_kernels_of_another_processor_change_nothing_that_is_published(tmp_path):
    files = tmp_path / "native.npz", tmp_path / "avx2.npz"
    started = run(files[0]), run(files[1], **AVX2)
    assert [process.wait() for process in started] == [0, 0]
    found = differences(*files)
    assert {name: largest for name, largest in found.items() if largest > 1e-6} == {}
    assert len(found) > 100
