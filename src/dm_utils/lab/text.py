"""The lab's two texts and its tokenizer.

The *training text* is the documentation inside the packages installed next to this one; the *evaluation text* is the
documentation inside Python itself (docstrings of the standard library and the topics of ``help()``). Both are read
from source files with :mod:`ast`: nothing is imported, nothing is downloaded, and no text is shipped.
"""

from __future__ import annotations

import ast
import inspect
import multiprocessing
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

SEPARATOR = "\n\n"
"""Written after every document when documents are joined into one stream of tokens."""

SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>")
"""In the order, and therefore with the ids, of Gemma's tokenizer."""

BOS_ID = SPECIAL_TOKENS.index("<bos>")
VOCABULARY_SIZE = 4096
MIN_CHARACTERS = 40
SHARED_WORDS = 16

_SKIPPED_STDLIB = {
    "site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo",
    "ensurepip", "_bundled", "lib-dynload",
}  # fmt: skip
_SKIPPED_PACKAGES = {"__pycache__", "dm_utils"}


def evaluation_text() -> list[str]:
    """Read the documentation of the running interpreter's standard library.

    Returns
    -------
    list of str
        Docstrings in the order of their file's path and line, then the topics of ``help()`` in the order of their
        names; exact duplicates appear once. The same on every machine with the same Python version.

    Raises
    ------
    FileNotFoundError
        If this Python keeps no source files of its standard library.
    """
    return list(_standard_library(Path(sysconfig.get_paths()["stdlib"])))


@lru_cache(maxsize=2)
def _standard_library(folder: Path) -> tuple[str, ...]:
    files = _python_files(folder, _SKIPPED_STDLIB)
    topics = folder / "pydoc_data" / "topics.py"
    docstrings = (text for file in files if file != topics for text in docstrings_of(file))
    documents = tuple(_unique(_cleaned([*docstrings, *_help_topics(topics)])))
    if not documents:
        raise FileNotFoundError(
            f"No documentation found in {folder}: the lab's evaluation text is read from the source files of Python's "
            "standard library, which this installation does not have. Use a standard installation of Python."
        )
    return documents


def _help_topics(file: Path) -> list[str]:
    """Return the topics of ``help()``: the values of the one dictionary literal in ``pydoc_data/topics.py``."""
    if not file.exists():
        return []
    for node in _parsed(file).body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Dict):
            topics = ast.literal_eval(node.value)
            return [topics[name] for name in sorted(topics)]
    return []


def training_text(package: str | None = None, workers: int = 2) -> list[str]:
    """Read the docstrings of the installed packages, without anything that the evaluation text holds.

    Parameters
    ----------
    package : str, optional
        Read this installed package only.
    workers : int
        Number of processes that read files.

    Returns
    -------
    list of str
        Docstrings in the order of their file's path and line, exact duplicates removed. A docstring that shares a run
        of 16 words with the evaluation text (a backport, say) is left out whole.

    Raises
    ------
    FileNotFoundError
        If there is nothing to read.
    """
    folder = Path(sysconfig.get_paths()["purelib"]) / (package or "")
    files = _python_files(folder, _SKIPPED_PACKAGES)
    if not files:
        raise FileNotFoundError(f"No Python files under {folder}: is the package {package!r} installed?")
    if workers == 1:
        per_file = [docstrings_of(file) for file in files]
    else:
        # Not by fork, the default: a copy of a process that holds threads of PyTorch may wait for ever.
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            per_file = list(pool.map(docstrings_of, files, chunksize=64))
    documents = _unique(_cleaned(text for texts in per_file for text in texts))
    return list(_without_overlap(documents, evaluation_text()))


def _python_files(folder: Path, skipped: set[str]) -> list[Path]:
    inside = (file.relative_to(folder) for file in folder.rglob("*.py"))
    kept = [file for file in inside if not skipped.intersection(file.parts)]
    return [folder / file for file in sorted(kept, key=lambda file: file.as_posix())]


def docstrings_of(file: Path) -> list[str]:
    """Return the docstrings of a file's module, classes and functions, in the order of their lines.

    A file that is not valid Python or not readable has none: packages ship templates and broken examples on purpose.
    """
    try:
        tree = _parsed(file)
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError):
        return []
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, owners)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    texts = (ast.get_docstring(node, clean=False) for node in nodes)
    return [text for text in texts if text]


def _parsed(file: Path) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's files are not the reader's concern
        return ast.parse(file.read_bytes())


def _cleaned(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        clean = inspect.cleandoc(text).strip().encode("utf-8", "ignore").decode("utf-8")
        clean = re.sub(r"\r\n?", "\n", clean)
        if len(clean) >= MIN_CHARACTERS:
            yield clean


def _unique(texts: Iterable[str]) -> Iterator[str]:
    return iter(dict.fromkeys(texts))


def _word_runs(text: str) -> Iterator[int]:
    words = text.split()
    length = min(SHARED_WORDS, len(words))
    return (hash(tuple(words[start : start + length])) for start in range(len(words) - length + 1))


def _without_overlap(documents: Iterable[str], held_out: Sequence[str]) -> Iterator[str]:
    known = {run for text in held_out for run in _word_runs(text)}
    return (text for text in documents if known.isdisjoint(_word_runs(text)))


def train_tokenizer(documents: Iterable[str], folder: Path, vocabulary_size: int = VOCABULARY_SIZE) -> None:
    """Train a byte-level BPE and save it as a Hugging Face tokenizer folder.

    Parameters
    ----------
    documents : iterable of str
        The training text.
    folder : Path
        Receives ``tokenizer.json`` and ``tokenizer_config.json``.
    vocabulary_size : int
        Number of entries, the four special tokens and the 256 bytes included.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", BOS_ID)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def pack(documents: Sequence[str], tokenizer: Any, ctx_len: int) -> np.ndarray:
    """Join documents into one stream of tokens and cut it into contexts, each opened by BOS.

    Parameters
    ----------
    documents : sequence of str
        Joined in order, each followed by :data:`SEPARATOR`.
    tokenizer : transformers tokenizer or Path
        The lab's tokenizer, or the folder that holds it.
    ctx_len : int
        Tokens per context, BOS included.

    Returns
    -------
    ndarray of uint16, [context, ctx_len]
        Column 0 is BOS. The tail that does not fill a context is dropped.
    """
    from tokenizers import Tokenizer

    from_folder = isinstance(tokenizer, Path)
    backend = Tokenizer.from_file(str(tokenizer / "tokenizer.json")) if from_folder else tokenizer.backend_tokenizer
    encoded = backend.encode_batch_fast([text + SEPARATOR for text in documents], add_special_tokens=False)
    stream = np.concatenate([np.asarray(one.ids, dtype=np.uint16) for one in encoded])
    n_contexts = len(stream) // (ctx_len - 1)
    contexts = np.full((n_contexts, ctx_len), BOS_ID, dtype=np.uint16)
    contexts[:, 1:] = stream[: n_contexts * (ctx_len - 1)].reshape(n_contexts, ctx_len - 1)
    return contexts
