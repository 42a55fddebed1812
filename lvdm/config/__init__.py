"""From YAML files to checked settings to objects. Imports types, rules and files only, and knows no class that it builds."""

from lvdm.config.annotations import Node
from lvdm.config.build import instantiate, is_node
from lvdm.config.check import ArgumentsOf, check, check_node, with_defaults
from lvdm.config.files import load_config, save_config, to_dict
from lvdm.config.moved import current_node
from lvdm.config.targets import import_class, import_packages, path_of

__all__ = [
    "ArgumentsOf",
    "Node",
    "check",
    "check_node",
    "current_node",
    "import_class",
    "import_packages",
    "instantiate",
    "is_node",
    "load_config",
    "path_of",
    "save_config",
    "to_dict",
    "with_defaults",
]
