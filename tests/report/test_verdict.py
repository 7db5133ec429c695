"""The verdict at the head of an index: the file, its figures with their noise, alternatives, targets, hostile names."""

import json
from pathlib import Path

import bs4
import pandas as pd
import pytest

from collabopt.batch import scheduler
from collabopt.batch.plan import Work
from collabopt.report import index_page, sweep_page

HOSTILE = "<script>alert(1)</script>"


def write_report(directory: Path, limits: dict | None = None, **columns: list) -> Path:
    rows = {
        "stage": ["baseline", "baseline", "pqat", "pcqat"],
        "format": ["float32", "int8", "int8", "int8"],
        "validation_accuracy": [0.95, 0.96, 0.948, 0.90],
        "validation_accuracy_error": 0.01,
        "validation_examples": 500,
        "validation_drop_error": [0.0, 0.004, 0.003, 0.01],
        "accuracy": [0.94, 0.93, 0.935, 0.9],
        "accuracy_error": 0.005,
        "test_examples": 2000,
        "test_drop_error": [0.0, 0.002, 0.003, 0.01],
        "gzip_bytes": [40_000, 9_000, 8_000, 5_000],
        "tflite_bytes": [42_000, 12_000, 12_000, 12_000],
        "latency_ms": [0.1, 0.02, 0.02, 0.02],
        "npu_ms": [None, 0.2, 0.1, 0.1],
        "accelerator": "ethos-u55-128",
        "tflite": ["models/a.tflite", "models/b.tflite", "models/c.tflite", "models/d.tflite"],
    }
    directory.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows | columns)
    table.to_csv(directory / "variants.csv", index=False)
    experiment = {"name": HOSTILE, "targets": limits or {}}
    (directory / "run.json").write_text(json.dumps({"experiment": experiment, "commit": HOSTILE}))
    return directory


def read_verdict(directory: Path) -> bs4.Tag:
    page = bs4.BeautifulSoup(index_page.write(directory, f"# About {HOSTILE}\n").read_text(), "html.parser")
    assert HOSTILE not in [str(script) for script in page.find_all("script")]
    first = page.h1.find_next_sibling()
    assert first["id"] == "verdict", "nothing comes before it"
    return first


def get_text(tag: bs4.Tag) -> str:
    return " ".join(tag.get_text(" ").split())


def test_the_index_begins_with_the_file_its_cost_and_how_certain_that_is(tmp_path):
    text = get_text(read_verdict(write_report(tmp_path)))
    assert "Deploy PQAT int8" in text
    assert "8.00 kB after gzip, 5.0 times smaller than the float32 baseline" in text
    assert "accuracy drops by 0.20 ± 0.60 points against the float32 baseline, within noise." in text
    assert "93.50 ± 1.00% (n = 2,000)" in text
    assert "drop 0.50 ± 0.60 points against 94.00% of the float32 baseline, within noise" in text
    assert "0.020 ms 0.20 times the float32 baseline" in text
    assert "0.100 ms 0.50 times the int8 baseline" in text
    assert "An NPU runs no float32, so its figures are compared with the int8 baseline." in text


def test_alternatives_say_what_they_cost(tmp_path):
    text = get_text(read_verdict(write_report(tmp_path)))
    assert (
        "Smaller, but: PCQAT int8, 5.00 kB after gzip (38 % less than PQAT int8); on validation, accuracy drops by "
        "5.00 ± 2.00 points against the float32 baseline: more than the tolerance"
    ) in text
    assert "More accurate, but: baseline int8, 9.00 kB after gzip (12 % more than PQAT int8); on validation" in text


def test_the_file_for_a_microcontroller_is_named_if_it_is_another(tmp_path):
    assert "On a microcontroller" not in get_text(read_verdict(write_report(tmp_path / "int8")))
    formats = ["float32", "int8", "dynamic_range", "int8"]
    bytes_ = [16000, 9000, 7000, 8000]
    text = get_text(read_verdict(write_report(tmp_path / "other", format=formats, gzip_bytes=bytes_)))
    assert "dynamic range" in text
    assert "On a microcontroller or NPU: " in text


