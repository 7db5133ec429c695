"""Files for other runtimes compute the same as the float32 file, in the same interface as LiteRT."""

import nbformat
import numpy as np
import papermill
import pytest
from example_files import make_file, make_inputs, make_network

from collabopt.config.formats import FORMATS
from collabopt.datasets import Split
from collabopt.tflite import convert, interpreter, latency, other_runtimes


def make(name: str) -> bytes:
    for package in FORMATS[name].packages:
        pytest.importorskip(package)
    if name == "onnx":
        return other_runtimes.convert_to_onnx(make_file("float32"))
    return other_runtimes.convert_to_openvino(make_file("float32"), name, make_inputs(make_network(), 20))


@pytest.mark.parametrize(
    ("name", "tolerance"), [("onnx", 1e-5), ("openvino", 1e-5), ("openvino_fp16", 2e-3), ("openvino_int8", 0.2)]
)
def test_outputs_are_those_of_the_float32_file(name, tolerance, capfd):
    inputs, content = make_inputs(make_network(), 20, seed=1), make(name)
    assert capfd.readouterr() == ("", "")
    assert not other_runtimes.is_tflite(content)
    expected = interpreter.run_or_refuse(make_file("float32"), inputs)
    found = interpreter.run_or_refuse(content, inputs)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()
    assert (tolerance == 1e-5) == np.allclose(found, expected, rtol=1e-5, atol=1e-6)
    split = Split(inputs, np.zeros(20))
    np.testing.assert_array_equal(interpreter.score_examples(content, split, lambda _, outputs: outputs, 2), found)
    rows = latency.measure_latency({"float32": make_file("float32"), name: content}, rounds=2)
    assert (rows > 0).all(axis=None)


@pytest.mark.parametrize("format", convert.STANDARD)
def test_tflite_files_are_told_from_those_of_other_runtimes(format):
    assert other_runtimes.is_tflite(make_file(format))


def test_what_openvino_cannot_read_is_refused():
    pytest.importorskip("openvino")
    with pytest.raises(convert.ConversionRefused, match="OpenVINO fails: "):
        other_runtimes.convert_to_openvino(b"TFL3", "openvino")


def test_what_tf2onnx_cannot_read_is_refused():
    pytest.importorskip("tf2onnx")
    with pytest.raises(convert.ConversionRefused, match="tf2onnx fails: "):
        other_runtimes.convert_to_onnx(b"\0" * 64)


def test_nncf_quantizes_models_with_one_input():
    pytest.importorskip("nncf")
    inputs = {"a": np.zeros((2, 3), np.float32), "b": np.zeros((2, 3), np.float32)}
    with pytest.raises(convert.ConversionRefused, match="several inputs are not quantized"):
        other_runtimes.convert_to_openvino(make_file("float32"), "openvino_int8", inputs)


def test_nncf_shows_no_widget_in_a_notebook(tmp_path):
    pytest.importorskip("nncf")
    np.save(tmp_path / "inputs.npy", make_inputs(make_network(), 20))
    (tmp_path / "float32.tflite").write_bytes(make_file("float32"))
    cell = (
        "import numpy as np, pathlib, rich\n"
        "from collabopt.tflite import other_runtimes\n"
        "content = pathlib.Path('float32.tflite').read_bytes()\n"
        "other_runtimes.convert_to_openvino(content, 'openvino_int8', np.load('inputs.npy'))\n"
        "print(rich.get_console().is_jupyter)"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "quantize.ipynb")
    done = tmp_path / "done.ipynb"
    papermill.execute_notebook(str(tmp_path / "quantize.ipynb"), str(done), cwd=str(tmp_path), progress_bar=False)
    executed = nbformat.read(done, as_version=4)
    assert "widgets" not in executed.metadata
    assert [output.get("text") for output in executed.cells[-1].outputs] == ["True\n"]
