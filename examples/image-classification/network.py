"""A small convolutional network for 8 x 8 grey digits; travels in the model folder beside its weights."""

import torch
from torch import nn


class DigitNet(nn.Module):
    """Two convolutions and two linear layers: (n, 1, 8, 8) to (n, 10) logits."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(64 * 4 * 4, 64),
            nn.ReLU(),
            nn.Linear(64, classes),
        )

    def forward(self, digits: torch.Tensor) -> torch.Tensor:
        """Logits of a batch of digits."""
        logits: torch.Tensor = self.head(self.features(digits))
        return logits
