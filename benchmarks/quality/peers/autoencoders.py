"""pythae's VAE, IWAE and VQVAE (Chadebec, Vincent & Allassonnière 2022, arXiv:2206.08309) with the library's networks.

Trained by their own loss. VAE and IWAE are scored by our bound: log 1/K Σ p(x, z_k) / q(z_k | x), z_k ~ q(z | x).
"""

from __future__ import annotations

import contextlib
import io
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.quality.peers.descent import Descent, descend

LATENTS = 32


class Autoencoder:
    """One of pythae's models on binary images ``(n, H, W, 1)`` uint8."""

    def __init__(self, kind: str, *, latents: int = LATENTS, draws: int = 5, seed: int = 0) -> None:
        """``kind``: ``vae`` or ``iwae``; ``draws`` of z per row while training, iwae only."""
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            from pythae.models import IWAE, VAE, IWAEConfig, VAEConfig
        torch.manual_seed(seed)
        about: dict[str, Any] = {"input_dim": (1, 28, 28), "latent_dim": latents, "reconstruction_loss": "bce"}
        self.model = VAE(VAEConfig(**about)) if kind == "vae" else IWAE(IWAEConfig(**about, number_samples=draws))

    def fit(self, train: NDArray[np.uint8], valid: NDArray[np.uint8], *, seconds: float, seed: int, threads: int,
            learning_rate: float = 1e-3) -> Descent:  # fmt: skip
        """Train for so many seconds."""
        return descend(
            self.model, self._loss, _pixels(train), _pixels(valid[:2000]), seconds=seconds, seed=seed, threads=threads,
            learning_rate=learning_rate,
        )  # fmt: skip

    @property
    def parameters(self) -> int:
        return sum(each.numel() for each in self.model.parameters())

    def log_prob(self, x: NDArray[np.uint8], samples: int, *, seed: int = 0) -> NDArray[np.float64]:
        """Return the bound of each row ``(n,)``, nats."""
        generator = torch.Generator().manual_seed(seed)
        bounds = []
        with torch.no_grad():
            for rows in _pixels(x).split(20):
                code = self.model.encoder(rows)
                mean, log_variance = code.embedding[:, None], code.log_covariance[:, None]
                eps = torch.randn(len(rows), samples, mean.shape[-1], generator=generator)
                z = mean + torch.exp(0.5 * log_variance) * eps
                p = self.model.decoder(z.flatten(0, 1)).reconstruction.reshape(len(rows), samples, -1)
                p, target = p.clamp(1e-7, 1 - 1e-7), rows.reshape(len(rows), 1, -1)
                likelihood = torch.where(target > 0.5, p.log(), (-p).log1p()).sum(-1)
                prior = -0.5 * (z * z + math.log(2 * math.pi)).sum(-1)
                posterior = -0.5 * (eps * eps + log_variance + math.log(2 * math.pi)).sum(-1)
                bounds.append(torch.logsumexp(likelihood + prior - posterior, 1) - math.log(samples))
        return torch.cat(bounds).double().numpy()

    def _loss(self, rows: Tensor) -> Tensor:
        from pythae.data.datasets import DatasetOutput

        loss: Tensor = self.model(DatasetOutput(data=rows)).loss
        return loss


def _pixels(x: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x[..., 0][:, None])).float()


class VectorQuantised:
    """pythae's VQVAE on grey images ``(n, 28, 28, 1)`` uint8, its codebook by exponential averages.

    The networks are those that the library has for the model and MNIST, but that one layer of each has stride 1 in the
    place of 2: so there are 7 × 7 codes, as ours has.
    """

    def __init__(self, *, codes: int, dimensions: int = 16, seed: int = 0) -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            from pythae.models import VQVAE, VQVAEConfig
            from pythae.models.nn.benchmarks.mnist import Decoder_ResNet_VQVAE_MNIST, Encoder_ResNet_VQVAE_MNIST
        torch.manual_seed(seed)
        config = VQVAEConfig(input_dim=(1, 28, 28), latent_dim=dimensions, num_embeddings=codes, use_ema=True)
        encoder, decoder = Encoder_ResNet_VQVAE_MNIST(config), Decoder_ResNet_VQVAE_MNIST(config)
        encoder.layers[2] = torch.nn.Sequential(torch.nn.Conv2d(128, 128, 3, 1, padding=1))
        decoder.layers[1] = torch.nn.ConvTranspose2d(128, 128, 3, 1, padding=1)
        last = decoder.layers[4][0]
        decoder.layers[4][0] = torch.nn.ConvTranspose2d(last.in_channels, 1, 3, 2, padding=1, output_padding=1)
        self.model, self.codes, self.used = VQVAE(config, encoder=encoder, decoder=decoder), codes, 0.0

    def fit(self, train: NDArray[np.uint8], valid: NDArray[np.uint8], *, seconds: float, seed: int, threads: int,
            learning_rate: float = 1e-3) -> Descent:  # fmt: skip
        """Train for so many seconds on pixels in 0 … 1."""
        return descend(
            self.model, self._loss, _pixels(train) / 255, _pixels(valid[:2000]) / 255, seconds=seconds, seed=seed,
            threads=threads, learning_rate=learning_rate,
        )  # fmt: skip

    @property
    def parameters(self) -> int:
        return sum(each.numel() for each in self.model.parameters())

    @property
    def bits(self) -> float:
        return 49 * math.log2(self.codes)

    def errors(self, x: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the mean squared error of each row's pixels in 0 … 1, ``(n,)``."""
        parts, chosen = [], []
        with torch.no_grad():
            for rows in (_pixels(x) / 255).split(200):
                answer = self._run(rows)
                parts.append(torch.square(answer.recon_x - rows).mean((1, 2, 3)))
                chosen.append(answer.quantized_indices.flatten())
        self.used = len(torch.unique(torch.cat(chosen))) / self.codes
        return torch.cat(parts).double().numpy()

    def _loss(self, rows: Tensor) -> Tensor:
        loss: Tensor = self._run(rows).loss
        return loss

    def _run(self, rows: Tensor) -> Any:
        from pythae.data.datasets import DatasetOutput

        return self.model(DatasetOutput(data=rows))
