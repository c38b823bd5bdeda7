"""Builds ``fastgan._C`` with ninja: CPU kernels always, CUDA kernels whenever an nvcc is found.

Environment
  FASTGAN_BUILD       auto (default): without a compiler the install is pure Python, and says so; require: fail; skip
  FASTGAN_CUDA        auto (default): without nvcc the CPU kernels alone are built; require; skip
  FASTGAN_NVCC        the nvcc to use; else CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda are searched
  FASTGAN_CUDA_ARCHS  "80 90" (default): compute capabilities to compile for; the newest is kept as PTX too
  CXX, MAX_JOBS       the C++ compiler; the number of parallel jobs (default: the CPUs this process may use)

No GPU is needed to build, and nothing here asks which instruction sets the build machine has: that is chosen at run
time.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MINIMUM_TORCH = (2, 10)
NOT_BUILT_FILE = "_not_built.txt"  # read by fastgan/ops/_library.py

# The stable ABI of torch 2.10: one build serves that version and every newer one.
TORCH_FLAGS = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY"]
CXX_FLAGS = [
    "-std=c++17",
    "-O3",
    "-g0",
    "-DNDEBUG",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wno-psabi",
    "-Wno-unknown-pragmas",
]
# Fused multiply-adds are written where they are meant, so that forward and backward round alike in every function.
KERNEL_FLAGS = ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wno-maybe-uninitialized"]
NVCC_FLAGS = ["-std=c++17", "-O3", "--cudart=static", "-Xcompiler=-fPIC,-fvisibility=hidden"]


class NotBuilt(Exception):
    """The compiled extension cannot be built; the message is the reason, in words for the person who installs."""


def choice(variable: str) -> str:
    value = os.environ.get(variable, "auto").lower() or "auto"
    if value not in ("auto", "require", "skip"):
        raise SystemExit(f"{variable} is {value!r}; it takes auto, require or skip")
    return value


def say(text: str) -> None:
    print(f"fastgan: {text}", flush=True)


def output_of(*command: str) -> str:
    """What a command prints on both streams; empty where it cannot run."""
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout
    except OSError:
        return ""


def first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""


# ---- what is on this machine ----------------------------------------------------------------------------------------


@dataclass
class Torch:
    """The installed torch, found without importing it."""

    root: Path
    version: str

    @classmethod
    def find(cls) -> Torch:
        spec = importlib.util.find_spec("torch")
        if spec is None or spec.origin is None:
            raise SystemExit(
                "fastgan: torch is not importable here, and the extension is built against the installed torch; "
                "install torch, then run: pip install --no-build-isolation . (FASTGAN_BUILD=skip installs pure Python)"
            )
        version = metadata.version("torch")
        if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM_TORCH:
            raise NotBuilt(
                f"torch {version} is older than the {MINIMUM_TORCH[0]}.{MINIMUM_TORCH[1]} that fastgan needs"
            )
        return cls(Path(spec.origin).parent, version)


@dataclass
class Cuda:
    """A CUDA toolkit, described by its own nvcc: a wrapper script's folder says nothing about where the toolkit is."""

    nvcc: str
    version: str
    include: list[str]
    library: list[str]
    archs: list[int]

    @classmethod
    def find(cls) -> Cuda:
        nvcc = cls._nvcc()
        release = re.search(r"release (\d+\.\d+)", output_of(nvcc, "--version"))
        dry_run = output_of(nvcc, "--dryrun", "-c", "-x", "cu", os.devnull, "-o", os.devnull)
        if not release or "#$ INCLUDES=" not in dry_run:
            raise NotBuilt(f"{nvcc} does not run as an nvcc")
        include, library = cls._folders(dry_run, "-I"), cls._folders(dry_run, "-L")
        if not any((Path(folder) / "libcudart_static.a").exists() for folder in library):
            raise NotBuilt(f"{nvcc} has no libcudart_static.a beside it (looked in {', '.join(library)})")
        return cls(nvcc, release[1], include, library, cls._archs(nvcc))

    @staticmethod
    def _nvcc() -> str:
        if named := os.environ.get("FASTGAN_NVCC"):
            if not shutil.which(named):
                raise NotBuilt(f"FASTGAN_NVCC is {named!r}, which is no program")
            return named
        homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
        candidates = [*(f"{home}/bin/nvcc" for home in homes), "nvcc", "/usr/local/cuda/bin/nvcc"]
        found = next(filter(None, map(shutil.which, candidates)), None)
        if found is None:
            raise NotBuilt("no nvcc was found (set FASTGAN_NVCC or CUDA_HOME)")
        return found

    @staticmethod
    def _folders(dry_run: str, option: str) -> list[str]:
        found = re.findall(rf'"{option}([^"]+)"', dry_run)
        return [str(path) for path in dict.fromkeys(Path(p).resolve() for p in found) if path.is_dir()]

    @staticmethod
    def _archs(nvcc: str) -> list[int]:
        wanted = sorted(int(arch) for arch in re.findall(r"\d+", os.environ.get("FASTGAN_CUDA_ARCHS", "80 90")))
        known = set(map(int, re.findall(r"sm_(\d+)", output_of(nvcc, "--list-gpu-code"))))
        archs = [arch for arch in wanted if arch in known]
        if not archs:
            raise NotBuilt(f"{nvcc} compiles for none of sm_{', sm_'.join(map(str, wanted))}")
        return archs

    def compiles(self, source: Path) -> bool:
        """Units for sm_90a alone are left out where that is not wanted, or not known: it came with CUDA 12."""
        return not source.stem.endswith("_sm90a") or (90 in self.archs and int(self.version.split(".")[0]) >= 12)

    def gencode(self, source: Path) -> list[str]:
        if source.stem.endswith("_sm90a"):  # wgmma and TMA exist for that one architecture only
            return ["-gencode=arch=compute_90a,code=sm_90a"]
        newest = self.archs[-1]
        flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in self.archs[:-1]]
        return [*flags, f"-gencode=arch=compute_{newest},code=[sm_{newest},compute_{newest}]"]

    def __str__(self) -> str:
        return f"{' '.join(f'sm_{arch}' for arch in self.archs)} with nvcc {self.version}"


