"""Trains the face-quality head that the first version of the pipeline used."""

import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EPOCHS = 40


class QualityHead(nn.Module):
    def __init__(self, width: int = 512) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 1), nn.Sigmoid())

    def forward(self, features):
        return self.layers(features).squeeze(-1)


def main() -> None:
    table = pd.read_csv("result/quality_labels.csv")
    features = torch.load("cache/features.pt")
    dataset = TensorDataset(features, torch.tensor(table["quality"].to_numpy()))
    head = QualityHead()
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)
    for epoch in range(EPOCHS):
        for batch, target in DataLoader(dataset, batch_size=64, shuffle=True):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(head(batch), target)
            loss.backward()
            optimizer.step()
        print(epoch, float(loss))
    torch.save(head.state_dict(), "checkpoints/quality.pth.tar")


main()
