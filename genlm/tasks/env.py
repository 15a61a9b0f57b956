"""Collect what a bug report needs: versions, hardware, settings, the Hub cache.

The installation may be broken, so a fact that cannot be read is reported as an error and does not affect the others.
torch comes last: if importing it crashes the process, everything else has been reported.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import locale
import os
import platform
import re
import shutil
import subprocess
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from genlm.model.memory import CGROUP, container_limit
from genlm.records.env import Fact, Section, Value

# Their versions are read from metadata, because importing some of them takes seconds.
PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "msgspec",
    "typer",
    "rich",
    "numpy",
    "sacrebleu",
    "matplotlib",
    "pyarrow",
    "psutil",
    "filelock",
    "ray",
)
# Environment variables that change what genlm does, how fast it is, or how its output looks.
VARIABLES = (
    *("GENLM_MODEL", "GENLM_DEBUG"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_HUB_DISABLE_XET", "TRANSFORMERS_OFFLINE"),
    *("TOKENIZERS_PARALLELISM", "RAY_ADDRESS"),
    *("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OMP_PROC_BIND", "OMP_PLACES", "GOMP_SPINCOUNT", "GOMP_CPU_AFFINITY"),
    *("KMP_AFFINITY", "KMP_BLOCKTIME", "MKL_NUM_THREADS", "MKL_CBWR", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"),
    *("CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"),
    *("LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONUTF8", "PYTHONIOENCODING"),
    *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "LANG", "LC_ALL", "LC_CTYPE"),
    *("TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "COLUMNS"),
)
# Tokens are secrets and proxy addresses often contain passwords, so the report only says whether these are set.
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", *(f"{name}_PROXY" for name in ("HTTP", "HTTPS", "ALL", "NO")))
# Instruction sets that speed up int8 and bfloat16.
FEATURES = re.compile(r"vnni|amx_|bf16|fp16|i8mm|sve|dot")
MOST_ERROR_CHARACTERS = 400


def describe(version: str) -> Iterator[Section]:
    """Yield the report section by section; `version` is genlm's own."""
    yield _section("genlm", {"version": lambda: version, "folder": lambda: str(Path(__file__).parents[1])})
    yield _section(
        "python",
        {
            "version": lambda: f"{platform.python_version()} ({platform.python_implementation()})",
            "executable": lambda: sys.executable,
            "platform": platform.platform,
        },
    )
    yield _section("packages", {name: partial(_version, name) for name in PACKAGES})
    yield _section(
        "machine",
        {
            "cpu": _cpu,
            "cores": os.cpu_count,
            "cores_available": _cores_available,
            "memory_bytes": _memory,
            "memory_limit_bytes": lambda: min(filter(None, (_memory(), container_limit()))),
        },
    )
    shown = [Fact(name, _redact(os.environ[name])) for name in VARIABLES if name in os.environ]
    hidden = [Fact(name, "set") for name in SECRETS if name in os.environ or name.lower() in os.environ]
    yield Section("environment", (*shown, *hidden))
    yield _section(
        "hub_cache",
        {
            "folder": _cache_folder,
            "models": lambda: sum(1 for _ in Path(_cache_folder()).glob("models--*")),
            "size_bytes": _cache_size,
        },
    )
    yield _section(
        "terminal",
        {
            "stdin": lambda: _state(sys.stdin),
            "stdout": lambda: _state(sys.stdout),
            "stderr": lambda: _state(sys.stderr),
            "size": lambda: "{}x{}".format(*shutil.get_terminal_size()) if sys.stdout.isatty() else "none",
            "colors": _colors,
            "encoding": lambda: sys.stdout.encoding,
            "locale_encoding": lambda: locale.getpreferredencoding(False),
            "file_name_encoding": sys.getfilesystemencoding,
        },
    )
    yield _torch()


def _section(name: str, readers: Mapping[str, Callable[[], Value]]) -> Section:
    facts = []
    for key, read in readers.items():
        try:
            value = read()
        except Exception as error:
            facts.append(Fact(key, error=_one_line(error)))
        else:
            facts.append(Fact(key, _redact(value) if isinstance(value, str) else value))
    return Section(name, tuple(facts))