def find_compiler() -> list[str]:
    """The C++ compiler as a command, or NotBuilt."""
    if sys.platform == "win32":
        raise NotBuilt("the extension has not been ported to Windows")
    if named := os.environ.get("CXX"):
        if not shutil.which(shlex.split(named)[0]):
            raise NotBuilt(f"CXX is {named!r}, which is no program")
        return shlex.split(named)
    for name in ("g++", "c++", "clang++"):
        if shutil.which(name):
            return [name]
    raise NotBuilt("no C++ compiler was found (g++, c++ or clang++; on Debian and Ubuntu: apt install g++)")


def find_ninja() -> str:
    """The ninja program: of the Python package, else of the system."""
    beside = Path(sysconfig.get_path("scripts")) / "ninja"
    for candidate in (str(beside), "ninja"):
        if found := shutil.which(candidate):
            return found
    try:
        from ninja import BIN_DIR
    except ImportError:
        raise NotBuilt("ninja is missing (pip install ninja)") from None
    return str(Path(BIN_DIR) / "ninja")


def find_pybind11() -> str:
    try:
        import pybind11
    except ImportError:
        raise NotBuilt("pybind11 is missing (pip install pybind11)") from None
    return pybind11.get_include()


# ---- the build ------------------------------------------------------------------------------------------------------


