"""What the explorer's front end asks and what is answered: one shape, two engines.

In a page without a kernel `charts/explorer/engine.js` answers in a Web Worker; in Jupyter and Colab `explorer.Kernel` answers
with PyTorch. Both take a request of this module as JSON and give its answer as JSON; nothing else passes between them.
A vector is a list of numbers, one per token; norms are squared unless their name says `norms`; losses are in nats.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

MAX_CHARACTERS = 10_000  # of a text; what is longer is cut before it is split into tokens
MAX_TOKENS = 256  # of a text, BOS included: as long as the contexts that the lab's model was trained on
LATENTS, CONTEXTS, WRITES, NEIGHBOURS, NEXT = 12, 4, 6, 5, 10  # how many of each an answer lists, at most
BEFORE, AFTER = 8, 4  # tokens of an excerpt around its token
VECTORS = ("x", "sae", "error", "linear", "nonlinear")
EXAMPLES = {
    "A docstring": "Return a list of the files in the given directory, sorted by name. If the path does not exist, a "
    "FileNotFoundError is raised. The list is in arbitrary order unless `sort` is true, and it does not include the special "
    "entries '.' and '..' even if they are present. Symbolic links are followed, and the names are decoded with the file "
    "system's encoding.",
    "Code": "def mean(values, default=None):\n    total = 0\n    for value in values:\n        total += value\n"
    "    return total / len(values) if values else default\n",
    "Ordinary prose": "It was a bright cold day in April, and the clocks were striking thirteen. The man who came up the stairs "
    "had a letter in his hand, and he would not say who had sent it.",
    "The same again": "one two three four one two three four one two three four one two three four one two three four",
    "Other scripts": "naïve café — Ελληνικά, русский, 日本語, العربية, עברית, 👩🏽‍🚀 and 🏳️‍🌈",
}


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


# --- requests ----------------------------------------------------------------------------------------------


class Describe(_Shape):
    """What is there to explore?"""

    kind: Literal["describe"] = "describe"


class Context(_Shape):
    """Give the text of one of the book's own contexts."""

    kind: Literal["context"] = "context"
    index: int


class Decompose(_Shape):
    """Split the SAE's error at every token of a text."""

    kind: Literal["decompose"] = "decompose"
    text: str
    sae: str


class Look(_Shape):
    """Show one token's vectors, latents and neighbours; position 0 is BOS."""

    kind: Literal["look"] = "look"
    text: str
    sae: str
    position: int


class Intervene(_Shape):
    """Put Sae(x) + a·linear + b·nonlinear + Σ (factor − 1)·latent in the place of x and run the later layers again.

    `everywhere`: at every token but BOS, or only at `position`. `latents` maps a latent's number to its factor.
    """

    kind: Literal["intervene"] = "intervene"
    text: str
    sae: str
    position: int
    everywhere: bool = True
    linear: float = 0.0
    nonlinear: float = 0.0
    latents: dict[str, float] = {}


Request = Annotated[Describe | Context | Decompose | Look | Intervene, Field(discriminator="kind")]
REQUEST: TypeAdapter[Any] = TypeAdapter(Request)  # type: ignore[arg-type]  # an annotated union is one, too


# --- answers -----------------------------------------------------------------------------------------------


class SaeEntry(_Shape):
    """One SAE that can be chosen; `size` is how many bytes it takes to fetch (0: nothing)."""

    id: str
    layer: int
    component: str
    architecture: str
    d_sae: int
    l0: float
    size: int


class Description(_Shape):
    """What there is: SAEs, contexts, the first position that the error maps were fitted at, and the bytes to fetch before any SAE."""

    profile: str
    title: str
    default: str
    skip: int
    n_contexts: int
    max_tokens: int
    size: int
    examples: dict[str, str]
    saes: list[SaeEntry]


class Excerpt(_Shape):
    """A token and the text around it."""

    before: str
    token: str
    after: str


class Text(_Shape):
    """A text."""

    text: str


class Tokens(_Shape):
    """Every token's scalars. `variance` is ‖x − mean‖²; `probe` and `lookup` predict `error_norm2` (Eq. 10; the token's mean).

    `loss` of token t is −ln p(token t + 1): one entry fewer. `loss_spliced` has Sae(x) at every token but BOS.
    """

    tokens: list[str]
    truncated: bool
    x_norm2: list[float]
    sae_norm2: list[float]
    error_norm2: list[float]
    linear_norm2: list[float]
    nonlinear_norm2: list[float]
    variance: list[float]
    l0: list[int]
    probe: list[float]
    lookup: list[float]
    loss: list[float]
    loss_spliced: list[float]


class Write(_Shape):
    """A token that a direction raises, and by how much per unit of length (final gain × unembedding; no soft cap)."""

    token: str
    weight: float


class Seen(Excerpt):
    """Where in the book's text a latent is strongest."""

    value: float


class Latent(_Shape):
    """An active latent: the length of what it writes, and the cosine of that with the SAE's error."""

    latent: int
    value: float
    cosine: float
    contexts: list[Seen]
    writes: list[Write]


class Here(_Shape):
    """Another token of this text and the cosine of the nonlinear errors."""

    position: int
    cosine: float


class There(Excerpt):
    """A token of the book's own text and the cosine of the nonlinear errors."""

    cosine: float


class View(_Shape):
    """One token: norms and cosines in the order of `VECTORS`, its strongest latents, its nearest tokens."""

    norms: list[float]
    cosines: list[list[float]]
    latents: list[Latent]
    here: list[Here]
    there: list[There]


class Next(_Shape):
    """A next token with its probability before and after the intervention."""

    token: str
    before: float
    after: float


class Outcome(_Shape):
    """The next token's distribution at the position and its KL(before ‖ after); `mean_kl` over every token that can change."""

    before: list[Next]
    after: list[Next]
    kl: float
    mean_kl: float
    loss_before: float | None
    loss_after: float | None


ANSWERS: dict[str, type[_Shape]] = {
    "describe": Description,
    "context": Text,
    "decompose": Tokens,
    "look": View,
    "intervene": Outcome,
}
