"""The C source of a file holds its bytes and test vectors, and its `main` tells right outputs from wrong ones."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from collabopt.deploy import c_source
from collabopt.tflite import convert, interpreter, micro

C, CPP = shutil.which("cc"), shutil.which("g++")

DUMP = """
#include <stdio.h>
#include "{id}.h"
#include "{id}_test_vectors.h"
int main(void) {{
  if ((unsigned long)(void *){id} % 16) return 1;
  fwrite({id}, 1, {id}_bytes, stdout);
  fwrite({id}_input_0, sizeof *{id}_input_0, {ID}_EXAMPLES * {ID}_INPUT_0_SIZE, stdout);
  fwrite({id}_output, sizeof *{id}_output, {ID}_EXAMPLES * {ID}_OUTPUT_SIZE, stdout);
  return 0;
}}
"""

BOARD = """
#pragma once
// Stands for TensorFlow Lite Micro: returns the expected outputs of the test vectors, wrong by WRONG.
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include "{id}_test_vectors.h"
enum TfLiteStatus {{ kTfLiteOk }};
#define TF_LITE_ENSURE_STATUS(call) if ((call) != kTfLiteOk) return (call)
using Value = std::remove_const_t<std::remove_extent_t<decltype({id}_output)>>;
struct TfLiteTensor {{ size_t bytes; struct {{ char* raw; }} data; }};
inline void MicroPrintf(const char* text, ...) {{
  va_list values; va_start(values, text); std::vprintf(text, values); va_end(values); std::puts("");
}}
namespace tflite {{
inline void InitializeTarget() {{}}
inline const void* GetModel(const unsigned char* content) {{ return content; }}
template <int n> struct MicroMutableOpResolver {{ {methods} }};
struct MicroInterpreter {{
  template <int n> MicroInterpreter(const void*, MicroMutableOpResolver<n>&, uint8_t*, int) {{}}
  TfLiteStatus AllocateTensors() {{ return kTfLiteOk; }}
  size_t arena_used_bytes() {{ return 1; }}
  TfLiteTensor* input(int) {{ return &in; }}
  TfLiteTensor* output(int) {{ return &out; }}
  TfLiteStatus Invoke() {{
    for (int i = 0; i < {ID}_OUTPUT_SIZE; ++i) found[i] = {id}_output[count * {ID}_OUTPUT_SIZE + i];
    if (count++ == 3) found[{ID}_OUTPUT_SIZE - 1] += (found[0] > 0 ? -1 : 1) * WRONG;
    return kTfLiteOk;
  }}
  int count = 0;
  std::remove_const_t<std::remove_reference_t<decltype({id}_input_0[0])>> given[{ID}_INPUT_0_SIZE];
  std::remove_const_t<std::remove_reference_t<decltype({id}_output[0])>> found[{ID}_OUTPUT_SIZE];
  TfLiteTensor in{{sizeof given, {{reinterpret_cast<char*>(given)}}}};
  TfLiteTensor out{{sizeof found, {{reinterpret_cast<char*>(found)}}}};
}};
}}
"""


@pytest.fixture(scope="module")
def examples() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 1, (10, 8, 8, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def make_sources(small_cnn, examples):
    """The file of a format, its test vectors, and the C source by file name."""

    def make(format: str, name: str = "2-bit kws"):
        content = convert.convert(small_cnn(), format, examples, ["softmax"])
        vectors = interpreter.make_test_vectors(content, examples)
        return content, vectors, c_source.make_sources(name, content, vectors)

    return make


def compile_and_run(folder: Path, *command: str) -> subprocess.CompletedProcess:
    subprocess.run([*command, "-Wall", "-Wextra", "-Werror", "-o", "program"], cwd=folder, check=True)
    return subprocess.run([folder / "program"], capture_output=True, check=False)


@pytest.mark.skipif(C is None, reason="no C compiler")
@pytest.mark.parametrize("format", ["int8", "int16x8", "float32"])
def test_arrays_are_the_bytes_of_the_file_and_the_test_vectors(make_sources, tmp_path, format):
    content, vectors, sources = make_sources(format)
    for name, text in sources.items():
        (tmp_path / name).write_text(text, encoding="ascii")
    names = {"id": "model_2_bit_kws", "ID": "MODEL_2_BIT_KWS"}
    (tmp_path / "dump.c").write_text(DUMP.format(**names))
    done = compile_and_run(tmp_path, C, "-std=c11", "-pedantic", *sorted(path.name for path in tmp_path.glob("*.c")))
    assert done.returncode == 0
    assert done.stdout == content + vectors["input"].tobytes() + vectors["output"].tobytes()


@pytest.mark.skipif(C is None or CPP is None, reason="no C++ compiler")
@pytest.mark.parametrize(
    ("format", "wrong", "passes"),
    [
        *(("int8", "0", True), ("int8", "1", True), ("int8", "2", False)),
        *(("float32", "1e-6", True), ("float32", "1e-2", False), ("float32", "NAN", False)),
    ],
)
def test_main_passes_if_outputs_agree_and_fails_if_not(make_sources, tmp_path, format, wrong, passes):
    content, _, sources = make_sources(format)
    for name, text in sources.items():
        (tmp_path / name).write_text(text, encoding="ascii")
    methods = [micro.get_method(operator) for operator in micro.list_operator_kinds(content)]
    stub = " ".join(f"TfLiteStatus {method}() {{ return kTfLiteOk; }}" for method in methods)
    names = {"id": "model_2_bit_kws", "ID": "MODEL_2_BIT_KWS", "methods": stub}
    for header in re.findall(r'"(tensorflow/.*)"', sources["model_2_bit_kws_main.cc"]):
        (tmp_path / header).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / header).write_text('#include "board.h"\n')
    (tmp_path / "board.h").write_text(f"#include <cmath>\n#include <type_traits>\n{BOARD.format(**names)}")
    for path in sorted(tmp_path.glob("*.c")):
        subprocess.run([C, "-std=c11", "-c", path.name], cwd=tmp_path, check=True)
    objects = [path.name for path in tmp_path.glob("*.o")]
    flags = ["-std=c++17", "-I.", f"-DWRONG={wrong}"]
    done = compile_and_run(tmp_path, CPP, *flags, "model_2_bit_kws_main.cc", *objects)
    assert (done.returncode == 0) == passes
    assert done.stdout.decode().splitlines()[-2:] == (
        ["10 of 10 test vectors agree", "PASS"] if passes else ["9 of 10 test vectors agree", "FAIL"]
    )


def test_main_adds_the_operators_of_the_file_and_its_memory(make_sources):
    content, _, sources = make_sources("int8")
    text = sources["model_2_bit_kws_main.cc"]
    methods = [micro.get_method(operator) for operator in micro.list_operator_kinds(content)]
    assert re.findall(r"resolver\.(Add\w+)\(\)", text) == methods
    assert f"kOperators = {len(methods)};" in text
    assert f"kArenaBytes = {micro.estimate_arena(content)[0]};" in text


def test_a_file_that_microcontrollers_cannot_run_has_no_source(make_sources):
    _, _, sources = make_sources("float16")
    assert set(sources.values()) == {None}
    assert set(sources) == set(make_sources("int8")[2])


@given(st.text(max_size=20))
@example("2nd")
@example("__x__")
@example("float")
@example("")
@example("モデル")
@example("speech_commands-ds_cnn_l")
def test_any_name_becomes_an_identifier(name):
    found = c_source.make_identifier(name)
    assert re.fullmatch(r"model(_[A-Za-z0-9]+)*", found)
    assert found.isascii()


def test_a_name_ends_no_comment(small_cnn, examples):
    content = convert.convert(small_cnn(), "float32")
    vectors = interpreter.make_test_vectors(content, examples)
    for text in c_source.make_sources("a\n#error */ \\", content, vectors).values():
        assert "\n#error" not in text
        assert not re.search(r"\\$", text, re.MULTILINE)