def test_a_drop_on_test_that_exceeds_noise_is_in_the_first_sentence(tmp_path):
    assert "more than noise" not in get_text(read_verdict(write_report(tmp_path / "none")))
    text = get_text(read_verdict(write_report(tmp_path / "drop", test_drop_error=[0.0, 0.001, 0.001, 0.001])))
    assert "; on test it drops by 0.50 ± 0.20 points, more than noise." in text


def test_the_next_smaller_files_are_named_unless_a_smaller_one_is_as_good(tmp_path):
    stages, bytes_ = ["baseline", "pqat", "sparse_clustered", "pcqat"], [9000, 8000, 7950, 7990]

    def list_others(last: float) -> list[str]:
        write_report(tmp_path, stage=stages, gzip_bytes=bytes_, validation_accuracy=[0.95, 0.95, 0.90, last])
        texts = [get_text(one) for one in read_verdict(tmp_path).select(".other")]
        return [text for text in texts if text.startswith("Smaller")]

    first, second = list_others(0.92)
    assert first.startswith("Smaller, but: PCQAT int8, 7.99 kB after gzip (0.1 % less than ")
    assert ": more than the tolerance of 1.00 points." in first
    assert second.startswith("Smaller, but: sparse clustered int8, 7.95 kB")
    assert [one.split(",")[1] for one in list_others(0.90)] == [" but: sparse clustered int8"]


def test_targets_do_not_silence_the_doubts_about_validation(tmp_path):
    few = {"validation_examples": 50, "validation_drop_error": [0.0, 0.01, 0.01, 0.01]}
    doubt = "50 validation examples are too few for this choice, where chance alone makes a difference of 2.00 points"
    for name, limits, allowed in (
        ("none", {}, "The choice allows a drop of 1.00 points"),
        ("drop", {"max_accuracy_drop": 0.015}, "The choice allows a drop of 1.50 points"),
        ("size", {"max_gzip_bytes": 8500}, "No target bounds the drop"),
    ):
        text = get_text(read_verdict(write_report(tmp_path / name, limits, **few)))
        assert doubt in text and allowed in text
    text = get_text(read_verdict(write_report(tmp_path / "enough", {"max_accuracy_drop": 0.05}, **few)))
    assert doubt not in text, "a drop of five points would be seen"


def test_targets_say_what_a_smaller_file_misses(tmp_path):
    text = get_text(read_verdict(write_report(tmp_path, {"max_accuracy_drop": 0.01, "max_gzip_bytes": 9500})))
    assert "Smaller, but: PQAT int8" in text and ": it takes more techniques." in text
    assert ": it misses accuracy drop 4.00 points over." in text


def test_the_deployed_file_is_linked_if_it_is_the_recommended_one(tmp_path):
    for name in ("models", "deployed"):
        (tmp_path / name).mkdir()
    (tmp_path / "models" / "c.tflite").write_bytes(b"new")
    for content, address in ((b"new", "deployed/mine.tflite"), (b"old", "models/c.tflite")):
        (tmp_path / "deployed" / "mine.tflite").write_bytes(content)
        assert read_verdict(write_report(tmp_path)).find("a", string="the file")["href"] == address


def test_the_deployed_file_is_linked_where_the_files_of_variants_are_not_there(tmp_path):
    (tmp_path / "deployed").mkdir()
    for size, address in ((12_000, "deployed/mine.tflite"), (11_999, "models/c.tflite")):
        (tmp_path / "deployed" / "mine.tflite").write_bytes(bytes(size))
        assert read_verdict(write_report(tmp_path)).find("a", string="the file")["href"] == address


