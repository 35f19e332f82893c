"""How fast vitlab is, beside timm, torchvision and plain PyTorch: scripts for its maintainers, see README.md."""

from vitlab import trust

trust("benchmarks")  # whose callbacks the scripts add to a configuration
