"""The compiled library: where it serves, and what happens where it cannot be compiled."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from hpsearch.kernels import activations, slot_inputs, slots
from hpsearch.kernels import library as kernels
from hpsearch.kernels.library import KernelsError, compiled_for
from hpsearch.nn import radial

OWN = f"kernels-{os.geteuid()}"
"""The folder of this user's libraries in a cache."""


@pytest.fixture(autouse=True)
def float64():
    """Not here: what is compiled is float32's."""


def test_float32_on_the_cpu_is_compiled(library):
    assert compiled_for(torch.zeros(1)) is library
    assert compiled_for(torch.zeros(1).double()) is None
    assert compiled_for(torch.zeros(1, device="meta")) is None
    assert kernels.implementation() == f"compiled, {library._name}"


def test_off_means_torch(afresh, monkeypatch):
    monkeypatch.setenv("HPSEARCH_KERNELS", "off")
    assert compiled_for(torch.zeros(1)) is None
    assert kernels.implementation() == "torch operations, because HPSEARCH_KERNELS is 'off'"
    assert not list(afresh.iterdir())


def test_another_word_is_refused(afresh, monkeypatch):
    monkeypatch.setenv("HPSEARCH_KERNELS", "maybe")
    with pytest.raises(KernelsError, match="must be 'on' or 'off' or not set, got 'maybe'"):
        kernels.implementation()


def test_without_a_compiler_torch_serves_and_says_why(afresh, monkeypatch):
    monkeypatch.setenv("PATH", str(afresh))
    assert compiled_for(torch.zeros(1)) is None
    assert "there is no C compiler 'cc' on the PATH" in kernels.implementation()


def test_on_refuses_to_go_without(afresh, monkeypatch):
    monkeypatch.setenv("PATH", str(afresh))
    monkeypatch.setenv("HPSEARCH_KERNELS", "on")
    with pytest.raises(KernelsError, match="'on', but there is no C compiler"):
        kernels.implementation()


def test_a_compiler_that_fails_is_quoted(afresh, monkeypatch):
    folder = afresh / "bin"
    folder.mkdir()
    compiler = folder / "cc"
    compiler.write_text(
        "#!/bin/sh\n[ $1 = --version ] && exit 0\necho x: error: no such thing >&2\nexit 3\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    assert "'cc' failed with exit code 3: x: error: no such thing" in kernels.implementation()


def test_where_no_folder_can_be_written_torch_serves_and_says_why(afresh, monkeypatch):
    (afresh / "file").write_text("")
    monkeypatch.setenv("HPSEARCH_CACHE", str(afresh / "file"))
    monkeypatch.setenv("HOME", str(afresh / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(afresh / "file"))
    assert kernels.implementation().startswith("torch operations, because ")


NOT_OPTIMISED = """
from hpsearch.kernels import library as kernels
kernels._OPTIONS = ["-O0" if part == "-O3" else part for part in kernels._OPTIONS]
"""
"""Halves the time of a compilation, where the library's own speed does not matter."""


@pytest.fixture
def quickly_compiled(library, cache_folder, monkeypatch):
    """A library in another cache than the test's, which compiles as quickly."""
    monkeypatch.setattr(kernels, "_OPTIONS", kernels._OPTIONS)
    exec(NOT_OPTIMISED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPSEARCH_CACHE", str(cache_folder))
        return kernels._load()


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "text"])
def test_a_damaged_library_is_compiled_again(quickly_compiled, afresh, damage):
    whole = Path(quickly_compiled._name).read_bytes()
    middle = len(whole) // 2
    content = {
        "empty": b"",
        "cut": whole[:middle],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "text": b"not a library",
    }[damage]
    folder = afresh / OWN
    folder.mkdir()
    path = folder / Path(quickly_compiled._name).name
    path.write_bytes(content)
    assert kernels.implementation() == f"compiled, {path}"
    assert [file.name for file in folder.iterdir()] == [path.name]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["somebody else's", "for all to write", "a link"])
