"""How fast vitlab is, beside timm, torchvision and plain PyTorch: scripts for its maintainers, see README.md."""