def test_a_file_worse_than_chance_explains_is_not_recommended(tmp_path):
    write_report(tmp_path, validation_drop_error=[0.0, 0.004, 0.0005, 0.01], validation_examples=5000)
    text = get_text(read_verdict(tmp_path))
    assert "Deploy baseline int8" in text
    assert (
        "Smaller, but: PQAT int8" in text and "drops by 0.20 ± 0.10 points against the float32 baseline: more" in text
    )


def test_a_baseline_that_has_seen_the_validation_examples_is_doubted(tmp_path):
    seen = "trained on the validation examples, every trained stage looks worse than it is"
    assert seen not in get_text(read_verdict(write_report(tmp_path)))
    text = get_text(read_verdict(write_report(tmp_path, accuracy=[0.91, 0.9, 0.9, 0.9])))
    assert "The float32 baseline has accuracy 95.00% on validation and 91.00% on test" in text and seen in text


def test_classes_with_few_examples_are_a_caution_in_the_verdict_and_where_classes_are_compared(tmp_path):
    few = {"validation": {HOSTILE: 3}, "test": {"a": 4, HOSTILE: 0, "B": 1, "d": 9, "e": 8}}
    told = f"test has no examples of {HOSTILE}, 1 example of B, 4 examples of a, few of 2 more classes"
    for scarce in ({}, few):
        run = json.loads((write_report(tmp_path) / "run.json").read_text())
        (tmp_path / "run.json").write_text(json.dumps(run | {"data": {"scarce_classes": scarce}}))
        (tmp_path / "changed_classes.csv").write_text(
            "class,examples,before,after,newly_wrong,newly_right,file\na,4,1,1,0,0,x\n"
        )
        verdict = get_text(read_verdict(tmp_path))
        page = bs4.BeautifulSoup((tmp_path / "index.html").read_text(), "html.parser")
        changed = get_text(page.find(id="changes").find_next_sibling("p"))
        for text in (verdict, changed):
            assert (f"validation has 3 examples of {HOSTILE}; {told}." in text) is bool(scarce)


def test_the_next_command_allows_the_drop_of_the_smaller_file(tmp_path):
    text = get_text(read_verdict(write_report(tmp_path)))
    assert 'SET="max_accuracy_drop=0.05 max_gzip_bytes=5000"' in text


def test_targets_are_shown_met_or_not(tmp_path):
    met = read_verdict(write_report(tmp_path / "met", {"max_gzip_bytes": 8500}))
    assert "Deploy PQAT int8" in get_text(met)
    assert get_text(met.select_one(".targets")) == "✓ gzip 8.00 kB, target at most 8.50 kB: met"
    missed = read_verdict(write_report(tmp_path / "missed", {"max_gzip_bytes": 4000, "max_npu_ms": 1.0}))
    assert "No file meets all targets" in get_text(missed)
    assert "The nearest file is PCQAT int8: gzip 1.0 kB over." in get_text(missed)
    assert [item.get("class") for item in missed.select(".targets li")].count(["no"]) == 1


def test_npu_time_without_the_operators_on_the_cpu_says_so(tmp_path):
    found = read_verdict(write_report(tmp_path, {"max_npu_ms": 1.0}, npu_operators=0.15))
    assert "(without 85 % of the operators, which the NPU cannot run), target at most" in get_text(found)
    whole = read_verdict(write_report(tmp_path / "whole", {"max_npu_ms": 1.0}, npu_operators=1.0))
    assert "of the operators" not in get_text(whole)


def test_a_batch_whose_files_all_miss_a_target_ends_with_status_3(tmp_path, capsys):
    work = Work(tmp_path, {}, {"deployment_tree": tmp_path / "deployment_tree.html"})
    write_report(tmp_path, {"max_gzip_bytes": 4000})
    assert scheduler._report_missed_targets(work) == 3
    printed = capsys.readouterr().err
    assert "No file meets all targets. The nearest, which misses gzip 1.0 kB over: PCQAT int8" in printed
    assert "file: " in printed and "d.tflite" in printed
    write_report(tmp_path, {"max_gzip_bytes": 8000})
    assert scheduler._report_missed_targets(work) == 0


