from tests import shapes as shapes  # jaxtyping imports `tests` alone for its type checker, `tests.shapes.check`