def test_a_planted_library_is_not_loaded(quickly_compiled, afresh, monkeypatch, tmp_path, fault):
    """A file that somebody else can change is left alone; a library of this user is made."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = afresh / OWN
    folder.mkdir(parents=True)
    path = folder / Path(quickly_compiled._name).name
    path.write_bytes(Path(quickly_compiled._name).read_bytes())
    path.chmod(0o700)
    if fault == "a link":
        path.rename(folder / "elsewhere")
        path.symlink_to(folder / "elsewhere")
    elif fault == "for all to write":
        path.chmod(0o722)
    elif os.geteuid():
        pytest.skip("only root can give a file away")
    else:
        os.chown(path, 12345, 12345)
    planted = path.lstat()
    assert kernels.implementation() == f"compiled, {path}"
    made = path.lstat()
    assert made.st_ino != planted.st_ino
    assert (made.st_uid, made.st_mode & 0o777) == (os.geteuid(), 0o700)


@pytest.mark.slow
def test_a_folder_that_cannot_be_used_leaves_the_home_s_and_then_a_private_one(
    quickly_compiled, afresh, monkeypatch, tmp_path
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (afresh / OWN).write_text("somebody else's")
    own = tmp_path / "home" / ".cache" / "hpsearch" / OWN
    assert kernels.implementation() == f"compiled, {own / Path(quickly_compiled._name).name}"
    kernels._library.cache_clear()
    shutil.rmtree(own)
    own.write_text("as well")
    said = kernels.implementation()
    assert said.startswith("compiled, ") and "hpsearch-kernels-" in said
    assert not Path(said.removeprefix("compiled, ")).exists()
    assert kernels._library().hpsearch_aggregate


@pytest.mark.slow
def test_a_user_without_a_home_gets_a_private_library(quickly_compiled, afresh, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(kernels, "home_cache_directory", no_home)
    (afresh / OWN).write_text("somebody else's")
    assert "hpsearch-kernels-" in kernels.implementation()


@pytest.mark.slow
def test_processes_that_compile_at_once(library, afresh):
    """Each of them computes; one library is left."""
    script = f"import torch{NOT_OPTIMISED}print(kernels.implementation())"
    started = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = [process.communicate(timeout=120)[0].strip() for process in started]
    (path,) = (afresh / OWN).iterdir()
    assert said == [f"compiled, {path}"] * 3


SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize=alignment", "-fno-sanitize-recover=all")


@pytest.fixture
def sanitizers(library, tmp_path):
    """Options of the compiler, which comes with these libraries or without them."""
    program = ["-xc", "-", "-o", str(tmp_path / "nothing")]
    nothing = "int main(void) { return 0; }"
    tried = subprocess.run(["cc", *SANITIZE, *program], input=nothing, text=True)
    if tried.returncode:
        pytest.skip("the compiler's sanitizers are not installed")
    return SANITIZE


def touch_everything(folder, processor, sanitizers):
    """Compile and run memory.c for a processor."""
    program = folder / "memory"
    options = ["-O1", f"-march={processor}", "-std=gnu11", "-fopenmp", *sanitizers]
    source = Path(__file__).with_name("memory.c")
    command = ["cc", *options, str(source), "-o", str(program), "-lm"]
    compiled = subprocess.run(command, capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    run = [str(program), "0", "40"]
    ended = subprocess.run(run, capture_output=True, text=True, env=environment, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "clean\n"), ended.stderr


@pytest.mark.slow
def test_nothing_is_touched_beyond_the_arrays(tmp_path, sanitizers):
    touch_everything(tmp_path, "native", sanitizers)


@pytest.mark.slow
def test_nor_with_vectors_of_older_processors(tmp_path, sanitizers, older_processor):
    touch_everything(tmp_path, older_processor, sanitizers)


# --- Types that Python and C have to agree on


def test_signatures_are_read_from_the_source(library):
    source = kernels.SOURCE.read_text()
    found = kernels.signatures(source)
    called = {
        f"hpsearch_{name}"
        for name in ("scratch_bytes", "aggregate", "weights_scratch_bytes", "convolve")
    }
    assert called < set(found)
    # What the library offers under our name, each once.
    offered = re.findall(r"^\w+ \*?(hpsearch_\w+)\(", source, re.MULTILINE)
    assert sorted(found) == sorted(offered)
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    assert found["hpsearch_scratch_bytes"] == (number, [pointer, number])
    assert found["hpsearch_aggregate"] == (None, [*[pointer] * 5, number])
    assert found["hpsearch_convolve_inputs"] == (None, [*[pointer] * 9, number])
    assert found["hpsearch_radial_scratch_bytes"] == (number, [pointer])
    assert library.hpsearch_aggregate.argtypes == [*[pointer] * 5, number]
    assert library.hpsearch_radial_scratch_bytes.restype is number


def test_an_argument_of_another_type_is_not_guessed():
    with pytest.raises(KeyError, match="float"):
        kernels.signatures("void hpsearch_scale(const float *x, float by)\n{\n}\n")


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("Softplus", activations.SoftplusTable),
        ("Radial", radial._Table),
        ("SlotTable", slot_inputs._Table),
        ("Weights", slots._Weights),
        ("Neighbourhoods", slots._Table),
    ],
)
def test_tables_have_the_fields_of_the_source_in_its_order(name, table):
    [body] = re.findall(
        rf"typedef struct {{([^}}]*)}} {name};", kernels.SOURCE.read_text(), re.DOTALL
    )
    types = {"int64_t": ctypes.c_int64, "float": ctypes.c_float}
    types |= {"Softplus": activations.SoftplusTable}
    expected = []
    for declaration in re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL).split(";")[:-1]:
        kind, names = declaration.replace("const", "").split(maxsplit=1)
        for each in names.split(","):
            is_pointer = "*" in each
            expected.append((each.strip(" *"), ctypes.c_void_p if is_pointer else types[kind]))
    assert list(table._fields_) == expected
