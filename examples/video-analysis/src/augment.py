"""Augmentation for training: flips, crops and colour jitter as CenterFace's authors describe them."""

from torchvision import transforms

augment = transforms.Compose(
    [
        transforms.RandomHorizontalFlip(),
        transforms.RandomResizedCrop(800, scale=(0.3, 1.0)),
        transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
        transforms.ToTensor(),
    ]
)