def _one_line(error: Exception) -> str:
    text = "".join(traceback.format_exception_only(error))
    return textwrap.shorten(_redact(text), MOST_ERROR_CHARACTERS, placeholder=" …")


def _redact(text: str) -> str:
    """Return the text without passwords in addresses or the user's name: ~ replaces the home folder."""
    text = re.sub(r"(?<=://)\S*@", "***@", text)
    home = Path(os.path.expanduser("~"))
    return text if home == Path(home.anchor) else re.sub(rf"(?<![\w.-]){re.escape(str(home))}(?![\w.-])", "~", text)


def _version(name: str) -> str | None:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    if importlib.util.find_spec(name) is None:
        raise ModuleNotFoundError(f"{version} is recorded as installed, but the package is missing")
    return version


def _cpu() -> str | None:
    if sys.platform == "linux":
        model = re.search(r"^model name\s*: (.+)", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
        if model:
            return model[1]
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, check=True, text=True, timeout=10).stdout.strip()
    return platform.processor() or platform.machine() or None


def _cores_available() -> float | None:
    """Return how many cores this process may use; a container's limit may be a fraction."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limit = CGROUP / "cpu.max"
    quota, period = limit.read_text("ascii").split() if limit.exists() else ("max", "")
    return cores if cores is None or quota == "max" else min(cores, int(quota) / int(period))


def _memory() -> int:
    import psutil

    return int(psutil.virtual_memory().total)


def _cache_folder() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    return str(HF_HUB_CACHE)


def _cache_size() -> int:
    from huggingface_hub import scan_cache_dir

    folder = Path(_cache_folder())
    return int(scan_cache_dir(folder).size_on_disk) if folder.is_dir() else 0


def _state(stream: TextIO | None) -> str:
    if stream is None or stream.closed:
        return "closed"
    return "terminal" if stream.isatty() else "not a terminal"


def _colors() -> str:
    from rich.console import Console

    return Console().color_system or "none"


def _torch() -> Section:
    try:
        import torch
    except Exception as error:
        return Section("torch", (Fact("import", error=_one_line(error)),))

    return _section(
        "torch",
        {
            "version": lambda: str(torch.__version__),
            "build": _torch_build,
            "threads": torch.get_num_threads,
            "interop_threads": torch.get_num_interop_threads,
            "cpu_capability": lambda: torch.backends.cpu.get_cpu_capability(),
            "cpu_features": _cpu_features,
            "mkl": lambda: torch.backends.mkl.is_available() and _linked_version("Math Kernel Library Version "),
            "onednn": lambda: torch.backends.mkldnn.is_available() and _linked_version("MKL-DNN v|oneDNN v"),
            "openmp": lambda: torch.backends.openmp.is_available(),
            "gpus": _gpus,
            "mps": lambda: torch.backends.mps.is_available(),
        },
    )


def _torch_build() -> str:
    import torch

    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    return f"ROCm {torch.version.hip}" if torch.version.hip else "CPU"


def _cpu_features() -> list[str] | None:
    import torch

    read: Callable[[], dict[str, Any]] | None = getattr(torch.cpu, "get_capabilities", None)
    return [name for name, has in sorted(read().items()) if has is True and FEATURES.search(name)] if read else None


def _linked_version(label: str) -> str | bool:
    """Return the version of a library that torch is built with, or True if torch does not name it."""
    import torch

    found = re.search(rf"(?:{label})([\d.]+)", torch.__config__.show())
    return found[1] if found else True


def _gpus() -> list[str]:
    import torch

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    # torch only warns if the driver is too old or broken.
    if not count and warned:
        raise RuntimeError(str(warned[0].message))
    devices = [torch.cuda.get_device_properties(index) for index in range(count)]
    return [f"{device.name}, {device.total_memory / 1e9:.1f} GB" for device in devices]
