"""Free memory, how many rows fit in it, and peak memory."""

from __future__ import annotations

import mmap
import platform
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
import torch

from genlm.model import memory
from genlm.model.network import Network

CPU = torch.device("cpu")
GIB = 2**30


class Sized:
    """The part of a Network that its memory depends on."""

    def __init__(self, row_bytes: int) -> None:
        self.device = CPU
        self.bytes = row_bytes

    def row_bytes(self, length: int) -> int:
        return self.bytes * length


def rows(row_bytes: int, length: int) -> int:
    return memory.rows_that_fit(cast(Network, Sized(row_bytes)), length)


def have_free(bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the machine have this much memory free."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=bytes))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8 GiB free, and no container."""
    have_free(8 * GIB, monkeypatch)
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    return tmp_path


def contain(machine: Path, limit: str, used: int, files: int) -> None:
    (machine / "memory.max").write_text(f"{limit}\n")
    (machine / "memory.current").write_text(f"{used}\n")
    (machine / "memory.stat").write_text(f"anon 5\nactive_file {files // 2}\ninactive_file {files - files // 2}\n")


def test_free_memory_of_the_machine(machine: Path) -> None:
    assert memory.free_bytes(CPU) == 8 * GIB


def test_a_container_may_have_less(machine: Path) -> None:
    contain(machine, str(4 * GIB), used=3 * GIB, files=GIB)
    assert memory.free_bytes(CPU) == 2 * GIB


def test_a_container_without_a_limit(machine: Path) -> None:
    contain(machine, "max", used=3 * GIB, files=0)
    assert memory.free_bytes(CPU) == 8 * GIB


def test_free_memory_that_is_not_reported(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For example in a sandbox without /proc, or without psutil."""

    def fail() -> Any:
        raise FileNotFoundError("/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", fail)
    assert memory.free_bytes(CPU) == memory.ASSUMED_BYTES
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert memory.free_bytes(CPU) == memory.ASSUMED_BYTES


def test_the_memory_of_this_machine_is_known() -> None:
    assert 0 < memory.free_bytes(CPU) <= psutil.virtual_memory().total


def test_free_memory_of_a_gpu(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5 * GIB, 80 * GIB))
    assert memory.free_bytes(torch.device("cuda")) == 5 * GIB


def test_rows_take_a_quarter_of_the_free_memory(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    have_free(2 * GIB, monkeypatch)
    assert rows(row_bytes=2**20, length=32) == 2 * GIB // 4 // (32 * 2**20)


def test_one_row_always_runs(machine: Path) -> None:
    contain(machine, str(GIB), used=2 * GIB, files=0)
    assert rows(row_bytes=2**20, length=32) == 1


def test_a_cpu_runs_few_large_rows_even_if_more_fit(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    have_free(1024 * GIB, monkeypatch)
    assert rows(row_bytes=2**20, length=32) == memory.CPU_BYTES // (32 * 2**20) == 24
    assert rows(row_bytes=2**20, length=200) == memory.CPU_ROWS == 16


def test_there_are_never_more_rows_than_are_worthwhile(machine: Path) -> None:
    assert rows(row_bytes=1, length=1) == memory.MOST_ROWS


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps memory on request")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    script = """
        import resource, torch
        from genlm.model.memory import keep_freed_memory

        def new_pages():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            # More than glibc keeps by default.
            torch.ones(10_000_000)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        keep_freed_memory()
        print([new_pages() for _ in range(12)][-1])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, check=True, text=True)
    assert int(done.stdout) < 0.1 * 40_000_000 / mmap.PAGESIZE


def test_the_peak_counts_what_was_freed() -> None:
    script = """
        import torch
        from genlm.model.memory import peak_bytes, reset_peak

        reset_peak(torch.device("cpu"))
        before = peak_bytes(torch.device("cpu"))
        torch.ones(2**26)
        print(before, peak_bytes(torch.device("cpu")) - before)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, check=True, text=True)
    before, more = map(int, done.stdout.split())
    assert before > 2**25
    assert 0.8 * 2**28 < more < 1.5 * 2**28


@pytest.mark.parametrize(("peak", "expected"), [({"peak_wset": 7 * GIB}, 7 * GIB), ({}, None)])
def test_the_peak_without_proc_and_the_module_resource(
    peak: dict[str, int], expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, where psutil knows the peak."""

    def fail(*_: Any) -> Any:
        raise FileNotFoundError

    used = SimpleNamespace(rss=2 * GIB, **peak)
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(memory_info=lambda: used))
    monkeypatch.setattr(Path, "read_text", fail)
    monkeypatch.setitem(sys.modules, "resource", None)
    assert memory.peak_bytes(CPU) == expected


@pytest.mark.parametrize(
    "message",
    [
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to ...",
        "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you tried to allocate ...",
        "MPS backend out of memory (MPS allocated: 8.00 GB, ...",
    ],
)
def test_every_out_of_memory_message_is_recognized(message: str) -> None:
    assert memory.is_out_of_memory(RuntimeError(message))
    assert not memory.is_out_of_memory(ValueError(message))
