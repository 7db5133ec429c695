"""How the YAML of experiments and parameters is read."""

import re

import yaml

from collabopt.config.experiment import ExperimentError


class Loader(yaml.SafeLoader):
    """YAML in which `1e-3` is a number, `2:4` is text, and a repeated key or `{key:value}` is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Return a mapping `node` as a dict; `deep` constructs nested values at once.

        Raises:
            ExperimentError: A key is given twice, or has no space after its colon.
        """
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                line = node.start_mark.line + 1
                raise ExperimentError(f"{key}: given twice in the section that starts at line {line}; keep one")
        for key, value in node.value:
            name, colon, text = str(key.value).partition(":")
            if colon and text and value.value == "":
                raise ExperimentError(f"{key.value}: expected a space after the colon: {name}: {text}")
        return super().construct_mapping(node, deep)


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)
# YAML 1.1 reads 2:4 as a number to base 60.
for _digit in "0123456789":
    Loader.yaml_implicit_resolvers[_digit].insert(0, ("tag:yaml.org,2002:str", re.compile(r"^\d+:\d+$")))
