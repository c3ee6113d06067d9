"""slq/_ghosts.py: copies of converged values are counted, and genuine neighbours are not."""

import numpy as np
import pytest
import scipy.fft

import slq
from slq._ghosts import ghost_warning, ghosts
from slq.errors import GhostWarning
from tests.problems import hessian_like, strakos

N = 1000


def operator(eigenvalues, dtype):
    """With these eigenvalues, and eigenvectors from two cosine transforms with random signs: O(n log n)."""
    n = len(eigenvalues)
    first, second = np.random.default_rng(0).choice([-1.0, 1.0], (2, n)).astype(dtype)
    eigenvalues = np.asarray(eigenvalues).astype(dtype)

    def product(x):
        y = scipy.fft.dct(scipy.fft.dct(x * first, norm="ortho") * second, norm="ortho") * eigenvalues
        return scipy.fft.idct(scipy.fft.idct(y, norm="ortho") * second, norm="ortho") * first

    return slq.aslinearoperator(product, like=np.empty(n, dtype), batched=True)


pytestmark = pytest.mark.filterwarnings("ignore::slq.errors.GhostWarning")  # of the runs; asked for below


def run(eigenvalues, dtype, num_steps, reorthogonalize=False):
    """Two probes of it."""
    A = operator(eigenvalues, dtype)
    return slq.spectral_measure(A, num_probes=2, num_steps=num_steps, reorthogonalize=reorthogonalize, check=False)


def copies(measure, eigenvalues):
    """Ritz values beyond the first near each isolated eigenvalue."""
    distance = 1e-4 * measure.scale if measure.eps > 1e-10 else 1e-7 * measure.scale
    alone = eigenvalues[eigenvalues > 0.5]  # the outliers of `hessian_like`
    near = np.abs(measure.nodes[:, :, None] - alone) <= distance
    return np.maximum(near.sum(axis=1) - 1, 0).sum(axis=1)


@pytest.mark.parametrize(("dtype", "num_steps"), [(np.float64, 100), (np.float64, 200), (np.float32, 60)])
def test_ghosts_of_outliers_are_counted(dtype, num_steps):
    eigenvalues = hessian_like(N)
    measure = run(eigenvalues, dtype, num_steps)
    found, truth = ghosts(measure), copies(measure, eigenvalues)
    # Measured 0.6 to 1.05 of those near an outlier: some are still on their way.
    assert (found <= 1.1 * truth).all()
    assert (found >= 0.5 * truth).all()
    assert (truth >= 0.1 * num_steps).all()
    warning = ghost_warning(measure)
    assert isinstance(warning, GhostWarning)
    assert f"took about {found.mean():.0f} of the {num_steps} steps" in str(warning)
    # The mends that it names.
    for mend in (40, True):
        assert ghost_warning(run(eigenvalues, dtype, num_steps, mend)) is None


def test_the_extra_steps_are_those_that_orthogonal_runs_save():
    # As many steps less the ghosts, reorthogonalised, resolve as much: half of them less is better, half more worse.
    eigenvalues = hessian_like(N)
    measure = run(eigenvalues, np.float64, 100)
    truth = run(eigenvalues, np.float64, 120, True).quadratic_forms(np.log).mean()
    error = abs(measure.quadratic_forms(np.log).mean() - truth)
    lost = int(ghosts(measure).mean())
    better, worse = (
        abs(run(eigenvalues, np.float64, 100 - steps, True).quadratic_forms(np.log).mean() - truth)
        for steps in (lost // 2, lost + lost // 2)
    )
    assert better < error < worse


SILENT = {
    "uniform": np.linspace(0.01, 1, N),
    "clusters of width 1e-14": np.repeat(np.arange(1.0, 11.0), N // 10) + 1e-14 * np.linspace(0, 1, N),
    "clusters of width 1e-8": np.repeat(np.arange(1.0, 11.0), N // 10) + 1e-8 * np.random.default_rng(0).random(N),
    "ten eigenvalues": np.repeat(np.arange(1.0, 11.0), N // 10),
    "three eigenvalues": np.repeat([0.5, 2.0, 3.0], N // 3),
    "identity": np.ones(N),
    "rank three": np.append(np.zeros(N - 3), [1.0, 2.0, 3.0]),
    "Laplacian of a path": 2 - 2 * np.cos(np.pi * np.arange(N) / N),
    "Laplacian of a grid": np.add.outer(*[2 - 2 * np.cos(np.pi * np.arange(32) / 32)] * 2).ravel(),
    "Strakoš": strakos(N, rho=0.99),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("spectrum", SILENT)
def test_neighbours_and_repeats_are_no_ghosts(spectrum, dtype):
    for num_steps in (20, 50, 100):
        measure = run(SILENT[spectrum], dtype, num_steps)
        assert ghosts(measure).max() <= (0 if dtype is np.float64 else 4)  # measured; a tenth of the steps warns
        assert ghost_warning(measure) is None


def test_full_reorthogonalisation_has_none():
    # Two genuine eigenvalues nearer than rounding can tell: Wilkinson's matrix.
    diagonal = np.abs(np.arange(-10.0, 11.0))
    matrix = np.diag(diagonal) + np.diag(np.ones(20), 1) + np.diag(np.ones(20), -1)
    measure = slq.spectral_measure(matrix, num_probes=2, num_steps=21)
    assert np.diff(measure.nodes[:, -2:]).max() < 1e-12
    assert ghosts(measure).tolist() == [0, 0]


def test_one_step_has_no_ghosts():
    assert ghosts(run(hessian_like(N), np.float64, 1)).tolist() == [0, 0]
