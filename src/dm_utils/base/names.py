"""The names of what is measured: the vectors of an SAE's decomposition and the parts of its error."""

PARTS = ("error", "linear", "nonlinear")
VECTORS = ("x", "sae", *PARTS)
PART_NAMES = {"error": "SaeError", "linear": "LinearError", "nonlinear": "NonlinearError"}
PART_TITLES = {"error": "SAE error", "linear": "linear error", "nonlinear": "nonlinear error"}
VECTOR_NAMES = {"x": "x", "sae": "Sae(x)", **PART_NAMES}
