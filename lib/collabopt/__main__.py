"""The command line: `python -m collabopt report|shrink|import|compare|verify|page|store`, and jobs of the Snakefile."""

import argparse
import json
import sys
from pathlib import Path

from collabopt.config import sweep
from collabopt.config.experiment import ExperimentError
from collabopt.runtime import progress


def main(words: list[str] | None = None) -> int:
    """Run a command.

    Args:
        words: The words of the command line; None takes those of the process.

    Returns:
        The exit status: 0, 1 where something failed, 2 for bad input or an undecided comparison, 3 for a refused model
        or if no file meets all targets, 130 if stopped.
    """
    arguments = _make_parser().parse_args(words)
    try:
        return _run(arguments)
    except ExperimentError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; finished work is kept, and the same command continues from it", file=sys.stderr)
        return 130


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m collabopt", description="Collaborative model optimization.")
    commands = parser.add_subparsers(required=True, metavar="command", dest="command")

    def add(name: str, description: str, *required: str, **options: str | None) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=description, description=description)
        for option in required:
            command.add_argument(f"--{option}", required=True)
        for option, default in options.items():
            command.add_argument(f"--{option}", default=default)
        return command

    def add_import_options(command: argparse.ArgumentParser) -> None:
        command.add_argument("--trust-code", action="store_true", help="run code that the file holds")
        command.add_argument("--custom-object", action="append", default=[], help="class of a layer, module:Class")

    options = {"experiment": "digits", "set": "", "cores": "all", "profile": None, "notebooks": ""}
    add("report", "run every notebook of an experiment, or a sweep", **options)
    job = add("shrink", "from a trained model and data to the file to deploy", task=None, target=None, cores="all")
    job.add_argument("--dataset", default="", help="further keys of the section dataset: 'image_size=96 group=who'")
    job.add_argument("--name", help="name of the experiment; by default that of the model's file")
    job.add_argument("model", help="a saved Keras model, or module:function")
    job.add_argument("data", help=".npz, folder of classes, .csv, .tsv, .parquet or module:function")
    add_import_options(job)
    job = add("import", "import a trained model alone; the last line is JSON", weights=None)
    job.add_argument("source", help=".keras, .h5 or .hdf5 file, folder of a SavedModel, or module:function")
    add_import_options(job)
    add("verify", "compare a finished report with the published figures", "experiment")
    job = add("compare", "write a page that compares finished reports")
    job.add_argument("reports", nargs="+", help="directories below reports/: digits digits/sparsity=0.8")
    job = add("page", "write the page of a notebook that was run by hand, and the index of its report")
    job.add_argument("notebook", type=Path, help="the executed notebook")
    job.add_argument("--after", type=int, help="id of the process that writes the notebook, whose end is waited for")
    add("store", "list the stored stages, or remove some", prune="")
    places = ("experiment", "overrides", "place", "pages", "position", "done")
    add("check", "check data and model, as a job of the Snakefile", "experiment", "overrides", "done")
    add("notebook", "run one notebook, as a job of the Snakefile", *places).add_argument("name")
    job = add("branch", "train stages that cells of a sweep share, or another seed", "experiment", "overrides", "done")
    job.add_argument("branches", nargs="+", choices=sweep.list_branches())
    job = add("variants", "measure the files of trained stages", "experiment", "overrides", "done")
    job.add_argument("stages", nargs="+")
    add("cell", "run one cell of a sweep", "experiment", "overrides", "pages", "done")
    return parser


def _run(words: argparse.Namespace) -> int:
    """Run a command. Each imports only its own modules."""
    match words.command:
        case "import":
            from collabopt.models import importing

            return importing.print_import(words.source, words.weights, words.trust_code, words.custom_object)
        case "verify":
            from collabopt.report import verification

            return verification.verify(words.experiment)
        case "store":
            from collabopt.storage import retention

            return retention.list_or_prune(words.prune)
        case "shrink":
            from collabopt.batch import shrink

            dataset = shrink.parse_dataset(words.dataset) | ({"target": words.target} if words.target else {})
            task, name = words.task or None, words.name or None  # make passes empty words
            options = {"trust_code": words.trust_code, "custom_objects": words.custom_object} | dataset
            return shrink.print_shrunk(words.model, words.data, task, name, words.cores, **options)
        case "compare":
            from collabopt.report import report_comparison

            return report_comparison.compare(words.reports)
        case "page":
            from collabopt.batch import by_hand

            page = by_hand.write_pages(words.notebook, words.after)
            print(page or f"{words.notebook}: expected an executed notebook of the workbook; no page was written")
            return 0 if page else 1
        case "report":
            from collabopt.batch import scheduler

            profile = words.profile or None
            return scheduler.run_report(words.experiment, words.set, words.cores, profile, words.notebooks)
    return _run_job(words)


def _run_job(words: argparse.Namespace) -> int:
    overrides, done = json.loads(words.overrides), Path(words.done)
    if words.command == "check":
        from collabopt.batch import check

        return check.run_check(words.experiment, overrides, done)
    from collabopt.batch import notebook

    if words.command == "branch":
        return notebook.train_branches(words.branches, words.experiment, overrides, done)
    if words.command == "variants":
        return notebook.measure_variants(words.stages, words.experiment, overrides, done)
    if words.command == "cell":
        return notebook.run_cell(words.experiment, overrides, Path(words.pages), done)
    places, clock = (Path(words.place), Path(words.pages)), progress.Clock()
    status = notebook.run_notebook(words.name, words.experiment, overrides, *places, words.position)
    if not status:
        done.write_text(json.dumps({"seconds": round(clock.seconds(), 1)}))
    return status


if __name__ == "__main__":
    sys.exit(main())
