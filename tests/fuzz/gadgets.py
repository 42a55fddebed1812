"""Callables of the libraries that import, load, write, connect or start something: what no config may build.

Some are named by hand, because an attack used them. The others are found in the sources of the four libraries, without importing
them, by what their bodies call; written-in-C ones by their names.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

USED_IN_ATTACKS = (
    *("torch.cuda.memory.CUDAPluggableAllocator", "torch.distributed.launcher.api.elastic_launch", "torch.PyTorchFileWriter"),
    *("torch.distributed.TCPStore", "torch.PyTorchFileReader", "torch.distributed.FileStore", "torch.distributed.HashStore"),
    *("torch.distributed.elastic.multiprocessing.start_processes", "torch.distributed.rpc.init_rpc", "torch.hub.load"),
    *("torch.package.PackageImporter", "torch.utils.cpp_extension.load", "torch.utils.cpp_extension.load_inline"),
    *("torch.utils.tensorboard.SummaryWriter", "torch.multiprocessing.spawn", "torch.multiprocessing.Process"),
    *("torch.utils.data.DataLoader", "torch.jit.load", "torch.load", "torch.save", "torch.classes.load_library"),
    *("torch.ops.load_library", "torch.export.load", "torch.library.Library", "torch.profiler.profile", "torch.compile"),
    *("torch.nn.DataParallel", "torch.nn.parallel.DistributedDataParallel", "torch.distributed.nn.RemoteModule"),
    *("pytorch_lightning.Trainer", "pytorch_lightning.cli.LightningCLI", "pytorch_lightning.profilers.PyTorchProfiler"),
    *("pytorch_lightning.callbacks.LambdaCallback", "pytorch_lightning.callbacks.ModelCheckpoint"),
    *("pytorch_lightning.loggers.MLFlowLogger", "pytorch_lightning.loggers.CometLogger"),
    *("pytorch_lightning.plugins.io.TorchCheckpointIO", "pytorch_lightning.strategies.DeepSpeedStrategy"),
    *("transformers.pipeline", "transformers.AutoModel", "transformers.Trainer", "transformers.TrainingArguments"),
    *("transformers.utils.import_utils.direct_transformers_import",),
    *("transformers.dynamic_module_utils.get_class_from_dynamic_module",),
    *("diffusers.DiffusionPipeline", "diffusers.AutoPipelineForText2Image", "diffusers.modular_pipelines.ModularPipeline"),
    *("diffusers.utils.dynamic_modules_utils.get_cached_module_file",),
    *("os.system", "subprocess.Popen", "builtins.eval", "builtins.exec", "ctypes.CDLL", "socket.socket", "pathlib.Path"),
    *("lvdm.cli.train.main", "lvdm.sampling.writers.Mp4Writer", "lvdm.data.latents.writer.LatentWriter", "lvdm.api.load"),
)
LIBRARIES = ("torch", "pytorch_lightning", "transformers", "diffusers")
CALLS = re.compile(
    r"\b(open\(|import_module\(|__import__\(|exec\(|eval\(|compile\(|subprocess|Popen|socket\.|urlopen|urlretrieve|download|"
    r"from_pretrained|pickle\.load|torch\.load|CDLL|dlopen|os\.remove|makedirs|mkdir|rmtree|Store\(|load_library)"
)
TOP = re.compile(r"^(?:class|def) (\w+)", re.MULTILINE)
NAMES = re.compile(r"Writer|Reader|Store|Library|Plugin|Allocator|Server|Client|[Ll]oad|[Ss]ave|import|launch|spawn|download")
BUILDABLE = ("torch.nn.modules.", "torch.optim.", "transformers.models.", "diffusers.models.")  # judged class by class


def found_in_sources(library: str) -> Iterator[str]:
    """Yield paths of public functions and classes of a library whose source makes one of CALLS."""
    spec = importlib.util.find_spec(library)
    assert spec is not None and spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    for file in sorted(root.rglob("*.py")):
        parts = [part for part in file.relative_to(root.parent).with_suffix("").parts if part != "__init__"]
        module = ".".join(parts)
        if any(part.startswith("_") or "test" in part for part in parts) or f"{module}.".startswith(BUILDABLE):
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        if CALLS.search(text):
            for name, body in zip(*[iter(TOP.split(text)[1:])] * 2, strict=True):
                if not name.startswith("_") and CALLS.search(body):
                    yield f"{module}.{name}"


def found_by_name(library: str) -> Iterator[str]:
    """Yield public callables of the modules that are loaded whose name says that they read, write, load or start something."""
    for name, module in sorted(sys.modules.items()):
        if name.split(".")[0] == library and "._" not in name and not f"{name}.".startswith(BUILDABLE):
            for public, value in sorted(vars(module).items()):
                if callable(value) and not public.startswith("_") and NAMES.search(public):
                    yield f"{name}.{public}"


def gadgets() -> list[str]:
    """Return all of them, each once."""
    found = [path for library in LIBRARIES for path in (*found_in_sources(library), *found_by_name(library))]
    return list(dict.fromkeys((*USED_IN_ATTACKS, *found)))
