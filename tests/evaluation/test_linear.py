"""The linear probe against scikit-learn's logistic regression, which solves the same convex problem."""

import torch
from sklearn.linear_model import LogisticRegression

from vitlab.evaluation.classifiers import fit_linear_probe


def clusters(n: int, seed: int, spread: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(3, (n,), generator=generator)
    return centers[labels] + spread * torch.randn(n, 8, generator=generator), labels


def test_the_optimum_is_scikit_learns() -> None:
    (x, y), strength = clusters(300, seed=1), 0.01
    probe = fit_linear_probe((x, y), clusters(50, seed=2), 3, strengths=(strength,))
    # scikit-learn sums over images and divides by C: C = 1 / (λ N)
    oracle = LogisticRegression(C=1 / (strength * len(x)), tol=1e-8, max_iter=1000)
    oracle.fit((x - x.mean(0)) / x.std(0), y)
    assert torch.allclose(probe.weight, torch.from_numpy(oracle.coef_).float(), atol=2e-3)


def test_the_strength_is_chosen_on_held_out_images() -> None:
    train, held_out = clusters(30, seed=1, spread=2.5), clusters(500, seed=2, spread=2.5)
    chosen = fit_linear_probe(train, held_out, 3)

    def right(probe: object) -> float:
        return float((probe.logits(held_out[0]).argmax(1) == held_out[1]).float().mean())  # type: ignore[attr-defined]

    assert right(chosen) == max(right(fit_linear_probe(train, held_out, 3, (s,))) for s in (1.0, 0.1, 1e-3, 1e-6))
    assert chosen.strength > 1e-6


def test_a_constant_feature_does_no_harm() -> None:
    x, y = clusters(100, seed=1)
    x[:, 0] = 7.0
    probe = fit_linear_probe((x, y), (x, y), 3)
    assert torch.isfinite(probe.logits(x)).all()