@dataclass
class Build:
    """Sources, flags and the ninja file of one build of ``fastgan._C``."""

    target: Path
    folder: Path
    torch: Torch
    compiler: list[str]
    cuda: Cuda | None
    cuda_reason: str
    pybind11: str = field(default_factory=find_pybind11)

    @property
    def cpu_sources(self) -> list[Path]:
        ops = [path for path in (ROOT / "csrc/ops").glob("*.cpp") if not path.stem.endswith("_cuda")]
        return sorted([ROOT / "csrc/module.cpp", *ops, *(ROOT / "csrc/cpu").glob("*.cpp")])

    @property
    def cuda_sources(self) -> list[Path]:
        kernels = [path for path in (ROOT / "csrc/cuda").glob("*.cu") if self.cuda.compiles(path)]
        return sorted([*(ROOT / "csrc/ops").glob("*_cuda.cpp"), *kernels])

    @cached_property
    def capabilities(self) -> str:
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        return "DEFAULT, AVX2, AVX512" if x86 else "DEFAULT"

    @property
    def summary(self) -> str:
        cuda = str(self.cuda) if self.cuda else f"not built because {self.cuda_reason}"
        return f"built: CPU ({self.capabilities}); CUDA: {cuda}"

    def write_build_info(self) -> None:
        """csrc/module.cpp returns these facts from build_info()."""
        facts = {
            "summary": self.summary,
            "version": project_version(),
            "python": platform.python_version(),
            "torch": self.torch.version,
            "torch_minimum": ".".join(map(str, MINIMUM_TORCH)),
            "compiler": first_line(output_of(*self.compiler, "--version")),
            "cpu_capabilities": self.capabilities,
            "cuda": self.cuda.version if self.cuda else "",
            "cuda_archs": " ".join(f"sm_{arch}" for arch in self.cuda.archs) if self.cuda else "",
            "cuda_reason": self.cuda_reason,
        }
        quoted = {key: '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for key, value in facts.items()}
        lines = [f'    {{"{key}", {value}}},' for key, value in quoted.items()]
        rows = "\n".join(lines)
        array = f"static const char* const kBuildInfo[][2] = {{\n{rows}\n}};"
        text = f"// Written by setup.py: facts of this build.\n{array}\n"
        header = self.folder / "build_info.h"
        if not header.exists() or header.read_text() != text:  # an unchanged header is not compiled again
            header.write_text(text)

    def ninja_file(self) -> str:
        python_include = sysconfig.get_paths()["include"]
        defines = ["-DUSE_CUDA", "-DFASTGAN_WITH_CUDA"] if self.cuda else []
        if self.cuda and any(source.stem.endswith("_sm90a") for source in self.cuda_sources):
            defines.append("-DFASTGAN_WITH_SM90A")
        includes = ["-Icsrc", f"-I{self.folder}"]
        headers = self.torch.root / "include"
        torch_includes = [f"-isystem{headers}", f"-ffile-prefix-map={headers}/="]
        cuda_includes = [f"-isystem{folder}" for folder in self.cuda.include] if self.cuda else []
        cxx = shlex.join(self.compiler)
        lines = [
            f"root = {escape(ROOT)}",
            # paths in messages and in the binary are relative to the project, whatever machine builds it
            f"cxx = cd $root && {cxx} {shlex.join(CXX_FLAGS + includes)}",
            "rule cxx\n  command = $cxx -MMD -MF $out.d $flags -c $source -o $out\n"
            "  description = c++ $source\n  depfile = $out.d\n  deps = gcc",
            f"rule link\n  command = {cxx} -shared $in -o $out {self._link_flags()}\n  description = link $out",
        ]
        if self.cuda:
            nvcc = shlex.join(
                [self.cuda.nvcc, *NVCC_FLAGS, *includes, "-DFASTGAN_WITH_CUDA", f"-ccbin={self.compiler[0]}"]
            )
            lines.append(
                f"rule nvcc\n  command = cd $root && {nvcc} -MMD -MF $out.d $flags -c $source -o $out\n"
                "  description = nvcc $source\n  depfile = $out.d\n  deps = gcc"
            )
        objects = []
        for source in [*self.cpu_sources, *(self.cuda_sources if self.cuda else [])]:
            relative = source.relative_to(ROOT)
            folder = relative.parent.name
            if source.suffix == ".cu":
                rule, flags = "nvcc", self.cuda.gencode(source)
            elif folder == "cpu":
                rule, flags = "cxx", KERNEL_FLAGS
            elif folder == "ops":
                rule, flags = "cxx", [*TORCH_FLAGS, *defines, *torch_includes, *cuda_includes]
            else:
                rule, flags = "cxx", [f"-isystem{self.pybind11}", f"-isystem{python_include}"]
            objects.append(self.folder / relative.parent / f"{source.name}.o")
            lines.append(f"build {escape(objects[-1])}: {rule} {escape(source)}")
            lines.append(f"  source = {relative}\n  flags = {shlex.join(map(str, flags))}")
        lines.append(f"build {escape(self.target)}: link {' '.join(map(escape, objects))}")
        lines.append(f"default {escape(self.target)}")
        return "\n".join(lines) + "\n"

    def _link_flags(self) -> str:
        torch_lib = f"-L{self.torch.root / 'lib'}"
        if sys.platform == "darwin":
            return shlex.join(["-undefined", "dynamic_lookup", torch_lib, "-ltorch"])
        # libtorch.so stays in NEEDED although no symbol is its own: through it the loader finds libtorch_cpu. No rpath:
        # torch is imported before the extension, and the file may be used with another torch than this one.
        flags = ["-Wl,--no-as-needed", torch_lib, "-ltorch", "-Wl,--as-needed", "-Wl,--exclude-libs,ALL"]
        if self.cuda:
            flags += [*(f"-L{folder}" for folder in self.cuda.library), "-lcudart_static", "-ldl", "-lrt", "-lpthread"]
        return shlex.join(flags)

    def run(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.write_build_info()
        (self.folder / "build.ninja").write_text(self.ninja_file())
        jobs = os.environ.get("MAX_JOBS") or str(usable_cpus())
        if not jobs.isdigit() or int(jobs) < 1:
            raise SystemExit(f"MAX_JOBS is {jobs!r}; it takes a number from 1")
        command = [find_ninja(), "-C", str(self.folder), "-j", jobs]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            print(done.stdout)
            failed = re.search(r"^FAILED: (?:\[code=\d+\] )?(\S+)", done.stdout, re.MULTILINE)
            raise NotBuilt(f"compiling {Path(failed[1]).stem if failed else 'it'} failed (the output is above)")
        self.check_loads()

    def check_loads(self) -> None:
        """A library with a missing symbol links; only loading shows it."""
        code = (
            "import sys, torch, importlib.util as u; s = u.spec_from_file_location('fastgan._C', sys.argv[1]);"
            "m = u.module_from_spec(s); s.loader.exec_module(m); m.build_info()"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(self.target)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit status {done.returncode}"
            raise NotBuilt(f"the compiled extension does not load: {last}")


def escape(path: Path) -> str:
    """A path as ninja spells it."""
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def project_version() -> str:
    return re.search(r'^version = "([^"]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]


class BuildExtension(build_ext):
    """setuptools' build_ext with the compilation left to ninja."""

    def build_extension(self, ext: Extension) -> None:
        try:
            self._build(Path(self.get_ext_fullpath(ext.name)).resolve())
        except NotBuilt as reason:
            not_built(str(reason))
            if not self.inplace:
                (Path(self.build_lib) / "fastgan" / NOT_BUILT_FILE).write_text(f"{reason}\n")

    def _build(self, target: Path) -> None:
        compiler, torch = find_compiler(), Torch.find()
        if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
            raise NotBuilt("Python.h is missing (on Debian and Ubuntu: apt install python3-dev)")
        cuda, cuda_reason = self._find_cuda()
        folder = Path(self.build_temp).resolve() / "fastgan"
        new = folder / target.name  # moved to its place only after it has been seen to load
        build = Build(new, folder, torch, compiler, cuda, cuda_reason)
        try:
            build.run()
        except NotBuilt as reason:
            if cuda is None or choice("FASTGAN_CUDA") == "require":
                raise
            say(f"CUDA kernels left out: {reason}; building the CPU kernels alone")
            build = Build(new, folder, torch, compiler, None, str(reason))
            build.run()
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(new, target)
        say(build.summary)

    @staticmethod
    def _find_cuda() -> tuple[Cuda | None, str]:
        wanted = choice("FASTGAN_CUDA")
        if wanted == "skip":
            return None, "FASTGAN_CUDA=skip"
        try:
            if not any((ROOT / "csrc/cuda").glob("*.cu")):
                raise NotBuilt("this source tree has no CUDA kernels")
            return Cuda.find(), ""
        except NotBuilt as reason:
            if wanted == "require":
                raise
            return None, str(reason)

    def copy_extensions_to_source(self) -> None:
        """For --inplace and editable installs: replaced in one step, as running programs may have the old file open."""
        package = self.get_finalized_command("build_py")
        for ext in self.extensions:
            in_source, built = self._get_inplace_equivalent(package, ext)
            if Path(built).exists():
                replace_file(Path(built), Path(in_source))


def replace_file(source: Path, target: Path) -> None:
    beside = target.with_name(target.name + ".new")
    shutil.copyfile(source, beside)
    os.replace(beside, target)


class BuildPython(build_py):
    """setuptools' build_py; a pure-Python install keeps the reason why it is one."""

    def run(self) -> None:
        super().run()
        if REASON and not self.editable_mode:
            (Path(self.build_lib) / "fastgan" / NOT_BUILT_FILE).write_text(f"{REASON}\n")


def not_built(reason: str) -> None:
    """Say why there is no extension; an error where one is required."""
    if choice("FASTGAN_BUILD") == "require":
        raise SystemExit(f"fastgan: FASTGAN_BUILD=require, but the extension was not built because {reason}")
    say(f"not built because {reason}; fastgan works in pure PyTorch, without its fast kernels")


def reason_for_pure_python() -> str:
    """Why no extension is even tried, known before any command runs; empty where one is."""
    if choice("FASTGAN_BUILD") == "skip":
        return "FASTGAN_BUILD=skip"
    try:
        find_compiler(), find_ninja(), find_pybind11()
    except NotBuilt as reason:
        return str(reason)
    return ""


REASON = reason_for_pure_python()
if REASON and {"build_ext", "bdist_wheel", "install", "develop", "editable_wheel", "build"} & set(sys.argv):
    not_built(REASON)

setup(
    ext_modules=[] if REASON else [Extension("fastgan._C", sources=[])],
    cmdclass={"build_ext": BuildExtension, "build_py": BuildPython},
)