def test_files_that_all_predict_one_class_have_a_page_that_says_so(tmp_path):
    text = get_text(read_verdict(write_report(tmp_path, predicted_classes=1)))
    assert "No file can be deployed The nearest file is" in text and "predicts one class for every example" in text


def test_a_cell_whose_own_baseline_is_worse_than_that_of_others_is_not_chosen(tmp_path):
    experiment = tmp_path / "mine.yaml"
    experiment.write_text("extends: digits\n")
    write_report(tmp_path / "train_fraction=1.0")
    worse = {"validation_accuracy": [0.75, 0.76, 0.748, 0.70], "gzip_bytes": [40_000, 9_000, 7_000, 5_000]}
    write_report(tmp_path / "train_fraction=0.1", **worse)
    page = sweep_page.write(tmp_path, str(experiment), {"train_fraction=1.0": "ok", "train_fraction=0.1": "ok"})
    verdict = bs4.BeautifulSoup(page.read_text(), "html.parser").find(id="verdict")
    assert "Deploy PQAT int8 of train_fraction=1.0" in get_text(verdict)


def test_a_cell_that_drops_by_exactly_the_tolerance_counts(tmp_path):
    experiment = tmp_path / "mine.yaml"
    experiment.write_text("extends: digits\n")
    scores, noise = [0.95, 0.95, 0.95, 0.94], {"validation_drop_error": 0.01}
    write_report(tmp_path / "sparsity=0.5", validation_accuracy=scores, **noise)
    write_report(tmp_path / "sparsity=0.8", validation_accuracy=[0.95, 0.95, 0.95, 0.5], **noise)
    assert 0.95 - 0.94 > 0.01, "rounding"
    page = sweep_page.write(tmp_path, str(experiment), {"sparsity=0.5": "ok", "sparsity=0.8": "ok"})
    assert "Deploy PCQAT int8 of sparsity=0.5" in get_text(bs4.BeautifulSoup(page.read_text(), "html.parser"))


def test_a_sweep_names_the_cell_with_the_smallest_recommended_file(tmp_path):
    experiment = tmp_path / "mine.yaml"
    experiment.write_text("extends: digits\n")
    write_report(tmp_path / "sparsity=0.5")
    write_report(tmp_path / "sparsity=0.8", gzip_bytes=[40_000, 9_000, 7_000, 5_000])
    states = {"sparsity=0.5": "ok", "sparsity=0.8": "ok", "sparsity=0.9": "FAILED"}
    page = sweep_page.write(tmp_path, str(experiment), states)
    verdict = bs4.BeautifulSoup(page.read_text(), "html.parser").find(id="verdict")
    assert "Deploy PQAT int8 of sparsity=0.8" in get_text(verdict)
    assert verdict.find("a", string="the file")["href"] == "sparsity%3D0.8/models/c.tflite"
    following = [get_text(one) for one in verdict.select(".other") if get_text(one).startswith("Next:")]
    assert [one.count('EXPERIMENT=mine SET="max_accuracy_drop=') for one in following] == [1]


def test_a_report_without_a_search_says_how_to_get_a_verdict(tmp_path):
    text = get_text(read_verdict(tmp_path))
    assert f"make report EXPERIMENT={tmp_path.name} NOTEBOOKS=deployment_tree" in text


@pytest.mark.parametrize("name", ["a b.tflite", "<b>.tflite"])
def test_names_of_files_are_escaped(tmp_path, name):
    write_report(tmp_path, tflite=["a", "b", f"models/{name}", "d"])
    verdict = read_verdict(tmp_path)
    assert verdict.find("b") is None
    (link,) = [one for one in verdict.find_all("a") if one.get_text() == "the file"]
    assert " " not in link["href"] and "<" not in link["href"]
